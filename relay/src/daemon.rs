//! Start-up and shut-down order: the one place that knows all parts.
//!
//! What can fail for good (interface, port, device) is tried before a lease is taken, so that a failed start leaves
//! nothing in the registry.

mod config;
mod ending;
mod error;
mod live;

use std::{net::SocketAddrV4, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use ipnet::Ipv4Net;
use live::Live;
use rtnetlink::Handle;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    control,
    datapath::{
        ENCAPSULATION,
        admission::Admission,
        routes::Routes,
        threads::Running,
        tun::{Queues, Tun, TunError},
    },
    host::{
        blackhole,
        device::{self, DeviceConfig},
        filter::{Filter, FilterError, Manager, Rules},
        guard, netlink,
        notify::{self, Inherited},
        subnet_env::{self, SubnetEnv},
    },
    http::{self, Health, Sources},
    network::{Network, NetworkError},
    registry::{
        Registry, RegistryError,
        acquire::{AcquireError, Claim, Held, acquire},
        backoff::Backoff,
        etcd::Etcd,
        file::File,
        follow::Follower,
        hold::hold,
        table::LeaseTable,
    },
    underlay::{self, Selection, Underlay},
};

pub use config::{Config, FilterConfig, RegistryOptions};
pub use error::DaemonError;

/// The pattern of the device's name.
const DEVICE: &str = "flannel%d";

/// Smallest MTU that IPv4 allows a link (RFC 791).
const MIN_MTU: u32 = 68;

/// Between attempts to read the network config, as in flannel.
const CONFIG_RETRY: Duration = Duration::from_secs(1);

/// How long the data path waits for the first list of leases.
const LISTED_WITHIN: Duration = Duration::from_secs(5);

/// Between two attempts to move the tunnel to an address that could not be bound.
const REBIND_EVERY: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, or until it cannot go on. What an earlier run left open is `inherited`; the device gets
/// these `queues`.
///
/// # Errors
/// What stood in the way.
pub fn run(config: Config, queues: &Queues, inherited: Inherited) -> Result<(), DaemonError> {
    let signalled = ending::signalled().map_err(DaemonError::Signals)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    let result = runtime.block_on(run_until_signal(config, queues, inherited, signalled));
    runtime.shutdown_background();
    result
}

async fn run_until_signal(
    config: Config,
    queues: &Queues,
    inherited: Inherited,
    signalled: oneshot::Receiver<()>,
) -> Result<(), DaemonError> {
    let mut tasks = JoinSet::new();
    if let Some(every) = notify::watchdog_interval() {
        tasks.spawn(feed_watchdog(every));
    }
    let mut started = None;
    let result = tokio::select! {
        result = start_with_registry(config, queues, inherited, &mut tasks, &mut started) => result,
        _ = signalled => Ok(()),
    };
    if started.is_some() {
        tracing::info!("stopping");
        tell("STOPPING=1");
        live::stop(started).await;
    }
    result
}

async fn start_with_registry(
    config: Config,
    queues: &Queues,
    inherited: Inherited,
    tasks: &mut JoinSet<()>,
    started: &mut Option<Running>,
) -> Result<(), DaemonError> {
    match &config.registry {
        RegistryOptions::Etcd(options) => {
            let registry = Arc::new(Etcd::new(options.clone()));
            start_and_watch(config, queues, inherited, registry, tasks, started).await
        }
        RegistryOptions::File(path) => {
            let registry = Arc::new(File::new(path.clone()));
            start_and_watch(config, queues, inherited, registry, tasks, started).await
        }
    }
}

/// Starts everything, then waits for the data path to fail. The data path goes to `started`, to be stopped by the
/// caller, who may drop this future at any point.
async fn start_and_watch<R: Registry>(
    config: Config,
    queues: &Queues,
    mut inherited: Inherited,
    registry: Arc<R>,
    tasks: &mut JoinSet<()>,
    started: &mut Option<Running>,
) -> Result<(), DaemonError> {
    let health = Arc::new(Health::starting("starting"));
    let sources = Arc::new(Sources::new(Arc::clone(&health), queues.count));
    if let Some((ip, port)) = config.healthz {
        let listener = http::listen(ip, port).await?;
        tasks.spawn(http::serve(listener, Arc::clone(&sources)));
    }
    match control::listen(&config.control_socket) {
        Ok(listening) => {
            tasks.spawn(control::serve(listening, Arc::clone(&sources)));
        }
        Err(error) => {
            let path = config.control_socket.display();
            tracing::warn!(%error, %path, "no control socket: `relay status` will get no answer");
        }
    }
    let (netlink, _) = netlink::connect(&[]).await.map_err(DaemonError::Netlink)?;

    let underlay = underlay::choose(&netlink, &config.underlay).await?;
    tracing::info!(
        interface = underlay.interface, address = %underlay.address, public_ip = %underlay.public_ip,
        mtu = underlay.mtu, "underlay chosen"
    );
    let mtu = underlay.mtu.saturating_sub(ENCAPSULATION);
    if mtu < MIN_MTU {
        return Err(DaemonError::Mtu { interface: underlay.interface, mtu: underlay.mtu });
    }

    let network = read_network(&*registry, &health).await?;
    tracing::info!(
        network = %network.prefix, subnet_len = network.subnet_len, min = %network.subnet_min,
        max = %network.subnet_max, port = network.port, "network config read"
    );

    let bound = SocketAddrV4::new(underlay.address, network.port);
    let udp = live::open_udp(&mut inherited, bound, queues.count).await?;
    let tun = Arc::new(live::open_tun(&mut inherited, DEVICE, config.offload, queues)?);
    let previous = subnet_env::previous_subnet(&config.subnet_file);
    let held = take_lease(&*registry, &network, &underlay, &config.subnet_file, &health).await?;
    let subnet = held.lease.subnet;
    let (own, mut own_seen) = watch::channel(None);
    let (public_ip, advertised) = watch::channel(underlay.public_ip);
    // From now on: the kernel may take longer with what follows than a short lease lives.
    tasks.spawn(hold(
        Arc::clone(&registry),
        held,
        own_seen.clone(),
        advertised.clone(),
        config.renew_margin,
        Arc::clone(&health),
    ));
    let device = watch::Sender::new(set_up_device(&netlink, &tun, &network, &held, mtu).await?);
    // Ends with this future, and so before the device goes.
    let mut guards = JoinSet::new();
    guards.spawn(guard_device(tun.name().to_owned(), device.subscribe()));
    let (filter, amiss) = install_filter(config.filter, &network, subnet).await?;
    let (filter_told, filter_amiss) = watch::channel(amiss);
    tasks.spawn(filter.keep(config.filter.resync, filter_told));
    // Rules that accept what is forwarded are not needed everywhere, so nothing waits for them.
    let masquerade = config.filter.masquerade.then_some(filter_amiss);
    blackhole::clean_up(&netlink, previous, subnet, config.blackhole_route).await;
    if config.blackhole_route {
        // Who is told that the daemon is ready finds it there.
        blackhole::set(&netlink, subnet).await;
        tasks.spawn(blackhole::keep(netlink.clone(), subnet, config.filter.resync));
    }

    let routes = Arc::new(Routes::new(network.prefix, network.subnet_len));
    // Set once, here.
    let _ = sources.routes.set(Arc::clone(&routes));
    let (failed, mut failures) = mpsc::unbounded_channel();
    let mut live = Live {
        netlink: netlink.clone(),
        tun,
        underlay: underlay.clone(),
        behind: false,
        device,
        public_ip,
        env: SubnetEnv { network: network.prefix, subnet, mtu, ip_masq: config.filter.masquerade },
        subnet_file: config.subnet_file,
        port: network.port,
        admission: Admission { own_subnet: subnet, peers_behind_nat: config.peers_behind_nat },
        routes: Arc::clone(&routes),
        sources: Arc::clone(&sources),
        failed,
        offload: config.offload,
        marking: config.marking,
    };

    health.waiting("listing the leases of other nodes");
    let follower = Follower {
        registry: Arc::clone(&registry),
        table: LeaseTable::new(network, held.lease),
        routes,
        own,
        public_ip: advertised,
        stats: Arc::clone(&sources.follow),
    };
    tasks.spawn(follower.run());

    live.env.write(&live.subnet_file)?;
    tracing::info!(path = %live.subnet_file.display(), "subnet file written");
    // Before that every packet would be refused; on a restart they wait in the queues of the device and the socket.
    let _ = timeout(LISTED_WITHIN, own_seen.wait_for(Option::is_some)).await;
    *started = Some(live.start(udp)?);
    let (current, mut changes) = watch::channel(underlay);
    tasks.spawn(follow_underlay(config.underlay, current));
    let mut ready = pin!(announce_ready(own_seen, masquerade, &health).fuse());
    loop {
        tokio::select! {
            () = &mut ready => {}
            Ok(()) = changes.changed() => {
                let new = changes.borrow_and_update().clone();
                if new.address != live.underlay.address {
                    registry.forget_connections();
                }
                live.follow(new, started).await?;
            }
            () = sleep(REBIND_EVERY), if live.behind => {
                let new = changes.borrow().clone();
                live.follow(new, started).await?;
            }
            error = failures.recv() => return error.map_or(Ok(()), |error| Err(error.into())),
        }
    }
}

async fn follow_underlay(selection: Selection, current: watch::Sender<Underlay>) {
    let Err(error) = underlay::follow::follow(selection, current).await;
    tracing::warn!(%error, "changes of the underlay are not followed");
}

/// Ready means that the routes to other nodes are in place, and the rules that masquerade if there are to be such.
async fn announce_ready<T>(
    mut listed: watch::Receiver<Option<T>>,
    masquerade: Option<watch::Receiver<Option<String>>>,
    health: &Health,
) {
    if listed.wait_for(Option::is_some).await.is_err() {
        return;
    }
    if let Some(mut amiss) = masquerade {
        loop {
            let Some(reason) = amiss.borrow_and_update().clone() else { break };
            health.waiting(format!("setting the rules of --ip-masq: {reason}"));
            if amiss.changed().await.is_err() {
                return;
            }
        }
    }
    health.started();
    tracing::info!("ready");
    tell("READY=1");
}

fn tell(message: &str) {
    if let Err(error) = notify::tell(message) {
        tracing::warn!(%error, message, "service manager not told");
    }
}

/// Shows the service manager that the event loop turns.
async fn feed_watchdog(every: Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        tell("WATCHDOG=1");
    }
}

/// Reads the network config, trying until it is there and can be used; only a choice that relay does not offer is
/// final.
async fn read_network<R: Registry>(registry: &R, health: &Health) -> Result<Network, DaemonError> {
    let mut last = String::new();
    loop {
        let reason = match registry.config().await {
            Ok(bytes) => match Network::parse(&bytes) {
                Ok(network) => return Ok(network),
                Err(error @ NetworkError::Unsupported { .. }) => return Err(error.into()),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if reason != last {
            tracing::warn!(reason, "no network config that can be used yet, trying every second");
            health.waiting(reason.clone());
            last = reason;
        }
        sleep(CONFIG_RETRY).await;
    }
}

async fn take_lease<R: Registry>(
    registry: &R,
    network: &Network,
    underlay: &Underlay,
    subnet_file: &std::path::Path,
    health: &Health,
) -> Result<Held, DaemonError> {
    health.waiting("acquiring a subnet");
    let claim = Claim { public_ip: underlay.public_ip, previous: subnet_env::previous_subnet(subnet_file) };
    let mut backoff = Backoff::reconnect();
    let mut last = String::new();
    loop {
        match acquire(registry, network, claim).await {
            Ok(held) => {
                tracing::info!(subnet = %held.lease.subnet, revision = held.written.mod_revision, "lease acquired");
                return Ok(held);
            }
            Err(AcquireError::Registry(error @ RegistryError::Missing(_))) => {
                return Err(AcquireError::from(error).into());
            }
            Err(AcquireError::Registry(error)) => {
                let reason = error.to_string();
                if reason != last {
                    tracing::warn!(reason, "no lease yet, trying on");
                    health.waiting(format!("acquiring a subnet: {reason}"));
                    last = reason;
                }
                sleep(backoff.pause()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn set_up_device(
    netlink: &Handle,
    tun: &Tun,
    network: &Network,
    held: &Held,
    mtu: u32,
) -> Result<DeviceConfig, DaemonError> {
    let index = nix::net::if_::if_nametoindex(tun.name()).map_err(|errno| TunError::Failed {
        step: "finding the TUN device that was just created",
        source: errno.into(),
    })?;
    let address = held.lease.subnet.network();
    let config = DeviceConfig { index, mtu, address, network: network.prefix };
    device::remove_other_addresses(netlink, tun.name(), config).await?;
    device::configure(netlink, tun.name(), config).await?;
    tracing::info!(device = tun.name(), %address, mtu, route = %network.prefix, "device up");
    Ok(config)
}

/// Sets the rules; what stands in the way of that comes back too. Masquerading was asked for, so that it cannot be had
/// ends the start: containers would find no way out. Forwarding is accepted by default, on machines too that accept it
/// anyway, so there a failure is only told.
async fn install_filter(
    config: FilterConfig,
    network: &Network,
    subnet: Ipv4Net,
) -> Result<(Filter, Option<String>), FilterError> {
    let FilterConfig { masquerade, fully_random, forward, .. } = config;
    let manager = if network.nftables { Manager::Nftables } else { Manager::Iptables };
    let rules = Rules { network: network.prefix, subnet, masquerade, fully_random, forward };
    let mut filter = Filter::new(manager, rules);
    match filter.install().await {
        Ok(()) => {
            tracing::info!(?manager, masquerade, forward, "packet filter rules set");
            Ok((filter, None))
        }
        Err(error) if masquerade && error.is_missing() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "packet filter rules not set, trying on");
            Ok((filter, Some(error.to_string())))
        }
    }
}

async fn guard_device(name: String, wanted: watch::Receiver<DeviceConfig>) {
    let Err(error) = guard::keep(name, wanted).await;
    tracing::warn!(%error, "address and route of the device are not watched");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ready_waits_for_the_leases_and_for_masquerading_where_it_is_wanted() {
        let health = Arc::new(Health::starting("listing"));
        let (list, listed) = watch::channel(None);
        let (rules, amiss) = watch::channel(Some("the lock is held".to_owned()));
        let told = Arc::clone(&health);
        tokio::spawn(async move { announce_ready(listed, Some(amiss), &told).await });
        let says = async |words: &str| {
            sleep(Duration::from_secs(1)).await;
            assert!(health.not_ready().is_some_and(|reason| reason.contains(words)), "{health:?}");
        };
        says("listing").await;
        list.send_replace(Some(()));
        says("--ip-masq: the lock is held").await;
        rules.send_replace(Some("no such table".into()));
        says("no such table").await;
        rules.send_replace(None);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(health.not_ready(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn ready_does_not_wait_for_rules_that_only_accept() {
        let health = Health::starting("listing");
        announce_ready(watch::channel(Some(())).1, None, &health).await;
        assert_eq!(health.not_ready(), None);
    }
}
