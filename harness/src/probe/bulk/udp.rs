//! Streams of UDP datagrams.

use std::io::{self, ErrorKind};
use std::net::{SocketAddrV4, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::ledger::Ledger;
use super::pattern::Pattern;
use super::shortfall::{Shortfall, named};
use super::{PATIENCE, cause, joined};

/// UDP datagrams under way at a time, which any queue on the way has room for.
pub(super) const WINDOW: u32 = 64;
/// UDP datagrams of one size that a stream sends in a row, so that there is something to be merged.
const ROW: u32 = 8;
/// Octets of payload of a UDP datagram: the header here at least, and at most what crosses an underlay of 1500 whole.
const SIZES: RangeInclusive<usize> = HEADER..=1444;
/// Octets before a UDP datagram's data: stream and sequence number.
pub(super) const HEADER: usize = 6;
/// How long nothing may arrive once something is wrong: what is still missing is then lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// The datagrams of a stream, from 0: the number of each, where it begins in the stream and how much of it it carries.
#[derive(Debug, Clone)]
pub(super) struct Datagrams {
    stream: u16,
    octets: u64,
    sequence: u32,
    from: u64,
}

impl Datagrams {
    /// Of a stream of so many octets.
    pub(super) fn new(stream: u16, octets: u64) -> Self {
        Self { stream, octets, sequence: 0, from: 0 }
    }
}

impl Iterator for Datagrams {
    type Item = (u32, u64, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let Self { stream, octets, sequence, from } = *self;
        // Any size, the same for a row.
        let mixed = (sequence / ROW).wrapping_mul(2_654_435_761).wrapping_add(u32::from(stream) * 40_503);
        let room = (mixed >> 8) as usize % (SIZES.end() - SIZES.start()) + 1;
        let length = room.min(usize::try_from(octets - from).unwrap_or(usize::MAX));
        if length == 0 {
            return None;
        }
        self.sequence += 1;
        self.from += length as u64;
        Some((sequence, from, length))
    }
}

pub(super) fn carry(
    pattern: &Pattern,
    octets: u64,
    senders: &[UdpSocket],
    to: SocketAddrV4,
    receiver: &UdpSocket,
) -> Option<Shortfall> {
    let (permit, permits) = mpsc::channel();
    // The first goes alone. While a kernel on the way asks for a neighbour's address, packets wait for it, and when it is
    // there those that come just then overtake them (`neigh_update`).
    let _ = permit.send(());
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(move || send(pattern, octets, senders, to, &permits));
        let mut ledger = Ledger::new(octets, u16::try_from(senders.len()).unwrap_or(u16::MAX));
        let received = receive(pattern, &mut ledger, receiver, &permit);
        // Without permits the sender ends.
        drop(permit);
        (joined(sending), received.map(|waited| (ledger, waited)))
    });
    let failed = |what: String| Shortfall { what, details: Vec::new() };
    let mut shortfall = match received {
        Ok((ledger, waited)) => ledger.shortfall(&sent.counts, to.port(), waited),
        Err(error) => Some(failed(format!("receiving failed: {}", cause(&error)))),
    };
    if let Some((stream, error)) = sent.failed {
        let what = format!("sending {} failed: {}", named(stream, to.port()), cause(&error));
        shortfall.get_or_insert_with(|| failed("not all was sent".to_owned())).details.push(what);
    }
    shortfall
}

/// How many datagrams of each stream were sent, and why there were no more, if sending failed.
struct Sent {
    counts: Vec<u32>,
    failed: Option<(u16, io::Error)>,
}

/// Sends all streams' datagrams, a row of each in turn.
fn send(
    pattern: &Pattern,
    octets: u64,
    senders: &[UdpSocket],
    to: SocketAddrV4,
    permits: &mpsc::Receiver<()>,
) -> Sent {
    let mut sent = Sent { counts: vec![0; senders.len()], failed: None };
    let streams = senders.iter().zip(0u16..);
    let mut streams: Vec<_> =
        streams.map(|(socket, stream)| (socket, stream, Datagrams::new(stream, octets))).collect();
    let mut payload = vec![0; *SIZES.end()];
    while !streams.is_empty() {
        let mut left = Vec::new();
        for (socket, stream, mut rest) in streams {
            let mut in_row = 0;
            for (sequence, from, length) in rest.by_ref().take(ROW as usize) {
                let Ok(()) = permits.recv() else { return sent };
                let (header, data) = payload.split_at_mut(HEADER);
                header[..2].copy_from_slice(&stream.to_be_bytes());
                header[2..].copy_from_slice(&sequence.to_be_bytes());
                pattern.fill(stream, from, data.get_mut(..length).unwrap_or_default());
                let datagram = payload.get(..HEADER + length).unwrap_or_default();
                if let Err(error) = socket.send_to(datagram, to) {
                    sent.failed = Some((stream, error));
                    return sent;
                }
                if let Some(count) = sent.counts.get_mut(usize::from(stream)) {
                    *count += 1;
                }
                in_row += 1;
            }
            if in_row == ROW {
                left.push((socket, stream, rest));
            }
        }
        streams = left;
    }
    sent
}

/// Receives until all is there or nothing more comes, giving a permit for each datagram: how long nothing came.
fn receive(
    pattern: &Pattern,
    ledger: &mut Ledger,
    receiver: &UdpSocket,
    permit: &mpsc::Sender<()>,
) -> io::Result<Duration> {
    let mut buffer = vec![0; 1 << 16];
    let mut permits = WINDOW;
    let mut patience = PATIENCE;
    receiver.set_read_timeout(Some(patience))?;
    while !ledger.is_complete() {
        let length = match receiver.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if is_silence(&error) => return Ok(patience),
            Err(error) => return Err(error),
        };
        if ledger.arrived(pattern, buffer.get(..length).unwrap_or_default()) {
            for _ in 0..std::mem::replace(&mut permits, 1) {
                // The sender may have sent all there is.
                let _ = permit.send(());
            }
        }
        if patience == PATIENCE && !ledger.is_sound() {
            patience = LOST_AFTER;
            receiver.set_read_timeout(Some(patience))?;
        }
    }
    // What came twice may wait behind the last.
    receiver.set_nonblocking(true)?;
    while let Ok(length) = receiver.recv(&mut buffer) {
        ledger.arrived(pattern, buffer.get(..length).unwrap_or_default());
    }
    Ok(Duration::ZERO)
}

/// Whether a receive ended because nothing came in time.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_datagrams_of_a_stream_carry_all_of_it_once() {
        for octets in [1, 1438, 1439, 1_000_000] {
            let mut next = 0;
            for (sequence, (number, from, length)) in (0..).zip(Datagrams::new(5, octets)) {
                assert_eq!((number, from), (sequence, next));
                assert!(SIZES.contains(&(length + HEADER)));
                next += length as u64;
            }
            assert_eq!(next, octets);
        }
    }
}
