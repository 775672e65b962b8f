//! What a running relay is asked over HTTP.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;

use super::Error;
use crate::netns::Namespace;

/// Where the daemon serves `/readyz` and `/metrics`, in its node's namespace.
pub(super) const STATUS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8286);
/// One request to the daemon's status server.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// An HTTP connection to the daemon's status server, kept open between requests.
pub(super) struct StatusClient {
    node: String,
    pub(super) namespace: Namespace,
    connection: Mutex<Option<SendRequest<Empty<Bytes>>>>,
}

impl StatusClient {
    pub(super) fn new(node: &str, namespace: Namespace) -> Self {
        Self { node: node.to_owned(), namespace, connection: Mutex::new(None) }
    }

    /// Status code and body of a GET.
    pub(super) async fn get(&self, path: &str) -> Result<(u16, String), Error> {
        let error = |why: String| Error::Query { node: self.node.clone(), what: path.to_owned(), why };
        tokio::time::timeout(ANSWERED_WITHIN, self.request(path))
            .await
            .map_err(|_| error(format!("no answer within {} s", ANSWERED_WITHIN.as_secs())))?
            .map_err(error)
    }

    async fn request(&self, path: &str) -> Result<(u16, String), String> {
        let mut connection = self.connection.lock().await;
        if let Some(mut kept) = connection.take().filter(|sender| !sender.is_closed()) {
            // The server ends an idle connection, perhaps while this is under way (RFC 9112 section 9.3.1): what it did not
            // answer is asked again on a new one.
            if let Ok(answer) = ask(&mut kept, path).await {
                *connection = Some(kept);
                return Ok(answer);
            }
        }
        let mut sender = self.connect().await?;
        let answer = ask(&mut sender, path).await?;
        *connection = Some(sender);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        // Loopback answers a connect at once, so a blocking one in the visiting thread will do.
        let stream = self
            .namespace
            .run(|| {
                let stream = TcpStream::connect_timeout(&STATUS, ANSWERED_WITHIN)?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                tokio::net::TcpStream::from_std(stream)
            })
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> Result<(u16, String), String> {
    let request = hyper::Request::get(path)
        .header("host", STATUS.to_string())
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((code, String::from_utf8_lossy(&body).into_owned()))
}
