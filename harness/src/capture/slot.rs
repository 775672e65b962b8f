//! What the kernel writes into one slot of a packet socket's ring: `struct tpacket2_hdr`, `struct sockaddr_ll`, and the
//! packet (linux/if_packet.h; Documentation/networking/packet_mmap.rst). All integers are in the host's byte order.

use std::mem::offset_of;
use std::time::Duration;

use libc::{sockaddr_ll, tpacket2_hdr};

use super::frame::{Cast, Direction, Link};

/// The address follows the header, both aligned to `TPACKET_ALIGNMENT`.
const ADDRESS: usize = size_of::<tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// Octets of the `virtio_net_hdr` before each packet (packet(7), `PACKET_VNET_HDR`).
pub(super) const OFFLOAD_HEADER_LEN: usize = 10;
/// `VIRTIO_NET_HDR_GSO_TCPV4`, `VIRTIO_NET_HDR_GSO_UDP_L4` and `VIRTIO_NET_HDR_GSO_ECN`, a mark on either
/// (linux/virtio_net.h).
const GSO_TCP: u8 = 1;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// One packet as a slot has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot<'a> {
    /// The interface's index in its namespace.
    pub(super) index: u32,
    /// Which way it passed.
    pub(super) direction: Direction,
    /// Whom the frame was for.
    pub(super) cast: Cast,
    /// When, by the kernel's clock, since the Unix epoch.
    pub(super) at: Duration,
    /// How the octets begin, by the interface's type.
    pub(super) link: Link,
    /// The octets, as many as the slot has room for.
    pub(super) octets: &'a [u8],
    /// Length on the wire.
    pub(super) wire_len: u32,
    /// Whether the transport checksum was still to be completed.
    pub(super) checksum_pending: bool,
    /// For UDP datagrams that pass in one piece and are to be cut by the (virtual) hardware: octets of payload in each.
    pub(super) segment: Option<u16>,
    /// The same for segments of TCP over IPv4.
    pub(super) tcp_segment: Option<u16>,
    /// Whether the packet, too long for the slot, waits whole in the socket's queue.
    pub(super) queued: bool,
}

impl<'a> Slot<'a> {
    /// Reads a filled slot. Octets that it points to outside itself are missing from the packet.
    pub(super) fn parse(slot: &'a [u8]) -> Self {
        let status = u32::from_ne_bytes(array(slot, offset_of!(tpacket2_hdr, tp_status)));
        let captured = u32::from_ne_bytes(array(slot, offset_of!(tpacket2_hdr, tp_snaplen)));
        let start = usize::from(u16::from_ne_bytes(array(slot, offset_of!(tpacket2_hdr, tp_mac))));
        let end = start.saturating_add(usize::try_from(captured).unwrap_or(usize::MAX));
        let seconds = u32::from_ne_bytes(array(slot, offset_of!(tpacket2_hdr, tp_sec)));
        let nanoseconds = u32::from_ne_bytes(array(slot, offset_of!(tpacket2_hdr, tp_nsec)));
        let hardware = u16::from_ne_bytes(array(slot, ADDRESS + offset_of!(sockaddr_ll, sll_hatype)));
        let offload: [u8; OFFLOAD_HEADER_LEN] = array(slot, start.saturating_sub(OFFLOAD_HEADER_LEN));
        let size = u16::from_ne_bytes([offload[4], offload[5]]);
        let cut_as = |kind| (offload[1] & !GSO_ECN == kind && size > 0).then_some(size);
        let [kind] = array(slot, ADDRESS + offset_of!(sockaddr_ll, sll_pkttype));
        Self {
            index: u32::from_ne_bytes(array(slot, ADDRESS + offset_of!(sockaddr_ll, sll_ifindex))),
            direction: if kind == libc::PACKET_OUTGOING { Direction::Out } else { Direction::In },
            cast: match kind {
                libc::PACKET_BROADCAST | libc::PACKET_MULTICAST => Cast::Many,
                libc::PACKET_OTHERHOST => Cast::Other,
                _ => Cast::Host,
            },
            at: Duration::from_secs(seconds.into()) + Duration::from_nanos(nanoseconds.into()),
            link: if hardware == libc::ARPHRD_ETHER { Link::Ethernet } else { Link::Ip },
            octets: slot.get(start..end).unwrap_or_default(),
            wire_len: u32::from_ne_bytes(array(slot, offset_of!(tpacket2_hdr, tp_len))),
            checksum_pending: status & libc::TP_STATUS_CSUMNOTREADY != 0,
            segment: cut_as(GSO_UDP),
            tcp_segment: cut_as(GSO_TCP),
            queued: status & libc::TP_STATUS_COPY != 0,
        }
    }
}

/// `N` octets from `offset`, zero where there are none.
fn array<const N: usize>(octets: &[u8], offset: usize) -> [u8; N] {
    octets.get(offset..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A slot as Linux writes it on a veth: the header, the address, and the packet's Ethernet header so that the IP
    /// header is aligned.
    fn slot(status: u32, kind: u8, hardware: u16, wire_len: u32, packet: &[u8]) -> Vec<u8> {
        let captured = u32::try_from(packet.len()).unwrap();
        let mut slot = [status | libc::TP_STATUS_USER, wire_len, captured].map(u32::to_ne_bytes).concat();
        slot.extend([66u16, 80].map(u16::to_ne_bytes).concat());
        slot.extend([7u32, 9, 0, 0].map(u32::to_ne_bytes).concat());
        slot.extend(17u16.to_ne_bytes());
        slot.extend(0x0800u16.to_be_bytes());
        slot.extend(3u32.to_ne_bytes());
        slot.extend(hardware.to_ne_bytes());
        slot.extend([kind, 6]);
        slot.resize(66, 0);
        slot.extend(packet);
        slot.resize(2048, 0xee);
        slot
    }

    #[test]
    fn whom_a_frame_was_for_is_told() {
        let cast = |kind| Slot::parse(&slot(0, kind, libc::ARPHRD_ETHER, 1, b"x")).cast;
        let kinds = [
            libc::PACKET_HOST,
            libc::PACKET_OUTGOING,
            libc::PACKET_BROADCAST,
            libc::PACKET_MULTICAST,
            libc::PACKET_OTHERHOST,
        ];
        assert_eq!(kinds.map(cast), [Cast::Host, Cast::Host, Cast::Many, Cast::Many, Cast::Other]);
    }

    #[test]
    fn a_slot_gives_the_packet_and_what_the_kernel_says_of_it() {
        let slot = slot(libc::TP_STATUS_CSUMNOTREADY, libc::PACKET_OUTGOING, libc::ARPHRD_ETHER, 5, b"hello");
        let expected = Slot {
            index: 3,
            direction: Direction::Out,
            cast: Cast::Host,
            at: Duration::new(7, 9),
            link: Link::Ethernet,
            octets: b"hello",
            wire_len: 5,
            checksum_pending: true,
            segment: None,
            tcp_segment: None,
            queued: false,
        };
        assert_eq!(Slot::parse(&slot), expected);
    }

    #[test]
    fn a_run_of_datagrams_is_told_by_the_header_before_the_packet() {
        let mut slot = slot(0, libc::PACKET_OUTGOING, libc::ARPHRD_ETHER, 5, b"hello");
        let header = 66 - OFFLOAD_HEADER_LEN;
        slot[header + 1] = GSO_UDP;
        slot[header + 4..header + 6].copy_from_slice(&1472u16.to_ne_bytes());
        assert_eq!(Slot::parse(&slot).segment, Some(1472));
        slot[header + 1] = GSO_TCP | GSO_ECN;
        let parsed = Slot::parse(&slot);
        assert_eq!((parsed.segment, parsed.tcp_segment), (None, Some(1472)));
    }

    #[test]
    fn a_packet_of_a_tunnel_device_begins_with_its_ip_header() {
        let slot = slot(0, libc::PACKET_HOST, libc::ARPHRD_NONE, 5, b"hello");
        let parsed = Slot::parse(&slot);
        assert_eq!((parsed.link, parsed.direction), (Link::Ip, Direction::In));
        assert!(!parsed.checksum_pending);
    }

    #[test]
    fn a_packet_longer_than_the_slot_is_said_to_be_queued_whole() {
        let slot = slot(libc::TP_STATUS_COPY, libc::PACKET_HOST, libc::ARPHRD_ETHER, 9000, &[1; 1982]);
        let parsed = Slot::parse(&slot);
        assert!(parsed.queued);
        assert_eq!((parsed.octets.len(), parsed.wire_len), (1982, 9000));
    }

    #[test]
    fn octets_outside_the_slot_are_missing() {
        let mut slot = slot(0, libc::PACKET_HOST, libc::ARPHRD_ETHER, 5, b"hello");
        let captured = offset_of!(tpacket2_hdr, tp_snaplen);
        slot[captured..captured + 4].fill(0xff);
        assert_eq!(Slot::parse(&slot).octets, b"");
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..256)) {
            Slot::parse(&octets);
        }
    }
}
