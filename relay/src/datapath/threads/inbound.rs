//! The thread from the underlay to the TUN.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use super::{DataPath, DataPathError, Lane, PAUSE};
use crate::{
    datapath::{
        MAX_PACKET, Verdict,
        coalesce::{Coalescer, Emission},
        counters::{Bulk, Direction, DropReason},
        icmp::Audience,
        inbound, marking,
        report::Reporter,
        segment::Plan,
        tun::{self, Queue},
        udp::batch::{self, Arrivals},
    },
    wire::{
        ipv4::Packet,
        virtio::{Gso, Header},
    },
};

pub(super) fn run(lane: Lane<'_>, stop: &AtomicBool) -> Result<(), DataPathError> {
    let Lane { path, tun, sockets, .. } = lane;
    let counters = &lane.counters.inbound;
    let admitted = Audience::Admitted { subnet: path.admission.own_subnet, routes: &path.routes };
    let reporter = Reporter::new(&path.icmp, counters, admitted);
    let mut coalescer = Coalescer::new(path.tun.offload());
    for (kind, bulk) in [(Gso::Tcp4, Bulk::TunTcp), (Gso::Udp, Bulk::TunUdp)] {
        if !path.counters.in_use(bulk) {
            coalescer.give_up(kind);
        }
    }
    let writer = Writer {
        tun,
        counters,
        stop,
        scratch: vec![0; MAX_PACKET].into(),
        failed: None,
        refused: None,
        gone: false,
    };
    let mut inbound = Inbound { path, counters, coalescer, reporter, writer };
    let mut arrivals = Arrivals::new(if path.offload.batches() { batch::RECEIVE } else { 1 });
    let mut busy = false;
    while !stop.load(Relaxed) {
        // What comes alone is delivered before the kernel is asked for more; what had company last time waits for it.
        let result =
            if busy { arrivals.receive(&sockets.receive) } else { arrivals.receive_one(&sockets.receive) };
        if !inbound.received(result) {
            continue;
        }
        let alone = !busy;
        busy = arrivals.count() > 1;
        inbound.deliver(&mut arrivals)?;
        if alone && path.offload.batches() && inbound.received(arrivals.try_receive(&sockets.receive)) {
            busy = true;
            inbound.deliver(&mut arrivals)?;
        }
    }
    Ok(())
}

struct Inbound<'a> {
    path: &'a DataPath,
    counters: &'a Direction,
    coalescer: Coalescer,
    reporter: Reporter<'a>,
    writer: Writer<'a>,
}

impl Inbound<'_> {
    /// Whether there is something to deliver.
    fn received(&mut self, result: io::Result<()>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                false
            }
            Err(error) => {
                self.reporter.log(&error, "receiving from the underlay");
                thread::sleep(PAUSE);
                false
            }
        }
    }

    /// Delivers all that has arrived.
    fn deliver(&mut self, arrivals: &mut Arrivals) -> Result<(), DataPathError> {
        let writer = &mut self.writer;
        for (arrival, octets) in arrivals.iter_mut() {
            for datagram in batch::datagrams(octets, arrival.stride) {
                self.counters.received(1, datagram.len());
                match inbound::decide(datagram, arrival.node, &self.path.routes, &self.path.admission) {
                    Verdict::Forward(deliver) => {
                        let packet = &mut datagram[..deliver.length];
                        match marking::leave(packet, arrival.traffic_class) {
                            Ok(unexpected) => {
                                if let Some(pair) = unexpected {
                                    self.counters.unexpected_ecn(pair);
                                }
                                self.coalescer.push(packet, &mut |large| writer.write(large));
                            }
                            Err(reason) => self.counters.dropped(reason, 1),
                        }
                    }
                    Verdict::Drop(reason) => self.counters.dropped(reason, 1),
                    Verdict::Reject(reason, error) => {
                        // Counted last: once the counts agree, nothing is left to be sent.
                        self.reporter.answer(datagram, error);
                        self.counters.dropped(reason, 1);
                    }
                }
            }
        }
        self.coalescer.finish(&mut |large| writer.write(large));
        if let Some(kind) = writer.refused.take() {
            self.coalescer.give_up(kind);
            self.path.counters.lower(if kind == Gso::Tcp4 { Bulk::TunTcp } else { Bulk::TunUdp });
        }
        if let Some(error) = writer.failed.take() {
            self.reporter.log(&error, "writing to the TUN");
        }
        if writer.gone {
            return Err(DataPathError::DeviceGone(self.path.tun.name().to_owned()));
        }
        Ok(())
    }
}

/// Writes to the TUN and remembers what went wrong.
struct Writer<'a> {
    tun: Queue<'a>,
    counters: &'a Direction,
    stop: &'a AtomicBool,
    /// Where a large packet is cut again.
    scratch: Box<[u8]>,
    failed: Option<io::Error>,
    /// The kind of large packet that the kernel does not take.
    refused: Option<Gso>,
    gone: bool,
}

impl Writer<'_> {
    fn write(&mut self, large: Emission<'_>) {
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
            match self.tun.send(offload, packet) {
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
