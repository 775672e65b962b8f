//! `/healthz`, `/readyz`, `/metrics`, `/status` and `/routes`.
//!
//! The bodies of the first two are flanneld's, so that probes written for it keep working.

mod kernel;
mod metrics;
pub mod status;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::{Duration, Instant},
};

use crate::host::port;

pub use metrics::Sources;

/// Why the daemon is not ready; it is when nothing is wrong.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    starting: Option<String>,
    lease: Option<String>,
    /// When the lease was last written, and how long it lives from then.
    written: Option<(Instant, Option<Duration>)>,
}

impl State {
    fn expired(&self) -> Option<String> {
        let (at, ttl) = self.written?;
        (at.elapsed() >= ttl?).then(|| {
            let age = at.elapsed().as_secs();
            format!("the lease has expired: it was written {age} s ago and could not be renewed since")
        })
    }
}

impl Health {
    /// Not ready, for the reason that start-up is at `stage`.
    #[must_use]
    pub fn starting(stage: &str) -> Self {
        Self { state: Mutex::new(State { starting: Some(stage.to_owned()), lease: None, written: None }) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Start-up waits for this.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.change(|state| state.starting = Some(reason.into()));
    }

    /// Start-up is over.
    pub fn started(&self) {
        self.change(|state| state.starting = None);
    }

    /// This node's lease is not its own any more.
    pub fn lease_lost(&self, reason: String) {
        self.change(|state| state.lease = Some(reason));
    }

    /// This node holds its lease.
    pub fn lease_held(&self) {
        self.change(|state| state.lease = None);
    }

    /// This node's lease was written just now, to live for `ttl`.
    pub fn lease_written(&self, ttl: Option<Duration>) {
        self.change(|state| state.written = Some((Instant::now(), ttl)));
    }

    /// This node's lease in time.
    pub fn lease(&self) -> Option<status::LeaseStatus> {
        let written = self.state.lock().unwrap_or_else(PoisonError::into_inner).written;
        written.map(|(at, ttl)| status::LeaseStatus {
            age_seconds: at.elapsed().as_secs(),
            ends_in_seconds: ttl.map(|ttl| ttl.saturating_sub(at.elapsed()).as_secs()),
        })
    }

    /// Why the daemon is not ready, if it is not.
    pub fn not_ready(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.starting.clone().or_else(|| state.lease.clone()).or_else(|| state.expired())
    }
}

/// The port for health and metrics could not be opened.
#[derive(Debug, Error)]
#[error("listening on {address} for health checks: {source}; choose with --healthz-ip and --healthz-port")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Opens the port.
///
/// # Errors
/// It stays in use or the address is not local.
pub async fn listen(ip: IpAddr, port: u16) -> Result<TcpListener, ListenError> {
    let address = SocketAddr::new(ip, port);
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let listener = port::once_free(async || TcpListener::bind(address).await, in_use).await;
    listener.map_err(|source| ListenError { address, source })
}

/// Answers requests until the future is dropped.
pub async fn serve(listener: TcpListener, sources: Arc<Sources>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: the next attempt would fail at once as well.
                tracing::warn!(%error, "accepting a health check");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        serve_connection(stream, &sources);
    }
}

/// Answers on one connection, by a task of its own.
pub fn serve_connection<S>(stream: S, sources: &Arc<Sources>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let sources = Arc::clone(sources);
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(request.method(), request.uri().path(), &sources);
            async { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10))
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "status connection");
        }
    });
}

fn answer(method: &Method, path: &str, sources: &Sources) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD".into());
    }
    match path {
        "/healthz" => text(StatusCode::OK, "flanneld is running".into()),
        "/readyz" => match sources.health.not_ready() {
            None => text(StatusCode::OK, "flanneld is ready".into()),
            Some(reason) => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("flanneld is not ready yet: {reason}"))
            }
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, sources.render());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/routes" => json(&sources.routes()),
        "/status" => json(&sources.status()),
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz, /metrics, /status or /routes".into()),
    }
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    // What has no maps and no failing parts always serializes.
    let mut response = text(StatusCode::OK, serde_json::to_string(value).unwrap_or_default());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_ready_when_it_has_started_and_holds_its_lease() {
        let health = Health::starting("waiting for etcd");
        assert_eq!(health.not_ready().as_deref(), Some("waiting for etcd"));
        health.started();
        assert_eq!(health.not_ready(), None);
        health.lease_lost("the lease is gone".into());
        assert_eq!(health.not_ready().as_deref(), Some("the lease is gone"));
        health.lease_held();
        assert_eq!(health.not_ready(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_daemon_is_not_ready_when_the_time_of_its_lease_is_over() {
        let health = Health::starting("starting");
        health.started();
        health.lease_written(Some(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(health.not_ready(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.not_ready().is_some_and(|reason| reason.contains("written 60 s ago")));
        health.lease_written(None);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(health.not_ready(), None);
    }

    #[test]
    fn probes_written_for_flanneld_get_its_answers() {
        let sources =
            Sources::new(Arc::new(Health::starting("waiting for etcd")), std::num::NonZeroUsize::MIN);
        let status = |path| answer(&Method::GET, path, &sources).status();
        assert_eq!(status("/healthz"), StatusCode::OK);
        assert_eq!(status("/readyz"), StatusCode::SERVICE_UNAVAILABLE);
        sources.health.started();
        assert_eq!(status("/readyz"), StatusCode::OK);
        assert_eq!(status("/"), StatusCode::NOT_FOUND);
        assert_eq!(answer(&Method::POST, "/healthz", &sources).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
