//! What stands between a relay and its etcd: a proxy of TCP that can be slow, deaf or broken, and one of gRPC that
//! refuses the calls about leases, or gives up on writes that it has passed on.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// What the proxy does with connections, those under way among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Octets pass.
    Open,
    /// Octets pass after a while, in each direction.
    Slow(Duration),
    /// Connections are accepted and stay; no octet passes.
    Deaf,
    /// Connections are accepted and closed.
    Broken,
}

/// A proxy that ends with the test.
pub(crate) struct Proxy {
    pub(crate) url: String,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// In front of the etcd at `url`, open.
    pub(crate) async fn start(url: &str) -> Self {
        let target: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (mode, modes) = watch::channel(Mode::Open);
        let accepted = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let counted = Arc::clone(&accepted);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Relaxed);
                connections.spawn(carry(client, target, modes.clone()));
            }
        });
        Self { url, mode, accepted, _tasks: tasks }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut modes: watch::Receiver<Mode>) {
    let (mut one, mut other) = (modes.clone(), modes.clone());
    let broken = modes.wait_for(|mode| *mode == Mode::Broken);
    let pumps = async {
        let Ok(server) = TcpStream::connect(target).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        // Either end closes both, as it does for a connection without a proxy.
        tokio::select! {
            () = pump(from_client, to_server, &mut one) => {}
            () = pump(from_server, to_client, &mut other) => {}
        }
    };
    tokio::select! {
        _ = broken => {}
        () = pumps => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, modes: &mut watch::Receiver<Mode>) {
    let mut octets = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut octets).await {
        let mode = *modes.borrow_and_update();
        match mode {
            Mode::Open | Mode::Broken => {}
            Mode::Slow(pause) => sleep(pause).await,
            Mode::Deaf => {
                let _ = modes.wait_for(|mode| *mode != Mode::Deaf).await;
            }
        }
        if to.write_all(&octets[..length]).await.is_err() {
            return;
        }
    }
    let mode = *modes.borrow();
    if mode == Mode::Deaf {
        // The end is not heard of either.
        let _ = modes.wait_for(|mode| *mode != Mode::Deaf).await;
    }
}

/// What the proxy of gRPC does wrong.
#[derive(Default)]
struct Faults {
    refusing: AtomicBool,
    refused: AtomicU64,
    giving_up: AtomicBool,
}

/// How long a write takes to arrive that the proxy gave up on.
const LATE: Duration = Duration::from_secs(1);

/// A proxy of gRPC.
pub(crate) struct Calls {
    pub(crate) url: String,
    faults: Arc<Faults>,
    _tasks: JoinSet<()>,
}

impl Calls {
    /// In front of the etcd at `url`; all calls pass.
    pub(crate) async fn start(url: &str) -> Self {
        let target: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let faults = Arc::<Faults>::default();
        let mut tasks = JoinSet::new();
        let switches = Arc::clone(&faults);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(pass_calls(client, target, Arc::clone(&switches)));
            }
        });
        Self { url, faults, _tasks: tasks }
    }

    /// Whether calls about leases are answered with an error.
    pub(crate) fn refuse_leases(&self, refuse: bool) {
        self.faults.refusing.store(refuse, Relaxed);
    }

    /// Calls answered so.
    pub(crate) fn refused(&self) -> u64 {
        self.faults.refused.load(Relaxed)
    }

    /// Whether writes are answered with an error at once, and arrive a while later.
    pub(crate) fn give_up_writes(&self, give_up: bool) {
        self.faults.giving_up.store(give_up, Relaxed);
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn pass_calls(client: TcpStream, target: SocketAddr, faults: Arc<Faults>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let handshake = http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(server));
    let Ok((sender, connection)) = handshake.await else { return };
    let service = service_fn(move |call: Request<Incoming>| {
        let (mut sender, faults) = (sender.clone(), Arc::clone(&faults));
        async move {
            let path = call.uri().path();
            if faults.refusing.load(Relaxed) && path.starts_with("/etcdserverpb.Lease/") {
                faults.refused.fetch_add(1, Relaxed);
                return Ok(unavailable());
            }
            if faults.giving_up.load(Relaxed) && path == "/etcdserverpb.KV/Txn" {
                let (head, body) = call.into_parts();
                let body = Full::new(body.collect().await?.to_bytes());
                let call = Request::from_parts(head, body.map_err(never).boxed());
                tokio::spawn(pass_late(call, target));
                return Ok(unavailable());
            }
            sender.send_request(call.map(BodyExt::boxed)).await.map(|answer| answer.map(BodyExt::boxed))
        }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(client), service);
    tokio::select! {
        _ = serving => {}
        _ = connection => {}
    }
}

/// On a connection of its own, as the caller's ends with the error.
async fn pass_late(call: Request<Body>, target: SocketAddr) {
    sleep(LATE).await;
    let server = TcpStream::connect(target).await.unwrap();
    let handshake = http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(server));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender.send_request(call).await.unwrap();
}

fn unavailable() -> Response<Body> {
    Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "14")
        .header("grpc-message", "refused by the test")
        .body(Empty::new().map_err(never).boxed())
        .unwrap()
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}
