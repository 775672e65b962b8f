//! Cut and shaped links, with plain sockets at both ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::etcd::Kind;
use harness::lab::shaper::{Cause, Impairment, Rate};
use harness::lab::{Lab, Workshop};
use harness::overlay::relay::Relay;
use harness::sandbox::Sandbox;
use harness::topology::Topology;
use libtest_mimic::{Arguments, Failed, Trial};

/// The port of every socket that receives.
const PORT: u16 = 7000;
/// For what is to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// How many datagrams are under way at once, so that no socket's buffer overflows.
const WINDOW: u32 = 64;

type Outcome = Result<(), Failed>;

fn main() {
    let sandbox = match Sandbox::enter() {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let mut trials = Vec::new();
    let mut add = |name: &str, test: Test| {
        let workshop = Workshop {
            sandbox: sandbox.clone(),
            overlay: Arc::new(Relay::new("no relay is started here")),
            etcd: Kind::Process,
            reason: "no etcd is started here".to_owned(),
            recorded: true,
            settings: Vec::new(),
            drop_reasons: None,
        };
        trials.push(Trial::test(name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut lab = Lab::wire(&workshop, Topology::default()).await?;
                test(&mut lab).await?;
                expect(lab.down().await, Vec::<String>::new(), "what is left of the lab")
            })
        }));
    };
    add("a_cut_stops_what_goes_its_way_and_nothing_else", |lab| Box::pin(cut(lab)));
    add("a_round_trip_takes_twice_the_delay", |lab| Box::pin(delay(lab)));
    add("so_many_of_a_hundred_are_lost_and_each_is_told", |lab| Box::pin(loss(lab)));
    add("what_a_full_queue_drops_is_told", |lab| Box::pin(queue(lab)));
    add("offloads_pass_unharmed", |lab| Box::pin(offloads(lab)));
    add("what_is_held_arrives_when_the_shaper_goes", |lab| Box::pin(flush(lab)));
    add("what_a_shaper_cannot_send_is_missed_unless_its_link_is_down", |lab| Box::pin(missed(lab)));
    add("a_cut_holds_where_a_shaper_stands", |lab| Box::pin(cut_and_shaped(lab)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

type Test = for<'a> fn(&'a mut Lab) -> std::pin::Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// The address of a node of the default lab.
fn address(lab: &Lab, node: &str) -> Result<SocketAddrV4, Failed> {
    let address = lab.topology.address_of(node).ok_or(format!("there is no {node}"))?;
    Ok(SocketAddrV4::new(address, PORT))
}

/// A UDP socket of a node that waits for what it receives.
fn socket(lab: &Lab, node: &str) -> Result<UdpSocket, Failed> {
    let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT));
    let socket = lab.host(node)?.namespace.run(open)??;
    socket.set_read_timeout(Some(ARRIVES_WITHIN))?;
    Ok(socket)
}

/// A socket of a, connected to the one of b.
fn pair(lab: &Lab) -> Result<(UdpSocket, UdpSocket), Failed> {
    let (a, b) = (socket(lab, "a")?, socket(lab, "b")?);
    a.connect(address(lab, "b")?)?;
    b.connect(address(lab, "a")?)?;
    Ok((a, b))
}

fn expect<T: PartialEq + std::fmt::Debug>(actual: T, expected: T, what: &str) -> Outcome {
    if actual == expected {
        return Ok(());
    }
    Err(format!("{what}: {actual:?}, not {expected:?}").into())
}

/// The next datagram.
fn next(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let len = socket.recv(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Both ways, so that neighbours are known to each other.
fn greet(one: &UdpSocket, other: &UdpSocket) -> Outcome {
    for (from, to) in [(one, other), (other, one)] {
        from.send(b"hello")?;
        expect(next(to)?, b"hello".to_vec(), "a greeting")?;
    }
    Ok(())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
}

async fn cut(lab: &mut Lab) -> Outcome {
    let (a, b) = pair(lab)?;
    // Neighbours find each other through the cut.
    lab.cut(pairs(&[("a", "b")])).await?;
    a.send(b"lost")?;
    b.send(b"back")?;
    expect(next(&a)?, b"back".to_vec(), "the other way")?;
    lab.heal(None).await?;
    a.send(b"there")?;
    expect(next(&b)?, b"there".to_vec(), "after the cut")
}

async fn delay(lab: &mut Lab) -> Outcome {
    let (a, b) = pair(lab)?;
    let slow = Impairment { delay: Duration::from_millis(60), ..Impairment::default() };
    lab.shape("b", slow, slow, &[]).await?;
    greet(&a, &b)?;
    let start = Instant::now();
    greet(&a, &b)?;
    let took = start.elapsed();
    if took < Duration::from_millis(120) {
        return Err(format!("there and back took {took:?}").into());
    }
    println!("120 ms took {took:?}");
    Ok(())
}

/// Sends numbered datagrams, not too many at once, and counts those that arrive.
fn send_many(lab: &Lab, (from, to): (&UdpSocket, &UdpSocket), count: u32) -> Result<u32, Failed> {
    let mut arrived = 0;
    let (before, start) = (lab.shaped_so_far(), Instant::now());
    let dropped = || u32::try_from(lab.shaped_so_far() - before).unwrap_or(u32::MAX);
    to.set_nonblocking(true)?;
    let (mut sent, mut buffer) = (0, [0; 4]);
    while arrived + dropped() < count {
        while sent < count && sent - arrived - dropped().min(sent - arrived) < WINDOW {
            from.send(&sent.to_be_bytes())?;
            sent += 1;
        }
        while to.recv(&mut buffer).is_ok() {
            arrived += 1;
        }
        if start.elapsed() > ARRIVES_WITHIN {
            return Err(format!("{sent} sent, {arrived} arrived, {} dropped", dropped()).into());
        }
    }
    to.set_nonblocking(false)?;
    println!("{:.0} packets a second", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(arrived)
}

async fn loss(lab: &mut Lab) -> Outcome {
    let (a, b) = pair(lab)?;
    let lossy = Impairment { loss: 10, ..Impairment::default() };
    lab.shape("b", lossy, Impairment::default(), &[]).await?;
    expect(send_many(lab, (&a, &b), 20_000)?, 18_000, "arrived")?;
    expect(lab.shaped_so_far(), 2_000, "told")?;
    expect(send_many(lab, (&b, &a), 1_000)?, 1_000, "arrived on the way back")?;
    expect(lab.unshape("b", &[]).await?, [vec![Cause::Loss], vec![]], "causes")?;
    expect(send_many(lab, (&a, &b), 1_000)?, 1_000, "arrived after it")?;
    expect(lab.missed_by_shapers(), 0, "missed")
}

async fn queue(lab: &mut Lab) -> Outcome {
    let (a, b) = pair(lab)?;
    let rate = Some(Rate { bits: 100_000, queue: 5 });
    lab.shape("b", Impairment { rate, ..Impairment::default() }, Impairment::default(), &[]).await?;
    greet(&a, &b)?;
    let arrived = send_many(lab, (&a, &b), 500)?;
    let dropped = lab.shaped_so_far();
    expect(arrived as usize + dropped, 500, "arrived and dropped")?;
    if dropped == 0 {
        return Err("100 kbit/s were enough".into());
    }
    expect(lab.unshape("b", &[]).await?, [vec![Cause::QueueFull], vec![]], "causes")
}

/// A transfer in 64 KiB segments that the device is to cut, and a run of datagrams likewise.
async fn offloads(lab: &mut Lab) -> Outcome {
    let slow = Impairment { delay: Duration::from_millis(1), ..Impairment::default() };
    lab.shape("b", slow, slow, &[]).await?;
    let to = address(lab, "b")?;
    let listener = lab.host("b")?.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    let sent: Vec<u8> = (0..4_000_000u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let octets = sent.clone();
    let mut client = lab.host("a")?.namespace.run(|| TcpStream::connect(to))??;
    let sender = std::thread::spawn(move || client.write_all(&octets));
    let mut received = Vec::new();
    listener.accept()?.0.read_to_end(&mut received)?;
    sender.join().map_err(|_| "the sender panicked")??;
    expect(received == sent, true, "the octets arrive as they were")?;

    let (a, b) = pair(lab)?;
    let segment: libc::c_int = 1000;
    let len = size_of_val(&segment) as libc::socklen_t;
    let value = (&raw const segment).cast();
    // SAFETY: `segment` outlives the call, and `len` is its size.
    let set = unsafe { libc::setsockopt(a.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, len) };
    expect(set, 0, "setting UDP_SEGMENT")?;
    let run: Vec<u8> = (0..10u8).flat_map(|at| [at; 1000]).collect();
    a.send(&run)?;
    for at in 0..10 {
        expect(next(&b)?, vec![at; 1000], "a datagram of the run")?;
    }
    Ok(())
}

async fn flush(lab: &mut Lab) -> Outcome {
    let before = lab.host("underlay")?.netlink.links().await?;
    let (a, b) = pair(lab)?;
    greet(&a, &b)?;
    let slow = Impairment { delay: Duration::from_secs(600), ..Impairment::default() };
    lab.shape("b", slow, slow, &[]).await?;
    a.send(b"late")?;
    let _ = lab.unshape("b", &[]).await?;
    expect(next(&b)?, b"late".to_vec(), "what was held")?;
    expect(lab.host("underlay")?.netlink.links().await?, before, "the switch's links")
}

async fn missed(lab: &mut Lab) -> Outcome {
    let (a, b) = pair(lab)?;
    lab.shape("b", Impairment::default(), Impairment::default(), &[]).await?;
    greet(&a, &b)?;
    // A queue that has no room for any frame.
    let switch = lab.host("underlay")?.clone();
    switch.run("tc", &["qdisc", "add", "dev", "b", "root", "bfifo", "limit", "1"], "").await?;
    let start = Instant::now();
    while lab.missed_by_shapers() == 0 {
        if start.elapsed() > ARRIVES_WITHIN {
            return Err("what the shaper cannot send is not missed".into());
        }
        a.send(b"lost")?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    switch.run("tc", &["qdisc", "del", "dev", "b", "root"], "").await?;

    let (before, down) = (lab.missed_by_shapers(), ["b".to_owned()]);
    let sends = Arc::new(AtomicBool::new(true));
    // Sent all the while, as it is the moment of the change that has an error of its own.
    let sender = std::thread::spawn({
        let sends = sends.clone();
        move || {
            while sends.load(Ordering::Relaxed) && a.send(b"lost").is_ok() {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    });
    for up in [false, true, false] {
        lab.set_link("b", up, if up { &[] } else { &down }).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sends.store(false, Ordering::Relaxed);
    sender.join().map_err(|_| "the sender panicked")?;
    let _ = lab.unshape("b", &down).await?;
    expect(lab.missed_by_shapers(), before, "missed while the link is down")
}

async fn cut_and_shaped(lab: &mut Lab) -> Outcome {
    let (a, b) = pair(lab)?;
    lab.cut(pairs(&[("a", "b")])).await?;
    lab.shape("b", Impairment::default(), Impairment::default(), &[]).await?;
    a.send(b"lost")?;
    greet_back(&b, &a)?;
    let _ = lab.unshape("b", &[]).await?;
    a.send(b"lost")?;
    greet_back(&b, &a)?;
    lab.heal(Some(pairs(&[("a", "b")]))).await?;
    a.send(b"there")?;
    expect(next(&b)?, b"there".to_vec(), "after the cut")
}

fn greet_back(from: &UdpSocket, to: &UdpSocket) -> Outcome {
    from.send(b"back")?;
    expect(next(to)?, b"back".to_vec(), "the other way")
}
