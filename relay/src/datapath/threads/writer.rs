//! What is written to the TUN, whole or apart.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{
    datapath::{
        MAX_PACKET,
        coalesce::Emission,
        counters::{Direction, DropReason},
        segment::Plan,
        tun::{self, Queue},
    },
    wire::{
        ipv4::Packet,
        virtio::{Gso, Header},
    },
};

/// Takes packets as received on the TUN: a queue of it, but for tests.
pub(super) trait Device {
    /// As [`Queue::send`].
    fn send(&self, offload: Header, packet: &[u8]) -> io::Result<usize>;
}

impl Device for Queue<'_> {
    fn send(&self, offload: Header, packet: &[u8]) -> io::Result<usize> {
        Queue::send(self, offload, packet)
    }
}

/// Writes to the TUN and remembers what went wrong.
pub(super) struct Writer<'a, D> {
    device: D,
    counters: &'a Direction,
    stop: &'a AtomicBool,
    /// Where a large packet is cut again.
    scratch: Box<[u8]>,
    /// The last error, for the log.
    pub(super) failed: Option<io::Error>,
    /// The kind of large packet that the kernel does not take.
    pub(super) refused: Option<Gso>,
    /// Whether the device was deleted.
    pub(super) gone: bool,
}

impl<'a, D: Device> Writer<'a, D> {
    pub(super) fn new(device: D, counters: &'a Direction, stop: &'a AtomicBool) -> Self {
        let scratch = vec![0; MAX_PACKET].into();
        Self { device, counters, stop, scratch, failed: None, refused: None, gone: false }
    }

    /// Writes one packet or a large one, and counts what became of it.
    pub(super) fn write(&mut self, large: Emission<'_>) {
        match self.try_write(large.offload, large.packet) {
            Ok(()) => self.counters.passed(large.count, large.octets),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && large.count > 1 => {
                self.write_apart(large, &error);
            }
            Err(error) => self.fail(error, large.count),
        }
    }

    /// Writes the packets of a large one that the kernel did not take, one by one.
    fn write_apart(&mut self, large: Emission<'_>, error: &io::Error) {
        let plan =
            Packet::new_checked(large.packet).ok().and_then(|packet| Plan::new(&packet, &large.offload).ok());
        let Some(plan) = plan else {
            // What was merged can be cut; were it not so, the packets are still accounted for.
            return self.counters.dropped(DropReason::WriteFailed, large.count);
        };
        let mut segments = plan.segments(large.packet);
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(length) = segments.write_next(&mut scratch) {
            match self.try_write(Header::PLAIN, &scratch[..length]) {
                Ok(()) => {
                    if self.refused.replace(large.offload.gso).is_none() {
                        tracing::warn!(%error, kind = ?large.offload.gso, "the TUN takes no large packets of this kind: writing single ones from now on");
                    }
                    self.counters.passed(1, length);
                }
                Err(error) => self.fail(error, 1),
            }
        }
        self.scratch = scratch;
    }

    fn try_write(&self, offload: Header, packet: &[u8]) -> io::Result<()> {
        loop {
            match self.device.send(offload, packet) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted && !self.stop.load(Relaxed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn fail(&mut self, error: io::Error, packets: usize) {
        self.counters.dropped(DropReason::WriteFailed, packets);
        self.gone |= tun::is_gone(&error);
        self.failed = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{
        coalesce::Coalescer,
        kit::{octets, seal, tcp_packet, udp_packet},
        offload::TunOffload,
    };
    use std::cell::RefCell;

    /// A device that refuses some of what is written, and keeps the rest.
    struct Picky<F> {
        refuses: F,
        taken: RefCell<Vec<(Gso, Vec<u8>)>>,
    }

    impl<F: Fn(Gso, usize) -> Option<i32>> Device for Picky<F> {
        fn send(&self, offload: Header, packet: &[u8]) -> io::Result<usize> {
            if let Some(errno) = (self.refuses)(offload.gso, self.taken.borrow().len()) {
                return Err(io::Error::from_raw_os_error(errno));
            }
            self.taken.borrow_mut().push((offload.gso, packet.to_vec()));
            Ok(packet.len())
        }
    }

    fn numbered(mut packet: Vec<u8>, index: usize) -> Vec<u8> {
        packet[4..6].copy_from_slice(&(index as u16).to_be_bytes());
        seal(&mut packet);
        packet
    }

    fn tcp() -> Vec<Vec<u8>> {
        (0..3).map(|n| numbered(tcp_packet(n as u32 * 100, 0x10, &octets(100, n)), n)).collect()
    }

    fn udp() -> Vec<Vec<u8>> {
        (0..3).map(|n| numbered(udp_packet(&octets(100, n)), n)).collect()
    }

    struct Written {
        taken: Vec<(Gso, Vec<u8>)>,
        /// Packets that passed and packets that did not, as counted.
        counted: (u64, u64),
        refused: Option<Gso>,
        gone: bool,
    }

    /// What becomes of packets that are merged and written to a device that gives this answer to a packet of a kind, when
    /// it has taken so many.
    fn write(packets: &[Vec<u8>], refuses: impl Fn(Gso, usize) -> Option<i32>) -> Written {
        let (counters, stop) = (Direction::default(), AtomicBool::new(false));
        let mut writer = Writer::new(Picky { refuses, taken: RefCell::default() }, &counters, &stop);
        let mut coalescer = Coalescer::new(TunOffload::TcpAndUdp);
        for packet in packets {
            coalescer.push(packet, &mut |large| writer.write(large));
        }
        coalescer.finish(&mut |large| writer.write(large));
        Written {
            taken: writer.device.taken.take(),
            counted: (counters.packets_out.get(), counters.drops(DropReason::WriteFailed)),
            refused: writer.refused,
            gone: writer.gone,
        }
    }

    fn plain(packets: Vec<Vec<u8>>) -> Vec<(Gso, Vec<u8>)> {
        packets.into_iter().map(|packet| (Gso::None, packet)).collect()
    }

    #[test]
    fn what_the_kernel_takes_whole_is_written_once() {
        let written = write(&tcp(), |_, _| None);
        assert_eq!(written.taken.len(), 1);
        assert_eq!((written.counted, written.refused), ((3, 0), None));
    }

    #[test]
    fn a_kind_that_the_kernel_refuses_is_written_apart_as_it_came_and_given_up() {
        for (kind, packets) in [(Gso::Tcp4, tcp()), (Gso::Udp, udp())] {
            let written = write(&packets, |gso, _| (gso == kind).then_some(libc::EINVAL));
            assert_eq!(written.taken, plain(packets));
            assert_eq!((written.counted, written.refused), ((3, 0), Some(kind)));
        }
    }

    #[test]
    fn the_kind_is_not_to_blame_where_single_packets_are_refused_as_well() {
        let written = write(&tcp(), |_, _| Some(libc::EINVAL));
        assert_eq!((written.taken, written.counted, written.refused), (vec![], (0, 3), None));
    }

    #[test]
    fn the_kind_is_not_to_blame_for_other_errors() {
        let written = write(&udp(), |_, _| Some(libc::EIO));
        assert_eq!((written.counted, written.refused, written.gone), ((0, 3), None, false));
    }

    #[test]
    fn a_packet_refused_among_those_apart_is_counted_and_the_others_pass() {
        let written = write(&tcp(), |gso, taken| match (gso, taken) {
            (Gso::Tcp4, _) => Some(libc::EINVAL),
            (_, 1) => Some(libc::EBADFD),
            _ => None,
        });
        assert_eq!(written.taken, plain(tcp()[..1].to_vec()));
        assert_eq!((written.counted, written.refused), ((1, 2), Some(Gso::Tcp4)));
        assert!(written.gone);
    }
}
