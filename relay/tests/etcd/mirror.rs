//! The route table as it follows a registry, and what it says about that.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use relay::{
    datapath::routes::Routes,
    lease::Lease,
    network::Network,
    registry::{
        etcd::Etcd,
        follow::{FollowStats, Follower},
        table::{LeaseTable, OwnLease},
    },
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::subscriber::DefaultGuard;

use crate::server::PATIENCE;

/// A follower at work. What this thread logs is kept while it lives.
pub(crate) struct Mirror {
    pub(crate) registry: Arc<Etcd>,
    pub(crate) own: watch::Receiver<Option<OwnLease>>,
    routes: Arc<Routes>,
    stats: Arc<FollowStats>,
    public_ip: watch::Sender<Ipv4Addr>,
    log: Log,
    _logging: DefaultGuard,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Mirror {
    pub(crate) fn start(registry: Etcd) -> Self {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let logging = tracing::subscriber::set_default(subscriber);

        let registry = Arc::new(registry);
        let network = Network::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let own = Lease { subnet: "10.5.1.0/24".parse().unwrap(), public_ip: Ipv4Addr::new(192, 0, 2, 200) };
        let routes = Arc::new(Routes::new(network.prefix, network.subnet_len));
        let stats = Arc::new(FollowStats::default());
        let (sender, receiver) = watch::channel(None);
        let (public_ip, address) = watch::channel(own.public_ip);
        let follower = Follower {
            registry: Arc::clone(&registry),
            table: LeaseTable::new(network, own),
            routes: Arc::clone(&routes),
            own: sender,
            public_ip: address,
            stats: Arc::clone(&stats),
        };
        tokio::spawn(follower.run());
        Self { registry, own: receiver, routes, stats, public_ip, log, _logging: logging }
    }

    pub(crate) fn route(&self, third: u8) -> Option<Ipv4Addr> {
        self.routes.lookup(Ipv4Addr::new(10, 5, third, 9))
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let waited = timeout(PATIENCE, async {
            while !is(self) {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "no {what} within {PATIENCE:?}; the log:\n{}", self.log());
    }

    pub(crate) async fn has_route(&mut self, third: u8) {
        self.until(&format!("route to 10.5.{third}.0/24"), |mirror| mirror.route(third).is_some()).await;
    }

    pub(crate) async fn has_no_route(&mut self, third: u8) {
        self.until(&format!("end of 10.5.{third}.0/24"), |mirror| mirror.route(third).is_none()).await;
    }

    pub(crate) async fn is_connected(&mut self) {
        self.until("watch", |mirror| mirror.stats.connected.load(Relaxed)).await;
    }

    pub(crate) async fn is_lost(&mut self) {
        self.until("lost watch", |mirror| !mirror.stats.connected.load(Relaxed)).await;
    }

    /// Waits until it has been tried this many times more to come back.
    pub(crate) async fn is_tried(&mut self, times: u64) {
        let before = self.reconnects();
        self.until("attempts to come back", |mirror| mirror.reconnects() >= before + times).await;
    }

    /// Gives the node another address, which ends the watch.
    pub(crate) async fn move_away(&mut self) {
        self.public_ip.send_replace(Ipv4Addr::new(192, 0, 2, 201));
    }

    pub(crate) fn reconnects(&self) -> u64 {
        self.stats.reconnects.load(Relaxed)
    }

    /// It was tried to come back no more often than the pauses allow: each is half of 100 ms at least, doubling.
    pub(crate) fn assert_not_spinning(&self, within: Duration) {
        let most = 8 + within.as_secs() / 2;
        assert!(self.reconnects() <= most, "{} attempts in {within:?}\n{}", self.reconnects(), self.log());
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// How many lines of the log have this in them.
    pub(crate) fn said(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }
}
