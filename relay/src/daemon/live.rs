//! What follows the underlay while the daemon runs: the device's MTU, `subnet.env`, the tunnel's socket and the lease.

use std::{
    net::{SocketAddrV4, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use rtnetlink::Handle;
use tokio::sync::{mpsc, watch};

use super::{DaemonError, MIN_MTU};
use crate::{
    datapath::{
        ENCAPSULATION,
        admission::Admission,
        marking::Marking,
        offload::Offload,
        routes::Routes,
        threads::{DataPath, DataPathError, Running},
        tun::{Queues, Tun, TunError},
        udp::{self, SocketError, Sockets},
    },
    host::{
        device::{self, DeviceConfig},
        notify::{self, Inherited},
        port,
        subnet_env::SubnetEnv,
    },
    http::{Sources, status::Node},
    underlay::Underlay,
};

/// Names of what is left with the service manager.
const STORED_TUN: &str = "relay-tun";
const STORED_UDP: &str = "relay-udp";

/// The device of an earlier run, or a new one. One of several queues is always new.
pub(super) fn open_tun(
    inherited: &mut Inherited,
    pattern: &str,
    offload: Offload,
    queues: &Queues,
) -> Result<Tun, TunError> {
    if let Some(file) = inherited.remove(STORED_TUN)
        && queues.count == NonZeroUsize::MIN
    {
        match Tun::adopt(file, offload) {
            Ok(tun) => {
                tracing::info!(device = tun.name(), "device of an earlier run taken over");
                return Ok(tun);
            }
            Err(error) => tracing::warn!(%error, "making a new device"),
        }
    }
    Tun::create(pattern, offload, queues)
}

/// The socket of an earlier run, if it is bound to `address`, or new ones, as many as there are queues.
pub(super) async fn open_udp(
    inherited: &mut Inherited,
    address: SocketAddrV4,
    queues: NonZeroUsize,
) -> Result<Vec<Sockets>, SocketError> {
    let earlier = inherited.remove(STORED_UDP).map(UdpSocket::from);
    let earlier = earlier.filter(|_| queues == NonZeroUsize::MIN);
    match earlier.filter(|socket| socket.local_addr().is_ok_and(|bound| bound == address.into())) {
        Some(socket) => Ok(vec![Sockets::one(socket)]),
        None => {
            let in_use = |error: &SocketError| matches!(error, SocketError::InUse(_));
            port::once_free(async || Sockets::open(address, queues), in_use).await
        }
    }
}

/// All that a change of the underlay touches.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) netlink: Handle,
    pub(super) tun: Arc<Tun>,
    pub(super) underlay: Underlay,
    /// Whether the underlay has an address that the tunnel could not be moved to yet.
    pub(super) behind: bool,
    pub(super) device: watch::Sender<DeviceConfig>,
    pub(super) public_ip: watch::Sender<std::net::Ipv4Addr>,
    pub(super) subnet_file: PathBuf,
    pub(super) env: SubnetEnv,
    pub(super) port: u16,
    pub(super) admission: Admission,
    pub(super) routes: Arc<Routes>,
    pub(super) sources: Arc<Sources>,
    pub(super) failed: mpsc::UnboundedSender<DataPathError>,
    pub(super) offload: Offload,
    pub(super) marking: Marking,
}

impl Live {
    /// Starts the data path on the underlay's present address.
    pub(super) fn start(&self, udp: Vec<Sockets>) -> Result<Running, DaemonError> {
        self.leave_for_later(&udp);
        let data_path = DataPath {
            tun: Arc::clone(&self.tun),
            udp,
            icmp: udp::open_icmp()?,
            port: self.port,
            address: self.underlay.address,
            admission: self.admission,
            routes: Arc::clone(&self.routes),
            counters: Arc::clone(&self.sources.counters),
            offload: self.offload,
            marking: self.marking,
        };
        let running = data_path.start(&self.failed)?;
        self.show();
        Ok(running)
    }

    /// Leaves the device and the socket with the service manager for a later run. Those of several queues are not: which
    /// of them are whose would have to be told as well.
    fn leave_for_later(&self, udp: &[Sockets]) {
        let files = match (self.tun.keeper(), udp) {
            (Some(device), [sockets]) => {
                [(STORED_TUN, Some(device)), (STORED_UDP, Some(sockets.receive.as_fd()))]
            }
            _ => [(STORED_TUN, None), (STORED_UDP, None)],
        };
        for (name, file) in files {
            if let Err(error) = notify::store(name, file) {
                tracing::warn!(%error, name, "not left with the service manager: a restart will lose packets");
            }
        }
    }

    /// Tells `relay status` how things are.
    fn show(&self) {
        let node = Node {
            network: self.env.network,
            subnet: self.admission.own_subnet,
            public_ip: self.underlay.public_ip,
            interface: self.underlay.interface.clone(),
            bound: SocketAddrV4::new(self.underlay.address, self.port),
            device: self.tun.name().to_owned(),
            mtu: self.env.mtu,
        };
        *self.sources.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
    }

    /// Takes up a change. What cannot be followed is told of; an address that cannot be bound is not advertised, and is
    /// [`Live::behind`] until a later call binds it. Only a data path
    /// that was stopped and does not start again is an error.
    pub(super) async fn follow(
        &mut self,
        new: Underlay,
        running: &mut Option<Running>,
    ) -> Result<(), DaemonError> {
        tracing::info!(
            interface = new.interface, address = %new.address, public_ip = %new.public_ip, mtu = new.mtu,
            "underlay changed"
        );
        if new.mtu != self.underlay.mtu {
            self.follow_mtu(new.mtu).await;
        }
        self.behind &= new.address != self.underlay.address;
        if new.address != self.underlay.address {
            let queues = NonZeroUsize::new(self.tun.queues().len()).unwrap_or(NonZeroUsize::MIN);
            match Sockets::open(SocketAddrV4::new(new.address, self.port), queues) {
                Ok(udp) => {
                    stop(running.take()).await;
                    // The device is kept by `self`: what arrives meanwhile waits in its queue.
                    self.underlay.address = new.address;
                    *running = Some(self.start(udp)?);
                    self.behind = false;
                }
                Err(error) => {
                    tracing::error!(%error, "the tunnel stays at its old address; trying again");
                    self.behind = true;
                    return Ok(());
                }
            }
        }
        if new.public_ip != self.underlay.public_ip {
            self.underlay.public_ip = new.public_ip;
            self.public_ip.send_replace(new.public_ip);
        }
        self.show();
        Ok(())
    }

    async fn follow_mtu(&mut self, underlay: u32) {
        let mtu = underlay.saturating_sub(ENCAPSULATION);
        if mtu < MIN_MTU {
            tracing::error!(
                mtu = underlay,
                "the underlay's MTU is too small for a tunnel, the device's stays"
            );
            return;
        }
        self.underlay.mtu = underlay;
        self.device.send_modify(|config| config.mtu = mtu);
        let config = *self.device.borrow();
        if let Err(error) = device::configure(&self.netlink, self.tun.name(), config).await {
            tracing::error!(%error, "the device does not follow the underlay's MTU");
        }
        self.env.mtu = mtu;
        match self.env.write(&self.subnet_file) {
            Ok(()) => tracing::info!(mtu, "device and subnet file follow the underlay's MTU"),
            Err(error) => tracing::error!(%error, "subnet file not written"),
        }
    }
}

/// Stops the data path on a thread of its own, so that signals and timers are still seen.
pub(super) async fn stop(running: Option<Running>) {
    if let Some(running) = running
        && tokio::task::spawn_blocking(|| Running::stop(running)).await.is_err()
    {
        tracing::error!("the data path could not be stopped in order");
    }
}
