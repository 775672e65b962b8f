//! When a member counts as ready: it is asked until it answers.

use std::net::SocketAddr;
use std::time::Duration;

use etcd_client::GetOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Error;
use super::client::{client, connect};
use crate::netns::Namespace;

/// Resolves when a linearizable read at `endpoint`, made from `namespace`, succeeds.
pub(super) async fn answers(namespace: Namespace, endpoint: SocketAddr) -> Result<(), Error> {
    let client = client(&namespace, &[endpoint]).await?;
    retry(async || {
        let options = GetOptions::new().with_count_only();
        client.clone().get("harness/ready", Some(options)).await.is_ok()
    })
    .await;
    Ok(())
}

/// Resolves when `endpoint` answers an HTTP request from `namespace`, no matter what.
pub(super) async fn answers_http(namespace: Namespace, endpoint: SocketAddr) -> Result<(), Error> {
    let ask = async || {
        let mut stream = connect(&namespace, endpoint).await?;
        stream.write_all(b"GET /version HTTP/1.0\r\n\r\n").await?;
        stream.read_u8().await
    };
    retry(async || ask().await.is_ok()).await;
    Ok(())
}

/// Tries until it succeeds, with short breaks, giving each try a quarter of a second.
async fn retry(mut attempt: impl AsyncFnMut() -> bool) {
    const TRY_FOR: Duration = Duration::from_millis(250);
    let mut pause = Duration::from_millis(1);
    while !tokio::time::timeout(TRY_FOR, attempt()).await.unwrap_or(false) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
