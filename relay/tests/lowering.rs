//! What the kernel refuses in bulk is done packet by packet from then on, by the real threads in a network of their own.
//!
//! The test starts itself again below `unshare`, which makes the network; it is gone with that process.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its work fails the test")]

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsRawFd,
    process::Command,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use relay::datapath::{
    admission::Admission,
    counters::{Bulk, Counters, DropReason},
    marking::Marking,
    offload::Offload,
    routes::Routes,
    threads::{DataPath, Running},
    tun::{Queues, Tun},
    udp::{self, Sockets},
};
use tokio::sync::mpsc;

/// Set in the process that has a network of its own.
const INSIDE: &str = "RELAY_TEST_INSIDE";

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PORT: u16 = 8285;

/// Octets of payload in each datagram, and how many a large one has.
const LENGTH: usize = 100;
const COUNT: usize = 20;

fn start(tun: &Arc<Tun>, routes: &Arc<Routes>, counters: &Arc<Counters>) -> Running {
    let udp = udp::open(SocketAddrV4::new(HERE, PORT)).unwrap();
    // A socket without checksums is what Linux does not segment for.
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            udp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
    let data_path = DataPath {
        tun: Arc::clone(tun),
        udp: vec![Sockets::one(udp)],
        icmp: udp::open_icmp().unwrap(),
        port: PORT,
        address: HERE,
        admission: Admission { own_subnet: "10.5.1.0/24".parse().unwrap(), peers_behind_nat: false },
        routes: Arc::clone(routes),
        marking: Marking::default(),
        counters: Arc::clone(counters),
        offload: Offload::Auto,
    };
    data_path.start(&mpsc::unbounded_channel().0).unwrap()
}

/// Sends one large datagram into the device and checks what comes to the other node for it.
fn send_through(peer: &UdpSocket) {
    let sender = UdpSocket::bind(("10.5.1.0", 0)).unwrap();
    setsockopt(&sender, sockopt::UdpGsoSegment, &(LENGTH as libc::c_int)).unwrap();
    let sent: Vec<u8> = (0..COUNT * LENGTH).map(|index| (index / LENGTH) as u8).collect();
    assert_eq!(sender.send_to(&sent, ("10.5.2.2", 9)).unwrap(), sent.len());
    let mut received = Vec::new();
    let mut packet = [0; 2048];
    for _ in 0..COUNT {
        let length = peer.recv(&mut packet).unwrap();
        received.extend_from_slice(&packet[28..length]);
    }
    assert_eq!(received, sent);
}

#[test]
fn runs_that_the_kernel_refuses_go_as_single_datagrams_in_order_and_for_good() {
    let name = "runs_that_the_kernel_refuses_go_as_single_datagrams_in_order_and_for_good";
    if std::env::var_os(INSIDE).is_none() {
        let output = Command::new("unshare")
            .args(["--map-root-user", "--net"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        return;
    }
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
    let counters = Arc::new(Counters::new(NonZeroUsize::MIN));

    let running = start(&tun, &routes, &counters);
    assert!(counters.in_use(Bulk::UdpSend));
    send_through(&peer);
    running.stop();
    assert!(!counters.in_use(Bulk::UdpSend), "the kernel took a run");

    // As after a change of the underlay's address.
    let running = start(&tun, &routes, &counters);
    assert!(!counters.in_use(Bulk::UdpSend), "forgotten");
    send_through(&peer);
    running.stop();
    assert_eq!(counters.outbound().drops(DropReason::SendFailed), 0);
    assert_eq!(counters.outbound().packets_out.get(), 2 * COUNT as u64);
}
