//! What a shaper has to know of a frame as its packet socket gives it: a `virtio_net_hdr` (packet(7), `PACKET_VNET_HDR`),
//! then the octets from the Ethernet header on.

use crate::capture::frame::Link;
use crate::capture::run;

/// Octets of a `virtio_net_hdr` as packet sockets have it.
pub(super) const OFFLOAD_HEADER_LEN: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` in the header's first octet (linux/virtio_net.h).
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP_L4` in its second.
const GSO_UDP: u8 = 5;
/// The length of an Ethernet header, which has the type of what follows in its last two octets.
const ETHERNET_LEN: usize = 14;

/// A frame with its offload header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// The octets on the wire.
    pub(super) octets: &'a [u8],
    /// Whether the transport checksum was still to be completed.
    pub(super) checksum_pending: bool,
    /// For a run of UDP datagrams: octets of payload in each.
    pub(super) segment: Option<u16>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(frame: &'a [u8]) -> Self {
        let (header, octets) = frame.split_at_checked(OFFLOAD_HEADER_LEN).unwrap_or((&[], frame));
        let (flags, segment) = match header {
            [flags, GSO_UDP, _, _, low, high, ..] => (*flags, Some(u16::from_ne_bytes([*low, *high]))),
            [flags, ..] => (*flags, None),
            [] => (0, None),
        };
        let checksum_pending = flags & NEEDS_CHECKSUM != 0;
        Self { octets, checksum_pending, segment: segment.filter(|segment| *segment > 0) }
    }

    /// The protocol of the IPv4 packet that it carries (RFC 791), or none.
    pub(super) fn protocol(&self) -> Option<u8> {
        let ether_type = self.octets.get(ETHERNET_LEN - 2..ETHERNET_LEN)?;
        (ether_type == [8, 0]).then(|| self.octets.get(ETHERNET_LEN + 9).copied()).flatten()
    }
}

/// The frames that a wire would carry in the place of one: the datagrams of a run, each with a header of its own. How many
/// share a run is a matter of time, and what becomes of each datagram is not to be. Segments of TCP stay together.
pub(super) fn pieces(frame: Vec<u8>) -> Vec<Vec<u8>> {
    let parts = Parts::of(&frame);
    let datagrams = match parts.segment.filter(|_| parts.checksum_pending) {
        Some(segment) => run::cut(parts.octets, Link::Ethernet, segment),
        None => None,
    };
    let Some(datagrams) = datagrams else { return vec![frame] };
    let mut header = frame.get(..OFFLOAD_HEADER_LEN).unwrap_or_default().to_vec();
    // What is left of the header is where the checksum goes; the kind of run and the lengths are no more.
    if let Some(run) = header.get_mut(1..6) {
        run.fill(0);
    }
    datagrams.into_iter().map(|octets| [&header[..], &with_pseudo_header_sum(octets)].concat()).collect()
}

/// Puts into a UDP datagram's checksum field what has to stand there for the (virtual) hardware to complete it: the sum of
/// the pseudo-header (RFC 768), of which the length is part.
fn with_pseudo_header_sum(mut octets: Vec<u8>) -> Vec<u8> {
    let ip_len = octets.get(ETHERNET_LEN).map_or(0, |first| usize::from(first & 0x0f) * 4);
    let udp_at = ETHERNET_LEN + ip_len;
    let addresses = octets.get(ETHERNET_LEN + 12..ETHERNET_LEN + 20).unwrap_or_default();
    let len = octets.get(udp_at + 4..udp_at + 6).unwrap_or_default();
    let words = addresses.chunks_exact(2).chain(len.chunks_exact(2));
    let words = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum = words.sum::<u32>() + libc::IPPROTO_UDP.cast_unsigned();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    if let Some([.., high, low]) = octets.get_mut(udp_at..udp_at + 8) {
        // Folded, it fits in two octets.
        [*high, *low] = (sum as u16).to_be_bytes();
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(header: [u8; OFFLOAD_HEADER_LEN], ether_type: [u8; 2]) -> Vec<u8> {
        let mut frame = header.to_vec();
        frame.extend([2; 12]);
        frame.extend(ether_type);
        frame.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame
    }

    #[test]
    fn the_protocol_is_that_of_ipv4_alone() {
        assert_eq!(Parts::of(&frame([0; 10], [8, 0])).protocol(), Some(17));
        assert_eq!(Parts::of(&frame([0; 10], [8, 6])).protocol(), None);
        for len in 0..OFFLOAD_HEADER_LEN + ETHERNET_LEN + 10 {
            assert_eq!(Parts::of(&frame([0; 10], [8, 0])[..len]).protocol(), None, "{len}");
        }
    }

    #[test]
    fn the_header_tells_of_runs_and_of_checksums_to_come() {
        let [low, high] = 1400u16.to_ne_bytes();
        let run = frame([1, GSO_UDP, 42, 0, low, high, 34, 0, 6, 0], [8, 0]);
        let parts = Parts::of(&run);
        assert_eq!((parts.checksum_pending, parts.segment, parts.octets.len()), (true, Some(1400), 34));
        let plain = frame([0; 10], [8, 0]);
        let parts = Parts::of(&plain);
        assert_eq!((parts.checksum_pending, parts.segment), (false, None));
    }

    /// A run of datagrams as a packet socket gives it: to be cut, and its checksums to be completed.
    fn run(payload: &[u8], segment: u16) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(8285, 8285);
        let mut octets = Vec::new();
        builder.write(&mut octets, payload).unwrap();
        let [low, high] = segment.to_ne_bytes();
        let ([start, _], [offset, _]) = (34u16.to_ne_bytes(), 6u16.to_ne_bytes());
        [&[NEEDS_CHECKSUM, GSO_UDP, 42, 0, low, high, start, 0, offset, 0], &octets[..]].concat()
    }

    #[test]
    fn a_run_is_cut_into_datagrams_whose_checksums_can_be_completed() {
        let payload: Vec<u8> = (0..=250).collect();
        let pieces = pieces(run(&payload, 100));
        let mut joined = Vec::new();
        for piece in &pieces {
            let parts = Parts::of(piece);
            assert_eq!((parts.checksum_pending, parts.segment, parts.protocol()), (true, None, Some(17)));
            assert_eq!(piece[6..10], [34, 0, 6, 0]);
            // What the hardware does: the sum from the start of the transport header on goes into the checksum.
            let mut octets = parts.octets.to_vec();
            let words = octets[34..].chunks(2);
            let words =
                words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
            let sum: u32 = words.sum();
            let folded = (sum >> 16) + (sum & 0xffff);
            let checksum = !(((folded >> 16) + folded) as u16);
            octets[40..42].copy_from_slice(&checksum.to_be_bytes());
            let sliced = etherparse::SlicedPacket::from_ethernet(&octets).unwrap();
            let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Udp(udp))) =
                (sliced.net, sliced.transport)
            else {
                panic!("no UDP")
            };
            let right = udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
            assert_eq!(checksum, right);
            joined.extend_from_slice(udp.payload());
        }
        assert_eq!((pieces.len(), joined), (3, payload));
    }

    #[test]
    fn what_is_no_run_stays_as_it_is() {
        let whole = frame([0; 10], [8, 0]);
        assert_eq!(pieces(whole.clone()), [whole]);
        let mut done = run(&[1; 300], 100);
        done[0] = 0;
        assert_eq!(pieces(done.clone()), [done]);
        for len in 0..60 {
            let short = run(&[1; 300], 100)[..len].to_vec();
            assert!(!pieces(short).is_empty());
        }
    }
}
