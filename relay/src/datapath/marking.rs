//! The traffic class of the tunnel's datagrams: what it takes over from the packets inside, and what it does to them.

use clap::ValueEnum;

use super::counters::{DropReason, Unexpected};
use crate::wire::{
    ecn::{self, Ecn, Leaving, decapsulate},
    ipv4::Packet,
};

/// What becomes of a field of the packet inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Outer {
    /// The datagram's is zero.
    #[default]
    Off,
    /// The datagram's is the same.
    Copy,
}

/// How datagrams are marked. By default they are as flannel's: zero in both fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marking {
    /// ECN. Off is RFC 6040's compatibility mode, for other ends that do not carry marks over from the datagram;
    /// copy is its normal mode.
    pub ecn: Outer,
    /// DSCP. Both ways are RFC 2983's pipe: what the underlay makes of it never reaches the packet inside.
    pub dscp: Outer,
}

impl Marking {
    /// The traffic class of the datagram around a packet of traffic class `inner`.
    #[must_use]
    pub const fn outer(self, inner: u8) -> u8 {
        let ecn = if matches!(self.ecn, Outer::Copy) { ecn::MASK } else { 0 };
        let dscp = if matches!(self.dscp, Outer::Copy) { !ecn::MASK } else { 0 };
        inner & (ecn | dscp)
    }
}

/// Carries the mark of the datagram of traffic class `outer` over to the packet that came in it, in place. The same
/// in either mode, as RFC 6040 section 4.2 has it: a datagram that no relay marked changes nothing.
///
/// # Errors
/// The packet is to be dropped. One that is malformed is left to [`super::inbound::decide`].
pub fn leave(packet: &mut [u8], outer: u8) -> Result<Option<Unexpected>, DropReason> {
    let outer = Ecn::of(outer);
    if outer == Ecn::NotCapable {
        return Ok(None);
    }
    let Ok(mut packet) = Packet::new_checked(packet) else { return Ok(None) };
    let inner = Ecn::of(packet.traffic_class());
    match decapsulate(inner, outer) {
        Leaving::With(ecn) => {
            if ecn != inner {
                packet.set_ecn(ecn);
            }
            Ok(None)
        }
        // The packet's own field stays in all of these.
        Leaving::Unexpected(_) => Ok(Some(match inner {
            Ecn::NotCapable => Unexpected::CapableOnNotCapable,
            Ecn::Capable0 | Ecn::Capable1 => Unexpected::Capable0OnCapable1,
            Ecn::Congested => Unexpected::Capable1OnCongested,
        })),
        Leaving::Nothing => Err(DropReason::CongestedNotCapable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        checksum,
        ipv4::{test_packet, test_seal},
    };
    use proptest::prelude::*;

    fn packet(traffic_class: u8) -> Vec<u8> {
        let mut packet = test_packet([10, 5, 17, 2].into(), [10, 5, 56, 2].into(), 64, 17, b"data");
        packet[1] = traffic_class;
        test_seal(&mut packet);
        packet
    }

    #[test]
    fn datagrams_are_unmarked_unless_asked_for() {
        let copy = |ecn, dscp| Marking { ecn, dscp }.outer(0xb9);
        assert_eq!(Marking::default().outer(0xff), 0);
        assert_eq!(copy(Outer::Copy, Outer::Off), 0x01);
        assert_eq!(copy(Outer::Off, Outer::Copy), 0xb8);
        assert_eq!(copy(Outer::Copy, Outer::Copy), 0xb9);
    }

    #[test]
    fn a_mark_reaches_a_capable_packet_and_ends_another() {
        let mut capable = packet(0xb8 | Ecn::Capable0 as u8);
        assert_eq!(leave(&mut capable, 0x03), Ok(None));
        assert_eq!(capable, packet(0xb8 | Ecn::Congested as u8));
        assert_eq!(leave(&mut packet(0xb8), 0x03), Err(DropReason::CongestedNotCapable));
    }

    #[test]
    fn each_unexpected_pair_is_told_apart_and_changes_nothing() {
        for (inner, outer, pair) in [
            (0, 1, Unexpected::CapableOnNotCapable),
            (0, 2, Unexpected::CapableOnNotCapable),
            (1, 2, Unexpected::Capable0OnCapable1),
            (3, 1, Unexpected::Capable1OnCongested),
        ] {
            let mut bytes = packet(inner);
            assert_eq!(leave(&mut bytes, outer), Ok(Some(pair)));
            assert_eq!(bytes, packet(inner));
        }
    }

    proptest! {
        #[test]
        fn nothing_but_the_ecn_field_and_the_checksum_changes(inner: u8, outer: u8) {
            let mut bytes = packet(inner);
            if leave(&mut bytes, outer).is_ok() {
                prop_assert_eq!(checksum::sum(&bytes[..20]), 0xffff);
                prop_assert_eq!(bytes[1] & !ecn::MASK, inner & !ecn::MASK);
                prop_assert_eq!(&bytes, &packet(bytes[1]));
            } else {
                prop_assert_eq!((inner & ecn::MASK, outer & ecn::MASK), (0, 3));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), outer: u8) {
            let _ = leave(&mut bytes, outer);
        }
    }
}
