//! Real octets for tests.

use std::net::Ipv4Addr;

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, UdpHeader,
    icmpv4::DestUnreachableHeader, icmpv4::TimeExceededCode,
};

/// An IPv4 packet in the making. Checksums are right unless spoilt.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) header: Ipv4Header,
    pub(crate) body: Vec<u8>,
}

impl Build {
    pub(crate) fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpNumber, body: Vec<u8>) -> Self {
        let len = u16::try_from(body.len()).unwrap();
        let mut header = Ipv4Header::new(len, 64, protocol, source.octets(), destination.octets()).unwrap();
        header.dont_fragment = false;
        Self { header, body }
    }

    pub(crate) fn echo(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        reply: bool,
        id: u16,
        seq: u16,
        payload: &[u8],
    ) -> Self {
        let echo = IcmpEchoHeader { id, seq };
        let kind = if reply { Icmpv4Type::EchoReply(echo) } else { Icmpv4Type::EchoRequest(echo) };
        Self::icmp(source, destination, kind, payload)
    }

    pub(crate) fn icmp(source: Ipv4Addr, destination: Ipv4Addr, kind: Icmpv4Type, payload: &[u8]) -> Self {
        let mut body = Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec();
        body.extend_from_slice(payload);
        Self::new(source, destination, IpNumber::ICMP, body)
    }

    /// Time exceeded, with up to `quoted` octets of what it is about.
    pub(crate) fn time_exceeded(source: Ipv4Addr, about: &Self, quoted: usize) -> Self {
        Self::about(source, Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit), about, quoted)
    }

    pub(crate) fn unreachable(
        source: Ipv4Addr,
        why: DestUnreachableHeader,
        about: &Self,
        quoted: usize,
    ) -> Self {
        Self::about(source, Icmpv4Type::DestinationUnreachable(why), about, quoted)
    }

    fn about(source: Ipv4Addr, kind: Icmpv4Type, about: &Self, quoted: usize) -> Self {
        let quote = about.octets();
        Self::icmp(source, about.header.source.into(), kind, &quote[..quoted.min(quote.len())])
    }

    pub(crate) fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Self {
        let mut packet = Self::new(from.0, to.0, IpNumber::UDP, Vec::new());
        let header = UdpHeader::with_ipv4_checksum(from.1, to.1, &packet.header, payload).unwrap();
        packet.body = [&header.to_bytes()[..], payload].concat();
        packet.header.set_payload_len(packet.body.len()).unwrap();
        packet
    }

    pub(crate) fn tos(mut self, tos: u8) -> Self {
        self.header.dscp = IpDscp::try_new(tos >> 2).unwrap();
        self.header.ecn = IpEcn::try_new(tos & 3).unwrap();
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.header.time_to_live = ttl;
        self
    }

    pub(crate) fn df(mut self) -> Self {
        self.header.dont_fragment = true;
        self
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.header.identification = id;
        self
    }

    /// Rewrites the source as the kernel's masquerading does: an ICMP checksum does not depend on it.
    pub(crate) fn source(mut self, source: Ipv4Addr) -> Self {
        self.header.source = source.octets();
        self
    }

    pub(crate) fn destination(mut self, destination: Ipv4Addr) -> Self {
        self.header.destination = destination.octets();
        self
    }

    /// Flips a bit of the transport's last octet, leaving its checksum as it was.
    pub(crate) fn spoilt(mut self) -> Self {
        *self.body.last_mut().unwrap() ^= 1;
        self
    }

    /// Cut into fragments whose payloads have at most `size` octets (a multiple of eight).
    pub(crate) fn fragments(&self, size: usize) -> Vec<Self> {
        let last = (self.body.len() - 1) / size;
        let cut = |(at, chunk): (usize, &[u8])| {
            let mut header = self.header.clone();
            header.fragment_offset = IpFragOffset::try_new(u16::try_from(at * size / 8).unwrap()).unwrap();
            header.more_fragments = at < last;
            header.set_payload_len(chunk.len()).unwrap();
            Self { header, body: chunk.to_vec() }
        };
        self.body.chunks(size).enumerate().map(cut).collect()
    }

    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], &self.body].concat()
    }
}
