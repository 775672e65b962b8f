//! A client for the harness itself, whose connections are made inside a namespace of the lab.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Channel, Client};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::Endpoint;

use super::Error;
use crate::netns::Namespace;

/// How long one attempt to connect may take: a lab's round trip is far below a millisecond.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// A client whose connections, reconnections included, are opened in `namespace`.
///
/// It uses one of the endpoints, and moves on to the next when that cannot be connected to or falls silent for
/// 2 s. It connects when first used, so an endpoint that is down is no error here.
///
/// # Errors
/// When the client library refuses, which it has no known reason to.
pub async fn client(namespace: &Namespace, endpoints: &[SocketAddr]) -> Result<Client, Error> {
    let namespace = namespace.clone();
    let endpoints: Arc<[SocketAddr]> = endpoints.into();
    let next = Arc::new(AtomicUsize::new(0));
    let named = endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");

    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let (namespace, endpoints, next) = (namespace.clone(), endpoints.clone(), next.clone());
        async move {
            let mut last = io::Error::from(io::ErrorKind::InvalidInput);
            for _ in 0..endpoints.len() {
                let endpoint = endpoints[next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
                match connect(&namespace, endpoint).await {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    });
    // The authority is for the request's header only; the connector decides where to.
    let channel = Endpoint::from_static("http://etcd")
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(1))
        .connect_with_connector_lazy(connector);
    let client = Box::pin(Client::from_channel(Channel::Tonic(channel), None)).await;
    client.map_err(|source| Error::Client { endpoints: named, source: Box::new(source) })
}

/// Connects from `namespace` to `endpoint`.
///
/// # Errors
/// When the namespace may not be entered, the peer refuses, or a second passes.
pub(super) async fn connect(namespace: &Namespace, endpoint: SocketAddr) -> io::Result<TcpStream> {
    let socket = namespace.run(TcpSocket::new_v4).map_err(io::Error::other)??;
    socket.set_nodelay(true)?;
    tokio::time::timeout(CONNECT_WITHIN, socket.connect(endpoint)).await?
}
