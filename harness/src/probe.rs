//! Sending one packet from a host's own socket, and receiving what comes of it at that socket.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::flow::{Answer, Key, Probe};
use crate::netns::{self, Namespace};
use crate::packet::icmp::Kind;
use crate::packet::marker;
use crate::socket::set_option;

mod bulk;
mod echoes;
mod error_queue;
mod flooder;
mod noise;
mod raw;

pub use bulk::{Bulk, Shortfall};
pub use echoes::Echoes;
use error_queue::QueuedError;
pub use flooder::{Fill, Flooder};
pub use raw::{Exit, RawSocket};

/// Octets of memory for what waits at a listener.
const LISTENER_BUFFER_LEN: libc::c_int = 8 << 20;

/// What is sent, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shot {
    /// The number in its marker, unique in a case.
    pub number: u32,
    /// The host that sends it.
    pub from: String,
    /// The address it is sent to.
    pub to: Ipv4Addr,
    /// Time to live, from 1.
    pub ttl: u8,
    /// Length of its payload in octets.
    pub size: u16,
    /// Don't fragment.
    pub df: bool,
    /// TOS octet.
    pub tos: u8,
    /// What it is.
    pub kind: ShotKind,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShotKind {
    /// An ICMP echo request.
    Echo {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
    },
    /// A UDP datagram.
    Udp {
        /// Source port; none for one that the kernel chooses.
        source: Option<u16>,
        /// Destination port.
        port: u16,
        /// Whether a socket is to receive it there, if the destination is a host of the lab.
        listen: bool,
    },
}

/// Why a probe could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sender's namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// A socket.
    #[error("{doing} on {host}: {source}")]
    Socket {
        /// The host.
        host: String,
        /// What was being done.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

/// The socket that sent a probe, and what is known of it.
#[derive(Debug)]
pub struct Sender {
    /// The probe as it was sent.
    pub probe: Probe,
    socket: AsyncFd<Socket>,
}

impl Sender {
    /// Opens a socket in `namespace` and sends the probe from there. A refusal of the sender's own kernel is an answer
    /// as well: `EMSGSIZE` where DF forbids what the MTU requires.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn shoot(namespace: &Namespace, shot: &Shot) -> Result<(Self, Option<Answer>), Error> {
        let error = |doing: &str| {
            let (host, doing) = (shot.from.clone(), doing.to_owned());
            |source| Error::Socket { host, doing, source }
        };
        let socket = namespace.run(|| open(shot))?.map_err(error("opening the probe's socket"))?;
        let (probe, refused) = send(socket.get_ref(), shot)?;
        Ok((Self { probe, socket }, refused))
    }

    /// Waits for the next answer to the probe.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn answer(&self) -> Result<Answer, Error> {
        loop {
            let mut ready = self
                .socket
                .ready(Interest::READABLE | Interest::ERROR)
                .await
                .map_err(|source| self.error(source))?;
            if let Some(answer) = self.answer_now()? {
                return Ok(answer);
            }
            ready.clear_ready();
        }
    }

    /// The next answer that waits at the socket, if any.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn answer_now(&self) -> Result<Option<Answer>, Error> {
        loop {
            match receive(self.socket.get_ref()).map_err(|source| self.error(source))? {
                Some(received) => {
                    if let Some(answer) = received.answer_to(&self.probe) {
                        return Ok(Some(answer));
                    }
                }
                None => return Ok(None),
            }
        }
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Socket {
            host: self.probe.from.clone(),
            doing: "receiving at the probe's socket".to_owned(),
            source,
        }
    }
}

/// What a probe's socket received: an answer to something, perhaps to another probe.
enum Received {
    /// An ICMP error about what these octets, from behind the IP header, are the beginning of.
    Error { kind: Kind, from: Ipv4Addr, about: Vec<u8> },
    /// A packet, with its header if the socket is a raw one.
    Packet { from: Ipv4Addr, octets: Vec<u8> },
}

impl Received {
    /// It as the answer to a probe, if it is one.
    fn answer_to(&self, probe: &Probe) -> Option<Answer> {
        match self {
            Self::Error { kind, from, about } => {
                is_about(probe, about).then_some(Answer::Error { kind: *kind, from: *from })
            }
            Self::Packet { from, octets } => {
                is_reply_to(probe, octets).map(|ttl| Answer::Reply { from: *from, ttl })
            }
        }
    }

    /// Identifier and sequence number of the echo request that it is about.
    fn echo(&self) -> Option<(u16, u16)> {
        let icmp = match self {
            Self::Error { about, .. } => about,
            Self::Packet { octets, .. } => octets.get(usize::from(octets.first()? & 0x0f) * 4..)?,
        };
        match icmp.get(4..8)? {
            [id_high, id_low, seq_high, seq_low] => {
                Some((u16::from_be_bytes([*id_high, *id_low]), u16::from_be_bytes([*seq_high, *seq_low])))
            }
            _ => None,
        }
    }
}

/// The next thing that waits at a socket, if any.
fn receive(socket: &Socket) -> io::Result<Option<Received>> {
    loop {
        // The queue first: an error also makes the next receive fail, once, with no word of who sent it.
        match error_queue::receive(socket)? {
            Some(QueuedError::Icmp { kind, from, about }) => {
                return Ok(Some(Received::Error { kind, from, about }));
            }
            Some(QueuedError::Local) => continue,
            None => {}
        }
        let mut octets = Vec::with_capacity(65_536);
        let (len, address) = match socket.recv_from(octets.spare_capacity_mut()) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // What the error queue told already.
            Err(error) if is_icmp_echo_of(&error) => continue,
            Err(error) => return Err(error),
        };
        // SAFETY: recvfrom(2) initialised the first `len` octets.
        unsafe { octets.set_len(len) };
        let from = address.as_socket_ipv4().map_or(Ipv4Addr::UNSPECIFIED, |address| *address.ip());
        return Ok(Some(Received::Packet { from, octets }));
    }
}

/// Whether an error that was queued is about this probe. The kernel gives one about an echo request to every raw socket
/// that is connected to its destination (`raw_icmp_error`).
fn is_about(probe: &Probe, sent: &[u8]) -> bool {
    let Key::Echo { id, seq } = probe.key else { return true };
    let [id_high, id_low] = id.to_be_bytes();
    let [seq_high, seq_low] = seq.to_be_bytes();
    let ours = sent.get(4..8).is_none_or(|octets| octets == [id_high, id_low, seq_high, seq_low]);
    // As much of the payload as the error has quoted.
    ours && sent.get(8..).and_then(marker::decode).is_none_or(|number| number == probe.number)
}

/// Whether what a socket received is the reply to this probe: with its TTL, if the header tells.
fn is_reply_to(probe: &Probe, octets: &[u8]) -> Option<Option<u8>> {
    match probe.key {
        Key::Udp { .. } => (marker::decode(octets)? == probe.number).then_some(None),
        // Raw packets are sent without a socket that receives.
        Key::Crafted(_) => None,
        Key::Echo { id, seq } => {
            let header_len = usize::from(octets.first()? & 0x0f) * 4;
            let icmp = octets.get(header_len..)?;
            let [kind, code, _, _, id_high, id_low, seq_high, seq_low, payload @ ..] = icmp else {
                return None;
            };
            let ours = *kind == 0
                && *code == 0
                && u16::from_be_bytes([*id_high, *id_low]) == id
                && u16::from_be_bytes([*seq_high, *seq_low]) == seq
                && marker::decode(payload).is_none_or(|number| number == probe.number);
            ours.then(|| octets.get(8).copied())
        }
    }
}

/// A UDP socket that probes are sent to.
#[derive(Debug)]
pub struct Listener {
    socket: tokio::net::UdpSocket,
    /// What was received and nobody has asked for yet: by the number in the marker, or none.
    received: RefCell<HashMap<Option<u32>, u32>>,
}

impl Listener {
    /// Opens a socket in `namespace` that receives datagrams for `port`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open(namespace: &Namespace, port: u16) -> Result<Self, Error> {
        let open = || {
            let socket = std::net::UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true)?;
            // For floods. Without privilege the default has to do.
            let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, LISTENER_BUFFER_LEN);
            tokio::net::UdpSocket::from_std(socket)
        };
        let socket = namespace.run(open)?.map_err(|source| Error::Socket {
            host: namespace.name().to_owned(),
            doing: format!("listening on UDP port {port}"),
            source,
        })?;
        Ok(Self { socket, received: RefCell::default() })
    }

    /// Waits for the next datagram, whatever it carries.
    pub async fn arrival(&self) {
        // A socket that fails receives nothing; the wait's deadline says so.
        if self.socket.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How many datagrams with the marker of probe `number`, or with none because they are short, have come since this
    /// was last asked. Those of other probes are kept for who asks for them.
    pub fn received(&self, number: u32) -> u32 {
        let mut buffer = vec![0; 65_536];
        let mut received = self.received.borrow_mut();
        while let Ok(len) = self.socket.try_recv(&mut buffer) {
            let payload = buffer.get(..len).unwrap_or_default();
            let marked = marker::decode(payload);
            if len < marker::LEN || marked.is_some() {
                *received.entry(marked).or_default() += 1;
            }
        }
        [None, Some(number)].iter().filter_map(|key| received.remove(key)).sum()
    }
}

/// Sends a probe from a socket that was opened for it, or for another of its kind.
fn send(socket: &Socket, shot: &Shot) -> Result<(Probe, Option<Answer>), Error> {
    let error = |doing: &str| {
        let (host, doing) = (shot.from.clone(), doing.to_owned());
        |source| Error::Socket { host, doing, source }
    };
    // Connecting makes the kernel choose the source address, without sending anything, and keeps answers of others
    // away. It may refuse as sending may: no route, no permission.
    let mut refused = match socket.connect(&destination(shot)) {
        Ok(()) => None,
        Err(source) if is_refusal(&source) => Some(Answer::NotSent { why: reason(&source) }),
        Err(source) => return Err(error("connecting the probe's socket")(source)),
    };
    let source = local_address(socket).map_err(error("reading the probe's source address"))?;
    let key = match shot.kind {
        ShotKind::Echo { id, seq } => Key::Echo { id, seq },
        ShotKind::Udp { port, .. } => Key::Udp { source: source.port(), destination: port },
    };
    let probe = Probe {
        number: shot.number,
        from: shot.from.clone(),
        source: *source.ip(),
        to: shot.to,
        ttl: shot.ttl,
        size: shot.size,
        df: shot.df,
        key,
    };
    if refused.is_none() {
        refused = match socket.send(&message(shot)) {
            Ok(_) => None,
            Err(source) if is_refusal(&source) => Some(Answer::NotSent { why: reason(&source) }),
            Err(source) => return Err(error("sending the probe")(source)),
        };
    }
    Ok((probe, refused))
}

/// Opens and sets up the probe's socket.
fn open(shot: &Shot) -> io::Result<AsyncFd<Socket>> {
    let socket = match shot.kind {
        ShotKind::Echo { .. } => {
            Socket::new(Domain::IPV4, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV4))?
        }
        ShotKind::Udp { .. } => {
            Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?
        }
    };
    if let ShotKind::Udp { source: Some(port), .. } = shot.kind {
        // An earlier probe's socket may still be waiting for its answer.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    }
    socket.set_ttl_v4(u32::from(shot.ttl))?;
    socket.set_tos_v4(u32::from(shot.tos))?;
    // DONT rather than WANT: the probe says what is to happen, not what the kernel learnt before.
    let discover = if shot.df { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
    set_option(&socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, discover)?;
    set_option(&socket, libc::SOL_IP, libc::IP_RECVERR, 1)?;
    // SAFETY: the socket owns its file descriptor and gives out the same one as long as it lives.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::ERROR) }
        .map_err(io::Error::from)
}

fn destination(shot: &Shot) -> SockAddr {
    let port = match shot.kind {
        ShotKind::Echo { .. } => 0,
        ShotKind::Udp { port, .. } => port,
    };
    SocketAddrV4::new(shot.to, port).into()
}

fn local_address(socket: &Socket) -> io::Result<SocketAddrV4> {
    let address = socket.local_addr()?;
    address.as_socket_ipv4().ok_or_else(|| io::Error::other("it is not an IPv4 address"))
}

/// The octets that the socket is given: an ICMP message, or a UDP payload.
fn message(shot: &Shot) -> Vec<u8> {
    let payload = marker::encode(shot.number, usize::from(shot.size));
    match shot.kind {
        ShotKind::Udp { .. } => payload,
        ShotKind::Echo { id, seq } => {
            let header = etherparse::Icmpv4Header::with_checksum(
                etherparse::Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id, seq }),
                &payload,
            );
            [&header.to_bytes()[..], &payload].concat()
        }
    }
}

/// Whether sending failed because of the packet or its way, and not because of the socket.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMSGSIZE
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EPERM
                | libc::EACCES
        )
    )
}

/// Whether a receive failed only to report an ICMP error that the error queue holds in full.
fn is_icmp_echo_of(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EMSGSIZE
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EOPNOTSUPP
                | libc::EACCES
        )
    )
}

/// The system's words for an error, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
