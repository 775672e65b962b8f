//! What a shaper has to know of a frame as its packet socket gives it: a `virtio_net_hdr` (packet(7), `PACKET_VNET_HDR`),
//! then the octets from the Ethernet header on.

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
}
