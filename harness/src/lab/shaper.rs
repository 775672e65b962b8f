//! Shaped links: a host's way to and from the switch made slow, narrow or lossy.
//!
//! tc-netem(8) would do it, but not every kernel has it, and none says which packets it dropped. So the host's port is
//! taken off the bridge, and a program stands between:
//!
//! ```text
//! host eth0 ── HOST │ forwarder │ shaper_N ── shaped_N │ bridge
//! ```
//!
//! `HOST` is the host's port of the switch, under the host's name; `shaper_N` and `shaped_N` are a pair of veths. The
//! host's own recording sees what it would see on a bad link: the packet leaves, and arrives late, twice or never.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::{Error, INTERFACE, Lab, SWITCH};
use crate::capture::frame::{Point, Role};
use crate::lock::lock;
use crate::netns::Namespace;
use crate::wait;

mod chance;
mod forwarder;
mod frame;
mod line;
mod port;

pub(crate) use forwarder::Drop as ShaperDrop;
use forwarder::{Forwarder, Log};
pub use line::{Cause, Impairment, Rate};
use port::Port;

/// For what a shaper holds to be sent: its longest delay, and its longest queue at its lowest rate, and some.
const PASSED_WITHIN: Duration = Duration::from_secs(60);

/// A lab's shapers.
#[derive(Debug, Default)]
pub(super) struct Shapers {
    /// By the host that each is before.
    running: BTreeMap<String, Shaper>,
    /// How many there have been.
    made: u32,
    log: Log,
    /// What the ones that are gone had missed.
    missed: u64,
}

#[derive(Debug)]
struct Shaper {
    /// Ends before the links do.
    forwarder: Forwarder,
    /// The bridge's port in the place of the host's.
    port: String,
}

impl Shapers {
    /// The port of the switch's bridge that leads to a host.
    pub(super) fn port_to<'a>(&'a self, host: &'a str) -> &'a str {
        self.running.get(host).map_or(host, |shaper| &shaper.port)
    }

    /// Whether a host's own port is off the bridge.
    pub(super) fn stand_before(&self, host: &str) -> bool {
        self.running.contains_key(host)
    }
}

impl Lab {
    /// Puts a shaper between a host and the switch. What passes at that moment may be lost. `down` names the hosts whose
    /// links are down.
    ///
    /// # Errors
    /// When there is one already, the host is not on the underlay, or the kernel refuses a part.
    pub async fn shape(
        &mut self,
        host: &str,
        inward: Impairment,
        outward: Impairment,
        down: &[String],
    ) -> Result<(), Error> {
        if self.shapers.stand_before(host) {
            return Err(Error::State { what: format!("there is a shaper before {host} already") });
        }
        let switch = self.host(SWITCH)?.clone();
        let number = self.shapers.made;
        self.shapers.made += 1;
        let (near, far) = (format!("shaped_{number}"), format!("shaper_{number}"));
        let mtu = self.topology.mtu;
        switch.netlink.add_veth(&near, Some(SWITCH), mtu, (&switch.namespace, &far)).await?;
        switch.netlink.set_up(&far, true).await?;
        let indices = [switch.netlink.index(host).await?, switch.netlink.index(&far).await?];
        switch.netlink.detach(host).await?;
        let error = |doing: &str| {
            let doing = format!("{doing} the shaper before {host}");
            move |source| Error::Shaper { doing, source }
        };
        // Opened now: what arrived before has been forwarded by the bridge.
        let open = || -> io::Result<[Port; 2]> { Ok([Port::open(indices[0])?, Port::open(indices[1])?]) };
        let ports =
            switch.namespace.run(open).map_err(super::host::Error::from)?.map_err(error("opening"))?;
        let point = Point { host: host.to_owned(), interface: INTERFACE.to_owned(), role: Role::Underlay };
        let log = self.shapers.log.clone();
        let forwarder = Forwarder::start(ports, [inward, outward], point, log).map_err(error("starting"))?;
        self.shapers.running.insert(host.to_owned(), Shaper { forwarder, port: near });
        self.moved(host, down).await
    }

    /// Takes the shaper away that is before a host, and tells why it dropped datagrams on their way to the host, and from
    /// it. What it still held is sent at once.
    ///
    /// # Errors
    /// When there is none, or the kernel refuses a part.
    pub async fn unshape(&mut self, host: &str, down: &[String]) -> Result<[Vec<Cause>; 2], Error> {
        let shaper = self.shapers.running.remove(host);
        let Shaper { forwarder, port } = shaper
            .ok_or_else(|| Error::State { what: format!("there is no shaper before {host} to take away") })?;
        let causes = forwarder.causes().map(|causes| causes.into_iter().collect());
        self.shapers.missed += forwarder.end();
        let switch = self.host(SWITCH)?.clone();
        switch.netlink.delete(&port).await?;
        switch.netlink.attach(host, SWITCH).await?;
        self.moved(host, down).await?;
        Ok(causes)
    }

    /// Sees to it that all know by which port a host is reached now.
    async fn moved(&self, host: &str, down: &[String]) -> Result<(), Error> {
        self.apply_cuts().await?;
        self.wait_for_links(down).await?;
        let announced = port::announce(&self.namespace_of(host)?, INTERFACE);
        if let Err(error) = announced {
            // Its link is down: the bridge will learn with the first packet.
            tracing::debug!(host, %error, "not announced");
        }
        Ok(())
    }

    /// The namespace that a host's `eth0` is in. A member's may be a container's, which is another one at every start.
    fn namespace_of(&self, host: &str) -> Result<Namespace, Error> {
        let members = self.etcd.iter().flat_map(crate::etcd::Cluster::members);
        match members.into_iter().find(|member| member.name() == host) {
            Some(member) => Ok(member.namespace().clone()),
            None => Ok(self.host(host)?.namespace.clone()),
        }
    }

    /// Waits until every shaper has sent, or dropped, each datagram that it holds now.
    pub(super) async fn wait_for_shapers(&self) -> Result<(), Error> {
        for (host, Shaper { forwarder, .. }) in &self.shapers.running {
            let mark = forwarder.mark();
            let awaited = format!("the shaper before {host} to send what it holds");
            wait::until(&awaited, PASSED_WITHIN, async || match forwarder.has_passed(mark) {
                true => Ok(()),
                false => Err("it has not".to_owned()),
            })
            .await?;
        }
        Ok(())
    }

    /// Whether no shaper holds a datagram now.
    pub(super) fn shapers_rest(&self) -> bool {
        let mut running = self.shapers.running.values();
        running.all(|Shaper { forwarder, .. }| forwarder.has_passed(forwarder.mark()))
    }

    /// How many frames shapers have dropped so far, those of TCP not counted.
    pub fn shaped_so_far(&self) -> usize {
        lock(&self.shapers.log).len()
    }

    /// What shapers have dropped after the first `count`, in order.
    pub(crate) fn shaped_since(&self, count: usize) -> Vec<ShaperDrop> {
        lock(&self.shapers.log).get(count..).unwrap_or_default().to_vec()
    }

    /// Frames that shapers lost for want of room or by an error. If any, losses prove nothing.
    pub fn missed_by_shapers(&self) -> u64 {
        let running = self.shapers.running.values().map(|shaper| shaper.forwarder.missed());
        self.shapers.missed + running.sum::<u64>()
    }
}
