//! What both the tests and the benches of the data path put through it.

use relay::wire::{
    checksum,
    virtio::{Gso, Header},
};

/// A TCP packet of `count` segments of `segment` octets from one subnet to the other, as the kernel hands it to be cut:
/// its checksum is left open.
pub(crate) fn large(segment: usize, count: usize) -> (Header, Vec<u8>) {
    let total = 40 + count * segment;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 5, 56, 2, 10, 5, 17, 2];
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    let sum = checksum::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x13, 0x89, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    packet.resize(total, 0x5a);
    let offload = Header {
        needs_checksum: true,
        gso: Gso::Tcp4,
        header_length: 0,
        segment: segment as u16,
        checksum_start: 20,
        checksum_offset: 16,
    };
    (offload, packet)
}
