//! Bulk data over sockets, and whether it arrives as it was sent.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::Error;
use crate::capture::FLOOD_PORTS;
use crate::netns::Namespace;
use crate::socket::set_option;

/// Streams are sent from the first of these.
const SENDERS: u16 = 900;
/// How long nothing may arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// UDP datagrams under way at a time, which any queue on the way has room for.
const WINDOW: usize = 64;
/// UDP datagrams of one size that a stream sends in a row, so that there is something to be merged.
const ROW: u32 = 8;
/// Octets of payload of a UDP datagram: the header here at least, and at most what crosses an underlay of 1500 whole.
const SIZES: RangeInclusive<usize> = HEADER..=1444;
/// Octets before a UDP datagram's data: stream and sequence number.
const HEADER: usize = 6;
/// Octets of memory for what waits at the receiver.
const QUEUE: usize = 8 << 20;

/// What the streams carry: octets that tell a stream from another, and one place in it from another.
#[derive(Debug)]
struct Pattern(Vec<u8>);

/// Sockets that are ready to carry data.
#[derive(Debug)]
pub struct Bulk {
    pattern: Pattern,
    octets: u64,
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    Tcp { senders: Vec<Socket>, to: SocketAddrV4, listener: TcpListener },
    Udp { senders: Vec<UdpSocket>, to: SocketAddrV4, receiver: UdpSocket },
}

impl Bulk {
    /// Opens `streams` TCP sockets that are to send `octets` each to `address`, and the one that accepts them. The
    /// receiver's port depends on `number`, so that no connection is like one before.
    ///
    /// # Errors
    /// When a socket cannot be opened or its port is taken.
    pub fn tcp(
        ends: [&Namespace; 2],
        address: Ipv4Addr,
        number: u32,
        streams: u16,
        octets: u32,
    ) -> Result<Self, Error> {
        let (to, ports) = ports(address, number, streams);
        let open = |port| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        let senders = within(ends[0], || ports.map(open).collect())?;
        let listener = within(ends[1], || {
            let socket = open(to.port())?;
            socket.listen(streams.into())?;
            Ok(TcpListener::from(socket))
        })?;
        let sockets = Sockets::Tcp { senders, to, listener };
        Ok(Self { pattern: Pattern::new(), octets: octets.into(), sockets })
    }

    /// The same with UDP.
    ///
    /// # Errors
    /// When a socket cannot be opened or its port is taken.
    pub fn udp(
        ends: [&Namespace; 2],
        address: Ipv4Addr,
        number: u32,
        streams: u16,
        octets: u32,
    ) -> Result<Self, Error> {
        let (to, ports) = ports(address, number, streams);
        let open = |port| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            set_option(&socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
            Ok(socket)
        };
        let senders = within(ends[0], || ports.map(open).collect())?;
        let receiver = within(ends[1], || {
            let receiver = open(to.port())?;
            receiver.set_read_timeout(Some(PATIENCE))?;
            socket2::SockRef::from(&receiver).set_recv_buffer_size(QUEUE)?;
            Ok(receiver)
        })?;
        let sockets = Sockets::Udp { senders, to, receiver };
        Ok(Self { pattern: Pattern::new(), octets: octets.into(), sockets })
    }

    /// Sends everything and waits for it: what was wrong with what arrived. Blocks.
    #[must_use]
    pub fn carry(self) -> Vec<String> {
        let Self { pattern, octets, sockets } = self;
        match sockets {
            Sockets::Tcp { senders, to, listener } => carry_tcp(&pattern, octets, senders, to, &listener),
            Sockets::Udp { senders, to, receiver } => carry_udp(&pattern, octets, &senders, to, &receiver),
        }
    }
}

/// Where the receiver listens, and the senders' ports.
fn ports(address: Ipv4Addr, number: u32, streams: u16) -> (SocketAddrV4, impl Iterator<Item = u16> + Send) {
    let first = FLOOD_PORTS.start() + SENDERS;
    let left = u32::from(FLOOD_PORTS.end() - first) + 1;
    let port = first + (number % left) as u16;
    (SocketAddrV4::new(address, port), FLOOD_PORTS.take(streams.min(SENDERS).into()))
}

fn within<T: Send>(namespace: &Namespace, open: impl FnOnce() -> io::Result<T> + Send) -> Result<T, Error> {
    namespace.run(open)?.map_err(|source| Error::Socket {
        host: namespace.name().to_owned(),
        doing: "opening sockets for a transfer".to_owned(),
        source,
    })
}

/// What went wrong at one end of a stream.
type Outcome<T> = Result<T, String>;

fn carry_tcp(
    pattern: &Pattern,
    octets: u64,
    senders: Vec<Socket>,
    to: SocketAddrV4,
    listener: &TcpListener,
) -> Vec<String> {
    let count = senders.len();
    thread::scope(|scope| {
        let sending: Vec<ScopedJoinHandle<'_, Outcome<()>>> = senders
            .into_iter()
            .zip(0u16..)
            .map(|(socket, stream)| {
                scope.spawn(move || {
                    let failed = |error| format!("stream {stream}: sending: {error}");
                    send_tcp(pattern, stream, octets, socket, to).map_err(failed)
                })
            })
            .collect();
        let mut problems = Vec::new();
        let mut receiving: Vec<ScopedJoinHandle<'_, Outcome<u16>>> = Vec::new();
        // A sender that gives up ends its connection, or has never had one.
        for _ in 0..count {
            match accept(listener) {
                Ok(stream) => receiving.push(scope.spawn(move || receive_tcp(pattern, octets, stream))),
                Err(error) => {
                    problems.push(format!("accepting: {error}"));
                    break;
                }
            }
        }
        let mut seen = vec![0u32; count];
        for receiver in receiving {
            match joined(receiver) {
                Ok(stream) => seen.get_mut(usize::from(stream)).map_or((), |times| *times += 1),
                Err(problem) => problems.push(problem),
            }
        }
        problems.extend(sending.into_iter().filter_map(|sender| joined(sender).err()));
        let strange = seen.iter().enumerate().filter(|(_, times)| **times > 1);
        problems.extend(strange.map(|(stream, times)| format!("stream {stream} arrived {times} times")));
        problems
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let listener = socket2::SockRef::from(listener);
    // SO_RCVTIMEO holds for accept(2) too (socket(7)).
    listener.set_read_timeout(Some(PATIENCE))?;
    let stream = TcpStream::from(listener.accept()?.0);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send_tcp(pattern: &Pattern, stream: u16, octets: u64, socket: Socket, to: SocketAddrV4) -> io::Result<()> {
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut socket = TcpStream::from(socket);
    socket.write_all(&stream.to_be_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    let mut sent = 0;
    while sent < octets {
        let length = buffer.len().min(usize::try_from(octets - sent).unwrap_or(usize::MAX));
        let part = buffer.get_mut(..length).unwrap_or_default();
        pattern.fill(stream, sent, part);
        socket.write_all(part)?;
        sent += length as u64;
    }
    socket.shutdown(Shutdown::Write)
}

/// Receives a stream to its end: which it was.
fn receive_tcp(pattern: &Pattern, octets: u64, mut socket: TcpStream) -> Outcome<u16> {
    let failed = |error| format!("receiving: {error}");
    let mut number = [0; 2];
    socket.read_exact(&mut number).map_err(failed)?;
    let stream = u16::from_be_bytes(number);
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0;
    loop {
        let length = socket.read(&mut buffer).map_err(failed)?;
        if length == 0 {
            break;
        }
        let part = buffer.get(..length).unwrap_or_default();
        if let Some(at) = pattern.difference(stream, received, part) {
            return Err(format!("stream {stream}: octet {} is not what was sent", received + at as u64));
        }
        received += length as u64;
    }
    if received != octets {
        return Err(format!("stream {stream}: {received} of {octets} octets arrived"));
    }
    Ok(stream)
}

/// The datagrams of a UDP stream: where each begins in the stream and how much of it it carries.
fn datagrams(stream: u16, octets: u64) -> impl Iterator<Item = (u32, u64, usize)> {
    let mut from = 0;
    (0u32..).map_while(move |sequence| {
        // Any size, the same for a row.
        let mixed = (sequence / ROW).wrapping_mul(2_654_435_761).wrapping_add(u32::from(stream) * 40_503);
        let room = (mixed >> 8) as usize % (SIZES.end() - SIZES.start()) + 1;
        let length = room.min(usize::try_from(octets - from).unwrap_or(usize::MAX));
        let datagram = (sequence, from, length);
        from += length as u64;
        (length > 0).then_some(datagram)
    })
}

fn carry_udp(
    pattern: &Pattern,
    octets: u64,
    senders: &[UdpSocket],
    to: SocketAddrV4,
    receiver: &UdpSocket,
) -> Vec<String> {
    let (permit, permits) = mpsc::channel();
    // The first goes alone. While a kernel on the way asks for a neighbour's address, packets wait for it, and when it is
    // there those that come just then overtake them (`neigh_update`).
    let _ = permit.send(());
    thread::scope(|scope| {
        let sending = scope.spawn(move || send_udp(pattern, octets, senders, to, &permits));
        let problems = receive_udp(pattern, octets, senders.len(), receiver, &permit);
        // Without permits the sender ends.
        drop(permit);
        let sent = joined(sending).err();
        sent.into_iter().chain(problems).collect()
    })
}

/// Sends all streams' datagrams, a row of each in turn.
fn send_udp(
    pattern: &Pattern,
    octets: u64,
    senders: &[UdpSocket],
    to: SocketAddrV4,
    permits: &mpsc::Receiver<()>,
) -> Outcome<()> {
    let mut streams: Vec<_> = senders
        .iter()
        .zip(0u16..)
        .map(|(socket, stream)| (socket, stream, datagrams(stream, octets)))
        .collect();
    let mut payload = vec![0; *SIZES.end()];
    while !streams.is_empty() {
        let mut left = Vec::new();
        for (socket, stream, mut rest) in streams {
            let mut in_row = 0;
            for (sequence, from, length) in rest.by_ref().take(ROW as usize) {
                let Ok(()) = permits.recv() else { return Ok(()) };
                let (header, data) = payload.split_at_mut(HEADER);
                header[..2].copy_from_slice(&stream.to_be_bytes());
                header[2..].copy_from_slice(&sequence.to_be_bytes());
                pattern.fill(stream, from, data.get_mut(..length).unwrap_or_default());
                let datagram = payload.get(..HEADER + length).unwrap_or_default();
                socket.send_to(datagram, to).map_err(|error| format!("stream {stream}: sending: {error}"))?;
                in_row += 1;
            }
            if in_row == ROW {
                left.push((socket, stream, rest));
            }
        }
        streams = left;
    }
    Ok(())
}

fn receive_udp(
    pattern: &Pattern,
    octets: u64,
    streams: usize,
    receiver: &UdpSocket,
    permit: &mpsc::Sender<()>,
) -> Vec<String> {
    let mut expected: Vec<_> =
        (0..streams).map(|stream| datagrams(stream as u16, octets).peekable()).collect();
    let mut open = streams;
    let mut buffer = vec![0; 1 << 16];
    let mut problems = Vec::new();
    let mut permits = WINDOW;
    while open > 0 {
        let length = match receiver.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) => {
                problems.push(format!("{open} of {streams} streams have not arrived to their ends: {error}"));
                break;
            }
        };
        for _ in 0..std::mem::replace(&mut permits, 1) {
            // The sender may have sent all there is.
            let _ = permit.send(());
        }
        let Some((&[s0, s1, q0, q1, q2, q3], data)) =
            buffer.get(..length).and_then(|all| all.split_first_chunk())
        else {
            problems.push(format!("a datagram of {length} octets arrived that nobody sent"));
            break;
        };
        let (stream, sequence) = (u16::from_be_bytes([s0, s1]), u32::from_be_bytes([q0, q1, q2, q3]));
        let Some(rest) = expected.get_mut(usize::from(stream)) else {
            problems.push(format!("a datagram of stream {stream} arrived, which there is not"));
            break;
        };
        match rest.next() {
            Some((next, from, size)) if next == sequence => {
                if size != data.len() || pattern.difference(stream, from, data).is_some() {
                    problems.push(format!("stream {stream}: datagram {sequence} is not what was sent"));
                    break;
                }
            }
            Some((next, ..)) => {
                problems
                    .push(format!("stream {stream}: datagram {sequence} arrived where {next} was to come"));
                break;
            }
            None => {
                problems.push(format!("stream {stream}: datagram {sequence} arrived after the last"));
                break;
            }
        }
        open -= usize::from(rest.peek().is_none());
    }
    problems
}

impl Pattern {
    /// A prime, so that no power of two of octets is a whole number of rounds.
    const PERIOD: usize = 65_521;

    fn new() -> Self {
        // Xorshift (Marsaglia 2003), from any seed but 0.
        let mut state = 0x9e37_79b9_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8
        };
        // Twice, so that any part as long as the period is in one piece.
        let once: Vec<u8> = (0..Self::PERIOD).map(|_| next()).collect();
        Self([once.as_slice(), once.as_slice()].concat())
    }

    /// The octets of a stream from one place on, not longer than the period.
    fn part(&self, stream: u16, from: u64, length: usize) -> &[u8] {
        let begin = (from % Self::PERIOD as u64) as usize + usize::from(stream) * 73;
        self.0.get(begin % Self::PERIOD..).and_then(|rest| rest.get(..length)).unwrap_or_default()
    }

    fn fill(&self, stream: u16, mut from: u64, out: &mut [u8]) {
        for out in out.chunks_mut(Self::PERIOD) {
            out.copy_from_slice(self.part(stream, from, out.len()));
            from += out.len() as u64;
        }
    }

    /// The first octet that is not the stream's.
    fn difference(&self, stream: u16, from: u64, octets: &[u8]) -> Option<usize> {
        let mut at = 0;
        for octets in octets.chunks(Self::PERIOD) {
            let part = self.part(stream, from + at as u64, octets.len());
            if part != octets {
                return part.iter().zip(octets).position(|(is, was)| is != was).map(|first| at + first);
            }
            at += octets.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_a_foreign_and_a_flipped_octet_are_all_told() {
        let pattern = Pattern::new();
        let mut octets = vec![0; 200_000];
        pattern.fill(3, 1000, &mut octets);
        assert_eq!(pattern.difference(3, 1000, &octets), None);
        assert_eq!(pattern.difference(3, 1000 + 65_521, &octets), None);
        for (stream, from) in [(3, 1001), (3, 999), (4, 1000), (3, 1000 + 65_536)] {
            assert!(pattern.difference(stream, from, &octets).is_some_and(|at| at < 20));
        }
        octets[150_000] ^= 1;
        assert_eq!(pattern.difference(3, 1000, &octets), Some(150_000));
    }

    #[test]
    fn the_datagrams_of_a_stream_carry_all_of_it_once() {
        for octets in [1, 1438, 1439, 1_000_000] {
            let mut next = 0;
            for (sequence, (number, from, length)) in (0..).zip(datagrams(5, octets)) {
                assert_eq!((number, from), (sequence, next));
                assert!(SIZES.contains(&(length + HEADER)));
                next += length as u64;
            }
            assert_eq!(next, octets);
        }
    }
}
