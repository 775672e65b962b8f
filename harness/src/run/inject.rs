//! Sending packets that no socket would, and seeing all that comes of them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::observe::{drops, icmp_sent};
use super::{Runner, StepError};
use crate::flow::{Cell, Crafted, End, Journey, Key, Observation, Place, Probe, fingerprint};
use crate::lab::kernel::received_is_processed;
use crate::packet::Ipv4;
use crate::packet::craft::{self, Carries, Craft, Defects, Slice};
use crate::probe::{self, Exit, RawSocket};
use crate::suite::{Envelope, Inject, Injected, Packet, TUNNEL};
use crate::topology::{LinkAddress, Port};

/// How long what comes of a packet is waited for, on a machine that may have much else to do. Only what fails a case
/// takes as long.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// The ports that UDP datagrams are from which are built, and then those that their tunnel datagrams are from: for as
/// many packets no two are the same.
const PORTS: u16 = 10_000;
const FIRST_PORT: u16 = 40_000;
const FIRST_OUTER_PORT: u16 = 50_000;

/// A packet ready to be sent.
struct Made {
    probe: Probe,
    /// What its host's raw socket is given.
    octets: Vec<u8>,
    /// The port of the socket that is to receive it, if it is for one.
    port: Option<u16>,
    /// The number in its marker.
    marked: u32,
}

impl Runner<'_> {
    pub(super) async fn inject(&mut self, inject: &Inject) -> Result<(), StepError> {
        let first = self.probes + 1;
        let mut matrix = inject.variants.as_ref().map(|_| crate::flow::Matrix::new(Cell::Octets));
        for injected in inject.packets() {
            let made = self.make(&inject.from, &injected, first)?;
            let journey = self.send(inject, &injected, made).await?;
            match (&mut matrix, injected.name) {
                (Some(matrix), Some(name)) => matrix.push(&self.map, name, &journey),
                _ => {
                    let ladder = journey.ladder(&self.map);
                    self.block(&ladder);
                }
            }
        }
        if let Some(matrix) = matrix {
            self.block(&matrix.to_string());
        }
        Ok(())
    }

    /// Builds a packet. Fragments of one datagram have the marker of the `first`.
    fn make(&mut self, from: &str, injected: &Injected<'_>, first: u32) -> Result<Made, StepError> {
        let Injected { datagram: envelope, packet, .. } = injected;
        let number = self.next_probe();
        let marked =
            if packet.fragment_offset.is_some() || packet.fragment_size.is_some() { first } else { number };
        let word = |word: &Option<_>| self.word(word.as_deref());
        let (source, to) = (word(&packet.from)?, word(&packet.to)?);
        let mut craft = craft(packet, source, to, marked);
        let inner = match &packet.hex {
            Some(hex) => octets(hex),
            None => craft.octets(marked),
        };
        if packet.hex.is_some() && envelope.is_empty() {
            craft.take_header(&Ipv4::salvage(&inner));
        }
        let outer = (!envelope.is_empty()).then(|| port(FIRST_OUTER_PORT, number));
        let outer = outer.map(|unique| envelope.source_port.unwrap_or(unique));
        let made = match outer {
            Some(port) => self.wrap(from, envelope, port, craft.id, &inner)?,
            None => inner.clone(),
        };
        let whole = packet.hex.is_none() && craft.fragment.is_none() && craft.defects == Defects::default();
        let crafted = Crafted {
            marker: marked,
            id: craft.id,
            protocol: craft.carries.protocol(),
            outer,
            fingerprint: fingerprint(&inner),
            answerable: whole && matches!(craft.carries, Carries::Echo { .. }),
        };
        let probe = Probe {
            number,
            from: from.to_owned(),
            source: craft.source,
            to: craft.destination,
            ttl: craft.ttl,
            size: craft.size,
            df: false,
            key: Key::Crafted(crafted),
        };
        Ok(Made { probe, octets: made, port: packet.port, marked })
    }

    /// Puts a packet in a tunnel datagram.
    fn wrap(
        &self,
        from: &str,
        envelope: &Envelope,
        port: u16,
        id: u16,
        inner: &[u8],
    ) -> Result<Vec<u8>, StepError> {
        let source = self.word(envelope.source.as_deref().or(Some(from)))?;
        let to = SocketAddrV4::new(self.word(envelope.to.as_deref())?, self.map.port);
        Ok(craft::datagram(SocketAddrV4::new(source, port), to, id, envelope.tos.unwrap_or(0), inner))
    }

    /// The address that a word means; none is 0.0.0.0.
    fn word(&self, word: Option<&str>) -> Result<Ipv4Addr, StepError> {
        let Some(word) = word else { return Ok(Ipv4Addr::UNSPECIFIED) };
        self.address(word)
    }

    /// Whom a frame is for that is to carry something for `to`.
    fn lladdr(
        &self,
        from: &str,
        into: &str,
        injected: &Injected<'_>,
        to: Ipv4Addr,
    ) -> Result<LinkAddress, StepError> {
        let topology = &self.lab.topology;
        let found = match injected.lladdr {
            Some(word) => topology.link_address(from, into, word),
            None => topology.next_hop(from, into, to),
        };
        let word = || injected.lladdr.map_or(to.to_string(), |word| word.to_string());
        found.ok_or_else(|| StepError::Word { word: word() })
    }

    async fn mac(&self, hop: LinkAddress) -> Result<[u8; 6], StepError> {
        match hop {
            LinkAddress::Mac(octets) => Ok(octets),
            LinkAddress::Port(Port { host, interface, .. }) => {
                let netlink = &self.lab.host(&host)?.netlink;
                Ok(netlink.mac(&interface).await.map_err(crate::lab::Error::from)?)
            }
        }
    }

    /// Notes which nodes take in a frame with a tunnel datagram that is not for them, and so for their daemons. One that is
    /// for that node alone goes on from there, unless it says that the node itself has sent it.
    fn note_astray(
        &mut self,
        from: &str,
        hop: &LinkAddress,
        to: Ipv4Addr,
        injected: &Injected<'_>,
    ) -> Result<(), StepError> {
        let source = self.word(injected.datagram.source.as_deref().or(Some(from)))?;
        for node in self.lab.topology.nodes.clone() {
            let astray = node.address != to && node.name != from;
            let (taken, alone) = match hop {
                LinkAddress::Mac([first, ..]) => (first & 1 == 1, false),
                LinkAddress::Port(port) => (port.host == node.name, true),
            };
            if astray && taken {
                self.lab.note_astray(&node.name);
                if alone && node.address != source {
                    self.lab.note_injected(&node.name);
                }
            }
        }
        Ok(())
    }

    /// Sends a packet and follows it and all that it causes.
    async fn send(
        &mut self,
        inject: &Inject,
        injected: &Injected<'_>,
        made: Made,
    ) -> Result<Journey, StepError> {
        let namespace = self.lab.host(&inject.from)?.namespace.clone();
        let device = self.lab.attachment(&inject.from).map(|attachment| attachment.device.clone());
        let to = match &injected.datagram.to {
            Some(to) => self.address(to)?,
            None => made.probe.to,
        };
        let exit = match inject.into.as_deref() {
            None => Exit::Routed(to),
            Some(TUNNEL) => {
                self.lab.expect_tun()?;
                Exit::Interface(device.as_deref().unwrap_or(TUNNEL), None)
            }
            Some(into) => {
                let hop = self.lladdr(&inject.from, into, injected, to)?;
                if injected.datagram.to.is_some() {
                    self.note_astray(&inject.from, &hop, to, injected)?;
                }
                Exit::Interface(into, Some(self.mac(hop).await?))
            }
        };
        let listener =
            match made.port.and_then(|port| Some((self.map.host_of(made.probe.to)?.to_owned(), port))) {
                Some((host, port)) => Some(self.listener_at(&host, port)?),
                None => None,
            };
        let socket = RawSocket::open(&namespace, exit)?;
        let position = self.lab.recorder.position();
        let to = made.probe.to;
        let mut nodes = self.lab.topology.nodes.iter();
        let for_many =
            to.is_multicast() || to.is_broadcast() || nodes.any(|node| node.subnet.broadcast() == to);
        let kernels = self.kernel_drops();
        let before = self.counters.clone();
        if injected.datagram.to.is_some() {
            self.lab.note_injected(&inject.from);
        }
        socket.send(&made.octets).map_err(|source| probe::Error::Socket {
            host: inject.from.to_string(),
            doing: "sending the packet".to_owned(),
            source,
        })?;
        let mut observation = Observation {
            probe: made.probe,
            frames: Vec::new(),
            dropped: Vec::new(),
            icmp_sent: Vec::new(),
            faults: self.faults(),
            answers: Vec::new(),
            received: listener.as_ref().map(|_| 0),
        };
        let settled_within = self.patience(SETTLED_WITHIN);
        let start = Instant::now();
        let mut explained = None;
        loop {
            self.settle().await?;
            observation.frames = self.lab.recorder.since(position);
            observation.dropped = drops(&before, &self.counters);
            observation.dropped.extend(self.dropped_by_kernels(&kernels, for_many));
            observation.icmp_sent = icmp_sent(&before, &self.counters);
            if let (Some(listener), Some(received)) = (&listener, &mut observation.received) {
                *received += listener.received(made.marked);
            }
            let mut journey = Journey::reconstruct(&self.map, &observation, &mut self.numbering.clone());
            // Kernels count more than what is lost.
            journey.unattributed.retain(|drop| drop.place != Place::Kernel);
            // Twice, for what a kernel makes of it may follow it by some microseconds. A relay counts last of all.
            let seen = Some((observation.frames.len(), observation.dropped.clone()));
            // What is left over may still be accounted for by what is to come.
            if !journey.is_open() && (explained == seen || ended_in_relay(&journey))
                || start.elapsed() > settled_within
            {
                let mut journey = Journey::reconstruct(&self.map, &observation, &mut self.numbering);
                journey.unattributed.retain(|drop| drop.place != Place::Kernel);
                self.blame(&mut journey);
                self.judge(&journey);
                return Ok(journey);
            }
            explained = if journey.is_open() { None } else { seen };
            received_is_processed();
            // A lab whose daemons count nothing is quiet at once, and sockets are only read once the event loop has run.
            tokio::task::yield_now().await;
        }
    }
}

/// Whether a relay dropped it, and had sent by then whatever it was to send about that.
fn ended_in_relay(journey: &Journey) -> bool {
    let end = journey.request().map(|flow| &flow.end);
    matches!(end, Some(End::Dropped { place: Place::RelayOutbound | Place::RelayInbound, .. }))
}

/// A packet as the suite file asks for it, right where it does not say.
fn craft(packet: &Packet, source: Ipv4Addr, destination: Ipv4Addr, number: u32) -> Craft {
    // Not 0, in the place of which a raw socket puts another.
    let id = 1 + (number % 0xffff) as u16;
    let carries = match (packet.port, packet.icmp_type, packet.protocol) {
        (Some(destination), ..) => Carries::Udp { source: port(FIRST_PORT, number), destination },
        (_, Some(kind), _) => Carries::Icmp { kind },
        (_, _, Some(protocol)) => Carries::Other { protocol },
        _ => Carries::Echo { id, seq: 1 },
    };
    let is_fragment = packet.fragment_offset.is_some() || packet.fragment_size.is_some();
    let slice = Slice { offset: packet.fragment_offset.unwrap_or(0), size: packet.fragment_size };
    Craft {
        source,
        destination,
        carries,
        size: packet.size.unwrap_or(56),
        ttl: packet.ttl.unwrap_or(64),
        tos: packet.tos.unwrap_or(0),
        id,
        options: packet.options.as_deref().map(octets).unwrap_or_default(),
        fragment: is_fragment.then_some(slice),
        defects: Defects {
            version: packet.version,
            header_length: packet.header_length,
            total_length: packet.total_length,
            checksum: packet.bad_checksum.unwrap_or(false),
            inner_checksum: packet.bad_inner_checksum.unwrap_or(false),
            truncate_to: packet.truncate_to,
            trailing: packet.trailing.unwrap_or(0),
        },
    }
}

/// Hexadecimal digits as octets. That they are such was checked with the suite file.
fn octets(hex: &str) -> Vec<u8> {
    crate::suite::hexadecimal(hex).unwrap_or_default()
}

fn port(first: u16, number: u32) -> u16 {
    first + (number % u32::from(PORTS)) as u16
}
