//! The thread from the TUN to the underlay.

use std::{
    io,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Instant,
};

use super::{
    DataPath, DataPathError, Lane, PAUSE,
    replay::{self, Alone},
};
use crate::{
    datapath::{
        ENCAPSULATION, MAX_PACKET, Verdict,
        counters::{Bulk, Direction, DropReason},
        icmp::Audience,
        limits::PathLimits,
        outbound,
        report::Reporter,
        runs::{Destination, Run, Runs},
        tun,
        udp::{self, TooLong, batch},
    },
    wire::{icmpv4::Error, ipv4::Packet, virtio},
};

pub(super) fn run(lane: Lane<'_>, stop: &AtomicBool) -> Result<(), DataPathError> {
    let Lane { path, tun, sockets, too_long, .. } = lane;
    let counters = &lane.counters.outbound;
    let own =
        Audience::Own { subnet: path.admission.own_subnet, address: path.address, routes: &path.routes };
    let mut outbound = Outbound {
        path,
        counters,
        runs: Runs::new(path.counters.in_use(Bulk::UdpSend)),
        quote: vec![0; MAX_PACKET].into(),
        sender: Sender {
            path,
            socket: sockets.sender(),
            counters,
            reporter: Reporter::new(&path.icmp, counters, own),
            too_long,
            limits: PathLimits::default(),
            stop,
        },
    };
    let mut packet = vec![0; MAX_PACKET];
    let mut drains = path.offload.batches();
    let mut busy = false;
    while !stop.load(Relaxed) {
        match tun.receive(&mut packet) {
            Ok((offload, length)) => outbound.take(&offload, &mut packet[..length]),
            Err(error) => {
                outbound.read_failed(&error)?;
                continue;
            }
        }
        // A packet that comes alone leaves at once; it waits for company only when the last one had some.
        if !busy || !drains {
            outbound.flush();
        }
        busy = false;
        while drains && !stop.load(Relaxed) {
            match tun.try_receive(&mut packet) {
                Ok((offload, length)) => {
                    busy = true;
                    outbound.take(&offload, &mut packet[..length]);
                }
                // Whatever it is, the read that waits comes next: it tells whether the device is gone, and an error that
                // only this kind of read gets must not keep the thread from it.
                Err(error) => {
                    drains = outbound.drained(&error);
                    break;
                }
            }
        }
        outbound.flush();
    }
    Ok(())
}

/// Whether an error of a read without waiting is of the kernel or a filter of system calls that has no such reads.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::EACCES))
}

struct Outbound<'a> {
    path: &'a DataPath,
    counters: &'a Direction,
    runs: Runs,
    /// What an ICMP error quotes: the first packet of a large one, as it would have gone out.
    quote: Box<[u8]>,
    sender: Sender<'a>,
}

impl Outbound<'_> {
    fn take(&mut self, offload: &virtio::Header, packet: &mut [u8]) {
        let (plan, verdict) = outbound::decide(packet, offload, &self.path.routes);
        self.counters.received(plan.count(), plan.octets());
        match verdict {
            Verdict::Forward(node) => {
                let class = Packet::new_checked(&*packet).map_or(0, |packet| packet.traffic_class());
                let to = Destination { node, traffic_class: self.path.marking.outer(class) };
                let mut segments = plan.segments(packet);
                while let Some(length) = segments.write_next(self.runs.room()) {
                    self.runs.push(to, length);
                    if self.runs.is_full() {
                        self.flush();
                    }
                }
            }
            Verdict::Drop(reason) => self.counters.dropped(reason, plan.count()),
            Verdict::Reject(reason, error) => {
                if let Some(length) = plan.segments(packet).write_next(&mut self.quote) {
                    self.sender.reporter.answer(&self.quote[..length], error);
                }
                // Counted last: once the counts agree, nothing is left to be sent.
                self.counters.dropped(reason, plan.count());
            }
        }
    }

    fn flush(&mut self) {
        let (buffer, runs) = self.runs.waiting();
        let segments = self.sender.send(buffer, runs);
        self.runs.clear();
        if !segments {
            self.runs.stop_segmenting();
            self.path.counters.lower(Bulk::UdpSend);
        }
    }

    /// Deals with the end of what could be read without waiting. False when there are no such reads.
    fn drained(&mut self, error: &io::Error) -> bool {
        if is_unsupported(error) {
            tracing::info!(
                %error,
                "no reads of the TUN without waiting (Linux has them since 6.4, a seccomp filter may not): each packet \
                 read goes out by itself, which costs small ones most"
            );
            return false;
        }
        // Else it may be one packet that cannot be read (EINVAL for a large one of an unknown kind).
        if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            && !tun::is_gone(error)
        {
            self.sender.reporter.log(error, "reading from the TUN");
        }
        true
    }

    fn read_failed(&mut self, error: &io::Error) -> Result<(), DataPathError> {
        if tun::is_gone(error) {
            return Err(DataPathError::DeviceGone(self.path.tun.name().to_owned()));
        }
        if error.kind() != io::ErrorKind::Interrupted {
            self.sender.reporter.log(error, "reading from the TUN");
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// Sends runs, waiting for room in the socket's queue: the TUN's own queue holds the senders back meanwhile.
struct Sender<'a> {
    path: &'a DataPath,
    socket: &'a UdpSocket,
    counters: &'a Direction,
    reporter: Reporter<'a>,
    too_long: TooLong,
    limits: PathLimits,
    stop: &'a AtomicBool,
}

impl Sender<'_> {
    /// Sends all runs in order. False when the kernel turned out not to segment.
    fn send(&mut self, buffer: &[u8], mut runs: &[Run]) -> bool {
        let mut segments = true;
        while let Some((run, rest)) = runs.split_first() {
            match self.try_send(buffer, runs) {
                Ok(sent) => {
                    for run in &runs[..sent] {
                        self.counters.passed(run.count, run.length);
                    }
                    runs = &runs[sent..];
                }
                Err(error) => {
                    segments &= self.refused(buffer, *run, &error);
                    runs = rest;
                }
            }
        }
        segments
    }

    fn try_send(&self, buffer: &[u8], runs: &[Run]) -> io::Result<usize> {
        loop {
            match batch::send(self.socket, self.path.port, buffer, runs) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
                        && !self.stop.load(Relaxed) => {}
                result => return result,
            }
        }
    }

    /// Deals with a run that the kernel did not take. False when it does not segment.
    fn refused(&mut self, buffer: &[u8], run: Run, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => self.fit(buffer, run),
            // EINVAL: Linux before 6.14 (235174b2bed8) says so of datagrams longer than their path. It does where
            // single ones would not be refused, too.
            Some(libc::EINVAL) if run.count > 1 && run.stride > usize::from(self.limit(run)) => {
                self.fit(buffer, run);
            }
            // EIO: the interface computes no checksums (Linux before 6.11) or the route is transformed (xfrm).
            Some(libc::EIO | libc::EINVAL) if run.count > 1 => {
                let replayed = replay::one_by_one(run, |single| self.send_alone(buffer, single));
                if let Some(rest) = replayed.too_long {
                    self.fit(buffer, rest);
                }
                if replayed.segmenting_refused {
                    tracing::warn!(%error, "the kernel does not segment UDP here: sending single datagrams from now on");
                    return false;
                }
            }
            _ => self.failed(run.count, error),
        }
        true
    }

    fn send_alone(&mut self, buffer: &[u8], single: Run) -> Alone {
        match self.try_send(buffer, &[single]) {
            Ok(_) => {
                self.counters.passed(1, single.length);
                Alone::Sent
            }
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Alone::TooLong,
            Err(error) => {
                self.failed(1, &error);
                Alone::Failed
            }
        }
    }

    /// Counts datagrams that were not sent. What the end has interrupted in waiting for room is no error to tell of.
    fn failed(&mut self, count: usize, error: &io::Error) {
        self.counters.dropped(DropReason::SendFailed, count);
        let waited = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
        if !(waited && self.stop.load(Relaxed)) {
            self.reporter.log(error, "sending to the underlay");
        }
    }

    /// Deals with datagrams longer than the path, or than what is left of it after a router of the underlay has told
    /// the kernel of a smaller hop.
    ///
    /// A source that forbids fragments is told, once, and its packet dropped (RFC 2003 section 5.1). Where no error may
    /// be sent, or the rate does not allow one, the packet is carried all the same: no black hole. Carried means that
    /// the kernel fragments the datagram around it, and the other node's kernel puts it together: what arrives inside
    /// is what was sent, and the receiver has nothing to reassemble.
    fn fit(&mut self, buffer: &[u8], run: Run) {
        let limit = self.limit(run);
        self.fragment(true);
        let mut told = None;
        for place in run.datagrams() {
            let packet = &buffer[place.clone()];
            let unfragmentable = || Packet::new_checked(packet).is_ok_and(|packet| packet.dont_fragment());
            if packet.len() > usize::from(limit) && unfragmentable() {
                let flow = packet.get(9).zip(packet.get(12..24));
                if (flow.is_some() && told == flow)
                    || self.reporter.answer(packet, Error::FragmentationNeeded { mtu: limit })
                {
                    told = flow;
                    self.counters.dropped(DropReason::TooLong, 1);
                    continue;
                }
            }
            let length = packet.len();
            match self.send_alone(buffer, Run { start: place.start, length, stride: length, count: 1, ..run })
            {
                Alone::Sent if length > usize::from(limit) => self.counters.fragmented.add(1),
                Alone::Sent | Alone::Failed => {}
                Alone::TooLong => self.counters.dropped(DropReason::TooLong, 1),
            }
        }
        self.fragment(false);
    }

    /// The longest packet that the path of a run that was refused takes, in octets; any, where the kernel does not tell.
    fn limit(&mut self, run: Run) -> u16 {
        let (node, address, port) = (run.to.node, self.path.address, self.path.port);
        let ask = || udp::path_mtu(address, node, port).map(|mtu| mtu.saturating_sub(ENCAPSULATION as u16));
        self.limits.get(node, run.stride, Instant::now(), ask).unwrap_or_else(|error| {
            self.reporter.log(&error, "asking for the path MTU");
            u16::MAX
        })
    }

    fn fragment(&mut self, fragment: bool) {
        if let Err(error) = self.too_long.fragment(self.socket, fragment) {
            self.reporter.log(&error, "setting whether datagrams are fragmented");
        }
    }
}
