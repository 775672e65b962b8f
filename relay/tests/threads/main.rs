//! The data path's real threads, in a network of their own, where something refuses them what they ask for.
//!
//! Each test starts itself again below `unshare`, which makes the network; it is gone with that process.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its work fails the test")]

mod refusal;

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsRawFd,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::{
    signal::{SigSet, Signal},
    socket::{setsockopt, sockopt},
};
use relay::datapath::{
    admission::Admission,
    counters::{Bulk, Counters, DropReason},
    marking::Marking,
    offload::Offload,
    routes::Routes,
    threads::{DataPath, DataPathError, Running},
    tun::{Queues, Tun},
    udp::{self, Sockets},
};
use relay::wire::checksum;
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

/// Set in the process that has a network of its own.
const INSIDE: &str = "RELAY_TEST_INSIDE";

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PORT: u16 = 8285;

/// The device's address.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 0);

/// Octets of payload in each datagram, and how many a large one has.
const LENGTH: usize = 100;
const COUNT: usize = 20;

/// Runs `test` in a process of its own, this program started again for the test of that `name`.
fn alone(name: &str, test: impl FnOnce(Lab)) {
    if std::env::var_os(INSIDE).is_some() {
        return test(Lab::new());
    }
    let output = Command::new("timeout")
        .args(["60", "unshare", "--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
}

/// A device whose network has one other node, which is a socket.
struct Lab {
    tun: Arc<Tun>,
    peer: UdpSocket,
    routes: Arc<Routes>,
    counters: Arc<Counters>,
}

impl Lab {
    fn new() -> Self {
        let tun = Arc::new(Tun::create("flannel%d", Offload::Auto, &Queues::one()).unwrap());
        let set_up = format!(
            "ip link set lo up && ip link set {0} up mtu 1472 && ip address add 10.5.1.0/32 dev {0} \
             && ip route add 10.5.0.0/16 dev {0}",
            tun.name()
        );
        assert!(Command::new("sh").args(["-c", &set_up]).status().unwrap().success());
        let peer = UdpSocket::bind((THERE, PORT)).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let routes = Arc::new(Routes::new("10.5.0.0/16".parse().unwrap(), 24));
        routes.apply(&[("10.5.2.0/24".parse().unwrap(), Some(THERE))], 1);
        Self { tun, peer, routes, counters: Arc::new(Counters::new(NonZeroUsize::MIN)) }
    }

    fn data_path(&self) -> DataPath {
        DataPath {
            tun: Arc::clone(&self.tun),
            udp: vec![Sockets::one(udp::open(SocketAddrV4::new(HERE, PORT)).unwrap())],
            icmp: udp::open_icmp().unwrap(),
            port: PORT,
            address: HERE,
            admission: Admission { own_subnet: "10.5.1.0/24".parse().unwrap(), peers_behind_nat: false },
            routes: Arc::clone(&self.routes),
            marking: Marking::default(),
            counters: Arc::clone(&self.counters),
            offload: Offload::Auto,
        }
    }

    fn start(&self) -> Running {
        start(self.data_path())
    }

    /// Sends one large datagram into the device and checks what comes to the other node for it.
    fn send_through(&self) {
        let sender = UdpSocket::bind((OWN, 0)).unwrap();
        setsockopt(&sender, sockopt::UdpGsoSegment, &(LENGTH as libc::c_int)).unwrap();
        let sent: Vec<u8> = (0..COUNT * LENGTH).map(|index| (index / LENGTH) as u8).collect();
        assert_eq!(sender.send_to(&sent, ("10.5.2.2", 9)).unwrap(), sent.len());
        let mut received = Vec::new();
        let mut packet = [0; 2048];
        for _ in 0..COUNT {
            let length = self.peer.recv(&mut packet).unwrap();
            received.extend_from_slice(&packet[28..length]);
        }
        assert_eq!(received, sent);
    }
}

fn start(data_path: DataPath) -> Running {
    data_path.start(&mpsc::unbounded_channel().0).unwrap()
}

/// As [`Lab::start`], with a socket that has no checksums, which is what Linux does not segment for.
fn start_without_checksums(lab: &Lab) -> Running {
    let data_path = lab.data_path();
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            data_path.udp[0].receive.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
    start(data_path)
}

#[test]
fn runs_that_the_kernel_refuses_go_as_single_datagrams_in_order_and_for_good() {
    alone("runs_that_the_kernel_refuses_go_as_single_datagrams_in_order_and_for_good", |lab| {
        let running = start_without_checksums(&lab);
        assert!(lab.counters.in_use(Bulk::UdpSend));
        lab.send_through();
        running.stop();
        assert!(!lab.counters.in_use(Bulk::UdpSend), "the kernel took a run");

        // As after a change of the underlay's address.
        let running = start_without_checksums(&lab);
        assert!(!lab.counters.in_use(Bulk::UdpSend), "forgotten");
        lab.send_through();
        running.stop();
        assert_eq!(lab.counters.outbound().drops(DropReason::SendFailed), 0);
        assert_eq!(lab.counters.outbound().packets_out.get(), 2 * COUNT as u64);
    });
}

/// Packets of one flow to [`OWN`], each with its number in every octet behind the headers, that can be merged.
fn flow(protocol: u8) -> Vec<Vec<u8>> {
    let headers: &[u8] = match protocol {
        6 => &[0x13, 0x89, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0],
        _ => &[0x13, 0x89, 0, 9, 0, 8 + LENGTH as u8, 0, 0],
    };
    let checksum_at = 20 + if protocol == 6 { 16 } else { 6 };
    let packet = |index: usize| {
        let total = 20 + headers.len() + LENGTH;
        let mut packet = vec![0x45, 0, 0, total as u8, 0, index as u8, 0x40, 0, 64, protocol, 0, 0];
        packet.extend(Ipv4Addr::new(10, 5, 2, 2).octets());
        packet.extend(OWN.octets());
        let sum = checksum::checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(headers);
        packet.resize(total, index as u8);
        if protocol == 6 {
            packet[24..28].copy_from_slice(&((index * LENGTH) as u32).to_be_bytes());
        }
        // The pseudo-header: addresses, protocol, length (RFC 768).
        let mut summed = packet[12..20].to_vec();
        summed.extend([0, protocol, 0, (total - 20) as u8]);
        summed.extend(&packet[20..]);
        let sum = checksum::checksum(&summed);
        packet[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    (0..COUNT).map(packet).collect()
}

/// Sends one flow's packets out of the tunnel, and checks that they come one by one, in order, and as they were.
fn receive_through(lab: &Lab, protocol: u8) {
    let receiver = Socket::new(Domain::IPV4, Type::RAW, Some(i32::from(protocol).into())).unwrap();
    receiver.bind(&SocketAddrV4::new(OWN, 0).into()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let packets = flow(protocol);
    setsockopt(&lab.peer, sockopt::UdpGsoSegment, &(packets[0].len() as libc::c_int)).unwrap();
    lab.peer.send_to(&packets.concat(), (HERE, PORT)).unwrap();
    for sent in packets {
        let mut received = [0; 2048];
        let length = (&receiver).read(&mut received).unwrap();
        let mut expected = sent;
        // One hop further, which the header's checksum makes up for.
        (expected[8], expected[10]) = (received[8], received[10]);
        assert_eq!((received[8], checksum::checksum(&received[..20])), (63, 0));
        assert_eq!(received[..length], expected);
    }
}

#[test]
fn large_packets_that_the_device_refuses_are_written_one_by_one_and_for_good() {
    alone("large_packets_that_the_device_refuses_are_written_one_by_one_and_for_good", |lab| {
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        // The second octet of the offload header is the kind of large packet, zero for none.
        refusal::refuse_writes(move |header| {
            let large = header[1] != 0;
            count.fetch_add(usize::from(large), Ordering::Relaxed);
            large
        });
        for (protocol, bulk) in [(17, Bulk::TunUdp), (6, Bulk::TunTcp)] {
            let before = refused.load(Ordering::Relaxed);
            let running = lab.start();
            assert!(lab.counters.in_use(bulk));
            receive_through(&lab, protocol);
            let first = refused.load(Ordering::Relaxed);
            assert!(first > before, "no large packet was written");
            receive_through(&lab, protocol);
            running.stop();
            assert!(!lab.counters.in_use(bulk), "{bulk:?} is still in use");

            // As after a change of the underlay's address.
            let running = lab.start();
            receive_through(&lab, protocol);
            running.stop();
            assert_eq!(refused.load(Ordering::Relaxed), first, "{bulk:?} was tried again");
        }
        assert_eq!(lab.counters.inbound().drops(DropReason::WriteFailed), 0);
        assert_eq!(lab.counters.inbound().packets_out.get(), 6 * COUNT as u64);
    });
}

#[test]
fn a_filter_that_forbids_reads_without_waiting_stops_no_packet() {
    alone("a_filter_that_forbids_reads_without_waiting_stops_no_packet", |lab| {
        refusal::forbid(libc::SYS_preadv2);
        let running = lab.start();
        for _ in 0..3 {
            lab.send_through();
        }
        running.stop();
    });
}

#[test]
fn the_threads_end_though_whoever_started_them_has_blocked_the_signal_that_ends_them() {
    alone("the_threads_end_though_whoever_started_them_has_blocked_the_signal_that_ends_them", |lab| {
        SigSet::from(Signal::SIGURG).thread_block().unwrap();
        let running = lab.start();
        lab.send_through();
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            running.stop();
            let _ = sender.send(());
        });
        ended.recv_timeout(Duration::from_secs(10)).unwrap();
    });
}

#[test]
fn sockets_or_counters_for_another_number_of_queues_are_an_error() {
    alone("sockets_or_counters_for_another_number_of_queues_are_an_error", |lab| {
        let failed = mpsc::unbounded_channel().0;
        let without = DataPath { udp: Vec::new(), ..lab.data_path() };
        let error = without.start(&failed).unwrap_err();
        assert!(matches!(error, DataPathError::Uneven { queues: 1, sockets: 0, counters: 1 }), "{error}");
        let counters = Arc::new(Counters::new(NonZeroUsize::new(2).unwrap()));
        let error = DataPath { counters, ..lab.data_path() }.start(&failed).unwrap_err();
        assert!(matches!(error, DataPathError::Uneven { queues: 1, sockets: 1, counters: 2 }), "{error}");
    });
}
