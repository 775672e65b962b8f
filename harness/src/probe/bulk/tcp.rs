//! Streams of TCP connections.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};

use socket2::Socket;

use super::pattern::Pattern;
use super::shortfall::{Shortfall, named};
use super::{Extent, PATIENCE, cause, joined};

/// Of so many streams that are not as they were sent each is told.
const TOLD: usize = 8;

/// What went wrong with a stream; without a number, with one that said not which it is.
#[derive(Debug)]
struct Flaw {
    stream: Option<u16>,
    what: String,
}

pub(super) fn carry(
    pattern: &Pattern,
    extent: Extent<'_>,
    senders: Vec<Socket>,
    to: SocketAddrV4,
    listener: &TcpListener,
) -> Option<Shortfall> {
    let count = senders.len();
    // What each stream has carried, known before it ends.
    let sent: Vec<AtomicU64> = senders.iter().map(|_| AtomicU64::new(extent.octets)).collect();
    let flaws = thread::scope(|scope| {
        let sending: Vec<ScopedJoinHandle<'_, Result<(), Flaw>>> = senders
            .into_iter()
            .zip(0u16..)
            .zip(&sent)
            .map(|((socket, stream), sent)| {
                scope.spawn(move || {
                    let failed = |error| Flaw {
                        stream: Some(stream),
                        what: format!("sending failed: {}", cause(&error)),
                    };
                    send(pattern, stream, (extent, sent), socket, to).map_err(failed)
                })
            })
            .collect();
        let mut flaws = Vec::new();
        let mut receiving: Vec<ScopedJoinHandle<'_, Result<u16, Flaw>>> = Vec::new();
        // A sender that gives up ends its connection, or has never had one.
        for accepted in 0..count {
            match accept(listener) {
                Ok(stream) => receiving.push(scope.spawn(|| receive(pattern, &sent, stream))),
                Err(error) => {
                    let what =
                        format!("no further connection came after {accepted} of {count}: {}", cause(&error));
                    flaws.push(Flaw { stream: None, what });
                    break;
                }
            }
        }
        let mut seen = vec![0u32; count];
        for receiver in receiving {
            match joined(receiver) {
                Ok(stream) => seen.get_mut(usize::from(stream)).map_or((), |times| *times += 1),
                Err(flaw) => flaws.push(flaw),
            }
        }
        flaws.extend(sending.into_iter().filter_map(|sender| joined(sender).err()));
        let again = seen.iter().zip(0u16..).filter(|(times, _)| **times > 1);
        flaws.extend(
            again.map(|(times, stream)| Flaw {
                stream: Some(stream),
                what: format!("it arrived {times} times"),
            }),
        );
        flaws
    });
    shortfall(flaws, count, to.port())
}

/// What is said of so many streams, to port `to`.
fn shortfall(mut flaws: Vec<Flaw>, count: usize, to: u16) -> Option<Shortfall> {
    if flaws.is_empty() {
        return None;
    }
    // What is told of none in particular comes first.
    flaws.sort_by_key(|flaw| flaw.stream);
    let mut streams: Vec<u16> = flaws.iter().filter_map(|flaw| flaw.stream).collect();
    streams.dedup();
    let what = match streams.len() {
        0 => format!("of {count} streams not all arrived"),
        bad => format!("of {count} streams {bad} did not arrive as sent"),
    };
    let line = |flaw: &Flaw| match flaw.stream {
        Some(stream) => format!("{}: {}", named(stream, to), flaw.what),
        None => flaw.what.clone(),
    };
    let mut details: Vec<String> = flaws.iter().take(TOLD).map(line).collect();
    if flaws.len() > TOLD {
        details.push(format!("and {} more", flaws.len() - TOLD));
    }
    Some(Shortfall { what, details })
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let listener = socket2::SockRef::from(listener);
    // SO_RCVTIMEO holds for accept(2) too (socket(7)).
    listener.set_read_timeout(Some(PATIENCE))?;
    let stream = TcpStream::from(listener.accept()?.0);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(
    pattern: &Pattern,
    stream: u16,
    (extent, told): (Extent<'_>, &AtomicU64),
    socket: Socket,
    to: SocketAddrV4,
) -> io::Result<()> {
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut socket = TcpStream::from(socket);
    socket.write_all(&stream.to_be_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    let mut sent = 0;
    loop {
        let left = match extent.octets.checked_sub(sent) {
            Some(left @ 1..) => left,
            _ if extent.goes_on.load(Ordering::Relaxed) => u64::MAX,
            _ => break,
        };
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let part = buffer.get_mut(..length).unwrap_or_default();
        pattern.fill(stream, sent, part);
        socket.write_all(part)?;
        sent += length as u64;
    }
    told.store(sent, Ordering::Release);
    socket.shutdown(Shutdown::Write)
}

/// Receives a stream to its end, whatever it carries, so that its sender can end too: which it was. What each stream has carried
/// is known by its end.
fn receive(pattern: &Pattern, sent: &[AtomicU64], mut socket: impl Read) -> Result<u16, Flaw> {
    let mut number = [0; 2];
    socket.read_exact(&mut number).map_err(|error| {
        let what = format!("a connection ended before it said which stream it is: {}", cause(&error));
        Flaw { stream: None, what }
    })?;
    let stream = u16::from_be_bytes(number);
    let mut buffer = vec![0; 1 << 16];
    let (mut received, mut differing, mut first) = (0, 0, None);
    let ended = loop {
        let part = match socket.read(&mut buffer) {
            Ok(0) => break String::new(),
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break format!(", then receiving failed: {}", cause(&error)),
        };
        if let Some(altered) = pattern.difference(stream, received, part) {
            first.get_or_insert(received + altered.first as u64);
            differing += altered.count;
        }
        received += part.len() as u64;
    };
    let octets = sent.get(usize::from(stream)).map_or(0, |octets| octets.load(Ordering::Acquire));
    let mut what = Vec::new();
    if let Some(first) = first {
        what.push(format!("altered: {differing} octets are not what was sent, the first is octet {first}"));
    }
    if received != octets || !ended.is_empty() {
        what.push(format!("{received} of {octets} octets came{ended}"));
    }
    if what.is_empty() { Ok(stream) } else { Err(Flaw { stream: Some(stream), what: what.join("; ") }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCTETS: u64 = 100_000;

    /// What is said of a stream that arrives so.
    fn told(edit: impl FnOnce(&mut Vec<u8>)) -> Option<String> {
        let pattern = Pattern::new();
        let mut octets = vec![0; OCTETS as usize];
        pattern.fill(7, 0, &mut octets);
        edit(&mut octets);
        let sent: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(OCTETS)).collect();
        let whole = [&7u16.to_be_bytes()[..], &octets].concat();
        let flaw = receive(&pattern, &sent, whole.as_slice()).err()?;
        Some(shortfall(vec![flaw], 26, 29_905)?.to_string())
    }

    #[test]
    fn a_stream_is_received_to_its_end_whatever_it_carries() {
        assert_eq!(told(|_| {}), None);
        let told = |edit: fn(&mut Vec<u8>)| told(edit).unwrap();
        let of = |what: &str| {
            format!("of 26 streams 1 did not arrive as sent\n  stream 7 (port 29007 > 29905): {what}")
        };
        assert_eq!(told(|octets| octets.truncate(99_400)), of("99400 of 100000 octets came"));
        assert_eq!(
            told(|octets| {
                octets[70_000] ^= 1;
                octets[40] ^= 1;
            }),
            of("altered: 2 octets are not what was sent, the first is octet 40")
        );
    }

    #[test]
    fn only_the_first_of_many_streams_are_told() {
        let flaw = |stream| Flaw { stream: Some(stream), what: "0 of 9 octets came".to_owned() };
        let lost = shortfall((0..12).rev().map(flaw).collect(), 500, 29_905).unwrap();
        assert_eq!(lost.what, "of 500 streams 12 did not arrive as sent");
        assert_eq!(lost.details.first().unwrap(), "stream 0 (port 29000 > 29905): 0 of 9 octets came");
        assert_eq!(lost.details.last().unwrap(), "and 4 more");
    }
}
