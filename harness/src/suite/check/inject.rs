//! Whether the packets of an `inject` can be built and sent.

use std::ops::Range;

use super::{Check, MAX_SWEEP, is_address};
use crate::lab::INTERFACE;
use crate::suite::mistake::{Mistake, suggest};
use crate::suite::step::{Envelope, Inject, Injected, Packet, TUNNEL};
use crate::suite::text::{Text, hexadecimal};
use crate::topology::{Host, LinkAddress};

/// The longest options that a header has room for.
const MAX_OPTIONS: usize = 40;
/// The longest packet that a tunnel datagram has room for.
const MAX_PACKET: usize = 65_507;

impl Check<'_> {
    /// Checks an `inject` whose name stands at `at`.
    pub(super) fn inject(&mut self, inject: &Inject, at: Range<usize>) {
        self.injector(inject);
        let packets = inject.packets();
        if packets.len() > MAX_SWEEP {
            let message = format!("{} variants are more than a matrix has rows for", packets.len());
            let mistake = Mistake::new(at.clone(), message, "too many");
            self.mistakes.push(mistake.help(format!("take at most {MAX_SWEEP}")));
        }
        let into = inject.into.as_ref();
        let into_tunnel = into.is_some_and(|into| **into == *TUNNEL);
        if into_tunnel && packets.iter().any(|packet| !packet.datagram.is_empty()) {
            let mistake =
                Mistake::new(at.clone(), "a packet goes `into` the tunnel or in a `datagram`", "both");
            self.mistakes.push(mistake.help("take out one of the two"));
        }
        for Injected { datagram, packet, lladdr, .. } in &packets {
            self.envelope(datagram, &at);
            self.packet(packet, &at);
            match into.filter(|_| !into_tunnel) {
                Some(into) => {
                    let to = datagram.to.as_ref().or(packet.to.as_ref());
                    self.addressee(inject, into, *lladdr, to, &at);
                }
                None if lladdr.is_some() => {
                    let help = if into_tunnel {
                        "take it out, or let a frame go `into` another interface"
                    } else {
                        "say `into` which interface the frame goes"
                    };
                    self.lacks(&at, "a packet in no frame has no `lladdr`", help);
                }
                None => {}
            }
            if datagram.is_empty() && inject.into.is_none() {
                self.mended(packet, &at);
            }
            if let Some(hex) = &packet.hex
                && datagram.is_empty()
            {
                self.header(hex);
            }
        }
    }

    /// Checks who sends.
    fn injector(&mut self, inject: &Inject) {
        match self.topology.host(&inject.from) {
            Some(host @ (Host::Node(_) | Host::Container(_) | Host::Machine(_))) => {
                let Some(into) = &inject.into else { return };
                let mut there = vec![INTERFACE];
                if matches!(host, Host::Node(_)) {
                    there.extend([TUNNEL, self.topology.bridge.as_str()]);
                }
                if !there.contains(&into.as_str()) {
                    let message = format!("{} has no interface `{into}`", inject.from);
                    let help = suggest(into, there, "its interfaces");
                    self.mistake(into, message, "no such interface there", help);
                }
            }
            Some(Host::Member(_)) | None => {
                let help = suggest(&inject.from, self.senders(), "hosts that can send");
                let message = format!("`{}` is no container, node or machine of the lab", inject.from);
                self.mistake(&inject.from, message, "cannot send", help);
            }
        }
    }

    /// Checks whom a frame is for that goes `into` an interface with something for `to`.
    fn addressee(
        &mut self,
        inject: &Inject,
        into: &Text,
        lladdr: Option<&Text>,
        to: Option<&Text>,
        at: &Range<usize>,
    ) {
        let topology = self.topology;
        let Some(ports) = topology.link(&inject.from, into) else { return };
        let others = ports.iter().map(|port| port.host.as_str()).filter(|host| *host != inject.from.as_str());
        let others = others.chain(["broadcast"]);
        let reaches = |hop: Option<LinkAddress>| match hop {
            Some(LinkAddress::Port(port)) => port.host != inject.from.as_str(),
            Some(LinkAddress::Mac(_)) => true,
            None => false,
        };
        match (lladdr, to.and_then(|to| topology.address_of(to))) {
            (Some(word), _) if !reaches(topology.link_address(&inject.from, into, word)) => {
                let message = format!("`{word}` is no MAC address, and no other host on the link of {into}");
                let help = suggest(word, others, "a MAC address such as \"02:00:00:00:00:01\", or");
                self.mistake(word, message, "reaches nobody", help);
            }
            (None, Some(to)) if !reaches(topology.next_hop(&inject.from, into, to)) => {
                let message = format!("{} knows nobody else to send to {to} by {into}", inject.from);
                self.lacks(at, &message, "say with `lladdr` whom the frame is for");
            }
            (None, None) => self.lacks(at, "the frame has no addressee", "say with `lladdr` whom it is for"),
            _ => {}
        }
    }

    fn envelope(&mut self, envelope: &Envelope, at: &Range<usize>) {
        if !envelope.is_empty() && envelope.to.is_none() {
            self.lacks(at, "the datagram has no `to`", "name the node that it is sent to");
        }
        for address in [&envelope.to, &envelope.source].into_iter().flatten() {
            self.end(address);
        }
    }

    /// A packet that the sender's kernel routes has a header that is right: the kernel fills in the total length and the
    /// checksum (raw(7)).
    fn mended(&mut self, packet: &Packet, at: &Range<usize>) {
        let lies = [
            ("bad-checksum", packet.bad_checksum == Some(true)),
            ("total-length", packet.total_length.is_some()),
            ("truncate-to", packet.truncate_to.is_some()),
            ("trailing", packet.trailing.is_some()),
        ];
        for (key, _) in lies.into_iter().filter(|(_, told)| *told) {
            let message = format!("the sender's kernel would mend `{key}`");
            self.lacks(at, &message, "put the packet into a `datagram`, or `into` the node's tunnel device");
        }
    }

    fn packet(&mut self, packet: &Packet, at: &Range<usize>) {
        if let Some(hex) = &packet.hex {
            self.hex(hex, MAX_PACKET);
            if *packet != (Packet { hex: packet.hex.clone(), ..Packet::default() }) {
                self.mistake(
                    hex,
                    "`hex` is all of the packet".to_owned(),
                    "and more",
                    "take out all other keys",
                );
            }
            return;
        }
        for (end, what) in [(&packet.from, "from"), (&packet.to, "to")] {
            match end {
                Some(end) => self.end(end),
                None => {
                    let message = format!("the packet has no `{what}`");
                    self.lacks(at, &message, "give a host or an address, or the whole packet as `hex`");
                }
            }
        }
        let kinds = [packet.port.is_some(), packet.icmp_type.is_some(), packet.protocol.is_some()];
        if kinds.into_iter().filter(|given| *given).count() > 1 {
            self.lacks(at, "a packet has one protocol", "take one of `port`, `icmp-type` and `protocol`");
        }
        if packet.fragment_offset.is_some_and(|offset| offset % 8 != 0) {
            self.lacks(at, "a fragment begins at a multiple of 8", "`fragment-offset` is in octets");
        }
        if let Some(options) = &packet.options
            && self.hex(options, MAX_OPTIONS).is_some_and(|octets| octets % 4 != 0)
        {
            let help = "end them with 00, and fill up with more of it";
            self.mistake(
                options,
                "options have a multiple of four octets".to_owned(),
                "not a multiple",
                help,
            );
        }
    }

    /// Octets in no datagram are followed, and routed, by their header.
    fn header(&mut self, hex: &Text) {
        let is_ipv4 =
            |octets: &Vec<u8>| octets.len() >= 20 && octets.first().is_some_and(|octet| octet >> 4 == 4);
        if hexadecimal(hex).is_some_and(|octets| !is_ipv4(&octets)) {
            let help = "begin with an IPv4 header of 20 octets, or put them into a `datagram`";
            self.mistake(hex, "these octets are no IPv4 packet".to_owned(), "goes nowhere", help);
        }
    }

    fn end(&mut self, word: &Text) {
        if self.topology.host(word).is_none() && !is_address(word) {
            let help = suggest(word, self.hosts(), "an IPv4 address, or a host");
            let message = format!("the lab has no host `{word}`, and it is no address");
            self.mistake(word, message, "no such host", help);
        }
    }

    /// Checks hexadecimal digits: of how many octets they are.
    fn hex(&mut self, text: &Text, most: usize) -> Option<usize> {
        match hexadecimal(text) {
            Some(octets) if octets.len() <= most => return Some(octets.len()),
            Some(octets) => {
                let message = format!("{} octets are too many", octets.len());
                self.mistake(text, message, "too long", format!("take at most {most}"));
            }
            None => {
                let help = "two digits make an octet; blanks between octets are passed over: \"45 00\"";
                self.mistake(text, "these are no octets".to_owned(), "not hexadecimal", help);
            }
        }
        None
    }

    fn lacks(&mut self, at: &Range<usize>, message: &str, help: &str) {
        let mistake = Mistake::new(at.clone(), message, "in this step").help(help);
        // The same of every variant is said once.
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }
}
