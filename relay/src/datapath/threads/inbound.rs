//! The thread from the underlay to the TUN.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use super::{DataPath, DataPathError, Lane, PAUSE, writer::Writer};
use crate::{
    datapath::{
        Verdict,
        coalesce::Coalescer,
        counters::{Bulk, Direction},
        icmp::Audience,
        inbound, marking,
        report::Reporter,
        tun::Queue,
        udp::batch::{self, Arrivals},
    },
    wire::virtio::Gso,
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
    let writer = Writer::new(tun, counters, stop);
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
    writer: Writer<'a, Queue<'a>>,
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
