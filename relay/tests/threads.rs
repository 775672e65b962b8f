//! The data path's real threads, in a network of their own, where something refuses them what they ask for.
//!
//! Each test starts itself again below `unshare`, which makes the network; it is gone with that process.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its work fails the test")]

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsRawFd,
    process::Command,
    sync::Arc,
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
use tokio::sync::mpsc;

/// Set in the process that has a network of its own.
const INSIDE: &str = "RELAY_TEST_INSIDE";

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PORT: u16 = 8285;

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
        let sender = UdpSocket::bind(("10.5.1.0", 0)).unwrap();
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

/// From now on this thread, and those that it starts, may not make the system call: `EPERM`.
fn forbid(call: libc::c_long) {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, refused),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the call takes numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is valid and outlives the call, in which the kernel copies it.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) }, 0);
}

#[test]
fn a_filter_that_forbids_reads_without_waiting_stops_no_packet() {
    alone("a_filter_that_forbids_reads_without_waiting_stops_no_packet", |lab| {
        forbid(libc::SYS_preadv2);
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
