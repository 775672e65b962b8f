//! `inject`: packets that no socket sends, built field by field.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::suite::text::Text;

/// Keys of `inject`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Inject {
    /// The host that sends it, whatever its addresses say.
    pub from: Text,
    /// The tunnel datagram that the packet travels in. Left out: the host's kernel routes the packet as it is.
    #[serde(default)]
    pub datagram: Envelope,
    /// Puts the packet on an interface of the host's, past the kernel that would refuse or mend it: on a node's `flannel0`,
    /// where its relay reads it next, or in an Ethernet frame on `eth0` or the bridge of a node.
    pub into: Option<Text>,
    /// Whom the frame is for: a host on the link, for its interface's address, a MAC address such as
    /// `02:00:00:00:00:01`, or `broadcast`. Left out: the next hop that the host has for the packet, or the datagram.
    pub lladdr: Option<Text>,
    /// The packet.
    #[serde(default)]
    pub packet: Packet,
    /// One packet for each of these, which differs from the step's own in what is said here. Shown as a matrix, whose
    /// cells are the octets that the packet had at each point.
    #[schemars(length(min = 1))]
    pub variants: Option<Vec<Variant>>,
}

/// The overlay's device, as suite files call it.
pub const TUNNEL: &str = "flannel0";

/// One of several packets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Variant {
    /// What its row is called.
    pub name: Text,
    /// Whom its frame is for.
    pub lladdr: Option<Text>,
    /// What is different in its datagram.
    #[serde(default)]
    pub datagram: Envelope,
    /// What is different in its packet.
    #[serde(default)]
    pub packet: Packet,
}

/// Defines a table all of whose keys may be left out, so that one can be laid over another.
macro_rules! layered {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident { $( $(#[$field_attribute:meta])* pub $field:ident: $type:ty, )* }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name { $( $(#[$field_attribute])* pub $field: Option<$type>, )* }

        impl $name {
            /// What is said here, and where nothing is said, what `base` says.
            #[must_use]
            pub fn over(&self, base: &Self) -> Self {
                Self { $( $field: self.$field.clone().or_else(|| base.$field.clone()), )* }
            }

            /// Whether nothing is said.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                *self == Self::default()
            }
        }
    };
}

layered! {
    /// A tunnel datagram.
    pub struct Envelope {
        /// The node or address that it is sent to, at the tunnel's port.
        pub to: Text,
        /// The node or address that it says it is from. Left out: the sender's own.
        pub source: Text,
        /// The port that it is from. Left out: one that no other has. A relay sends from 8285.
        #[schemars(range(min = 1, max = 65535))]
        pub source_port: u16,
        /// Its traffic class octet: DSCP in the upper six bits, ECN in the lower two.
        #[schemars(range(min = 0, max = 255), extend("default" = 0))]
        pub tos: u8,
    }
}

layered! {
    /// A packet: an echo request, unless it says otherwise.
    pub struct Packet {
        /// The host or address that it says it is from.
        pub from: Text,
        /// The host or address that it is for.
        pub to: Text,
        /// Makes it a UDP datagram to this port. If `to` is a host of the lab, a socket listens there.
        #[schemars(range(min = 1, max = 65535))]
        pub port: u16,
        /// Makes it an ICMP message of this type. Errors quote a datagram that `to` might have sent.
        #[schemars(range(min = 0, max = 255))]
        pub icmp_type: u8,
        /// Makes it a packet of this protocol, with the payload and no header.
        #[schemars(range(min = 0, max = 255))]
        pub protocol: u8,
        /// Octets of payload, after the protocol's header.
        #[schemars(range(min = 0, max = 65507), extend("default" = 56))]
        pub size: u16,
        /// Time to live.
        #[schemars(range(min = 0, max = 255), extend("default" = 64))]
        pub ttl: u8,
        /// The traffic class octet: DSCP in the upper six bits, ECN in the lower two.
        #[schemars(range(min = 0, max = 255), extend("default" = 0))]
        pub tos: u8,
        /// IP options, in hexadecimal digits: a multiple of four octets.
        pub options: Text,
        /// Sends a fragment: the one that begins at this octet of the datagram's payload, a multiple of 8.
        #[schemars(range(min = 0, max = 65528))]
        pub fragment_offset: u16,
        /// Octets of the datagram's payload that the fragment carries. Left out: all that are left.
        #[schemars(range(min = 1, max = 65515))]
        pub fragment_size: u16,
        /// The version that the header states, in the place of 4.
        #[schemars(range(min = 0, max = 15))]
        pub version: u8,
        /// The header length that the header states, in words of four octets.
        #[schemars(range(min = 0, max = 15))]
        pub header_length: u8,
        /// The total length that the header states, in octets.
        #[schemars(range(min = 0, max = 65535))]
        pub total_length: u16,
        /// Whether the header checksum is wrong.
        #[schemars(extend("default" = false))]
        pub bad_checksum: bool,
        /// Whether the checksum of the protocol's header is wrong.
        #[schemars(extend("default" = false))]
        pub bad_inner_checksum: bool,
        /// Octets of the packet that are sent; the rest is cut off.
        #[schemars(range(min = 0, max = 65535))]
        pub truncate_to: u16,
        /// Octets of junk that follow the packet.
        #[schemars(range(min = 0, max = 1400))]
        pub trailing: u16,
        /// All octets in hexadecimal digits, in the place of everything else. In no datagram they are routed, and followed,
        /// by their IPv4 header.
        pub hex: Text,
    }
}

/// A packet that an `inject` sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected<'a> {
    /// What its row is called; none if it is alone.
    pub name: Option<&'a Text>,
    /// Whom its frame is for; none for the next hop.
    pub lladdr: Option<&'a Text>,
    /// Its datagram, empty if it is in none.
    pub datagram: Envelope,
    /// The packet.
    pub packet: Packet,
}

impl Inject {
    /// The packets that it sends, in this order.
    pub fn packets(&self) -> Vec<Injected<'_>> {
        let Some(variants) = &self.variants else {
            let (datagram, packet) = (self.datagram.clone(), self.packet.clone());
            return vec![Injected { name: None, lladdr: self.lladdr.as_ref(), datagram, packet }];
        };
        let injected = |variant: &'_ Variant| {
            let datagram = variant.datagram.over(&self.datagram);
            // Octets leave no room for anything else.
            let whole = variant.packet.hex.is_some();
            let packet = if whole { variant.packet.clone() } else { variant.packet.over(&self.packet) };
            (datagram, packet)
        };
        let named = |variant| {
            let (datagram, packet) = injected(variant);
            let lladdr = variant.lladdr.as_ref().or(self.lladdr.as_ref());
            Injected { name: Some(&variant.name), lladdr, datagram, packet }
        };
        variants.iter().map(named).collect()
    }
}

impl Inject {
    /// The parts of its title.
    pub(in crate::suite) fn title(&self) -> (String, Vec<String>) {
        let Packet { from, to, hex, .. } = &self.packet;
        let mut parts = Vec::new();
        parts.extend(from.as_ref().zip(to.as_ref()).map(|(from, to)| format!("{from} > {to}")));
        parts.extend(hex.as_ref().map(|hex| format!("hex {hex}")));
        parts.extend(self.packet.knobs());
        if let Some(to) = &self.datagram.to {
            let source = self.datagram.source.as_ref().unwrap_or(&self.from);
            parts.push(format!("in udp {source} > {to}"));
        }
        parts.extend(self.datagram.source_port.map(|port| format!("source-port {port}")));
        parts.extend(self.datagram.tos.map(|tos| format!("outer tos {tos}")));
        parts.extend(self.into.as_ref().map(|into| format!("into {into}")));
        parts.extend(self.lladdr.as_ref().map(|lladdr| format!("lladdr {lladdr}")));
        parts.extend(self.variants.as_ref().map(|variants| format!("variants {}", variants.len())));
        (format!("inject from {}", self.from), parts)
    }
}

impl Packet {
    /// The part of the title that says what is particular in the packet, in the words of the suite file.
    fn knobs(&self) -> Vec<String> {
        let told = |name: &str, value: Option<u16>| value.map(|value| format!("{name} {value}"));
        let wide = |value: Option<u8>| value.map(u16::from);
        let all = [
            told("port", self.port),
            told("icmp-type", wide(self.icmp_type)),
            told("protocol", wide(self.protocol)),
            told("size", self.size),
            told("ttl", wide(self.ttl)),
            told("tos", wide(self.tos)),
            self.options.as_ref().map(|options| format!("options {options}")),
            told("fragment-offset", self.fragment_offset),
            told("fragment-size", self.fragment_size),
            told("version", wide(self.version)),
            told("header-length", wide(self.header_length)),
            told("total-length", self.total_length),
            self.bad_checksum.filter(|bad| *bad).map(|_| "bad-checksum".to_owned()),
            self.bad_inner_checksum.filter(|bad| *bad).map(|_| "bad-inner-checksum".to_owned()),
            told("truncate-to", self.truncate_to),
            told("trailing", self.trailing),
        ];
        all.into_iter().flatten().collect()
    }
}
