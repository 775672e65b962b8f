//! Packet headers and checksums: bytes in, fields out, no file descriptors.

pub mod checksum;
pub mod ecn;
pub mod icmpv4;
pub mod ipv4;
pub mod tcp;
pub mod udp;
pub mod virtio;
