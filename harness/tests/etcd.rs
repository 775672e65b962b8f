//! etcd as a process and as a container, in namespaces of this test's own.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::GetOptions;
use harness::etcd::{Cluster, Error, Kind, MemberSpec, client};
use harness::netns::Namespace;
use harness::reaper;
use harness::sandbox::Sandbox;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount, umount};

/// Set in the environment of a child that starts a container, and then drops it or waits to be killed.
const VICTIM: &str = "HARNESS_ETCD_TEST_VICTIM";

type Outcome = Result<(), Failed>;

fn main() {
    reaper::serve_if_asked();
    let sandbox = match Sandbox::enter() {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Ok(fate) = std::env::var(VICTIM) {
        let outcome = block_on(async { run_victim(&fate, &Lab::new(&sandbox, "victim", 1)?).await });
        outcome.unwrap_or_else(|failed| {
            eprintln!("{failed:?}");
            std::process::exit(1);
        });
        return;
    }

    let mut arguments = Arguments::from_args();
    // The figures that the tests print are of one cluster at a time.
    arguments.test_threads.get_or_insert(1);
    let engine = Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success());
    let mut trials = Vec::new();
    for (kind, name) in [(Kind::Process, "process"), (Kind::Container, "container")] {
        let mut add = |what: &str, members: usize, case: Case| {
            let (lab_name, sandbox) = (format!("{name}-{}", trials.len()), sandbox.clone());
            let run = move || block_on(async { case(kind, Lab::new(&sandbox, &lab_name, members)?).await });
            let ignored = kind == Kind::Container && !engine;
            trials.push(Trial::test(format!("{name}::{what}"), run).with_ignored_flag(ignored));
        };
        add("one_member_is_reached_over_its_link", 1, |kind, lab| Box::pin(one_member(kind, lab)));
        add("three_members_agree_and_survive_the_loss_of_one", 3, |kind, lab| {
            Box::pin(three_members(kind, lab))
        });
        add("a_member_that_is_cut_off_catches_up_later", 3, |kind, lab| Box::pin(cut_off(kind, lab)));
        add("a_member_keeps_its_data_over_stop_and_kill", 1, |kind, lab| Box::pin(keeps_data(kind, lab)));
        add("a_paused_member_is_silent_until_resumed", 1, |kind, lab| Box::pin(paused(kind, lab)));
        add("a_taken_port_is_named_with_the_log", 1, |kind, lab| Box::pin(taken_port(kind, lab)));
    }
    let chosen = sandbox.clone();
    let chosen = move || block_on(async { choice(Lab::new(&chosen, "auto", 1)?).await });
    trials.push(Trial::test("auto::the_choice_is_explained", chosen));
    trials.push(
        Trial::test("container::nothing_is_left_of_a_dropped_cluster", dropped).with_ignored_flag(!engine),
    );
    let held = move || block_on(async { held(Lab::new(&sandbox, "held", 1)?).await });
    trials.push(Trial::test("container::what_is_left_is_told", held).with_ignored_flag(!engine));
    let killed = Trial::test("container::nothing_is_left_after_sigkill", killed).with_ignored_flag(!engine);
    trials.push(killed);
    libtest_mimic::run(&arguments, trials).exit();
}

type Case = fn(Kind, Lab) -> std::pin::Pin<Box<dyn Future<Output = Outcome>>>;

fn block_on<T>(future: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// A bridge with the members' nodes and one more, `client`, on it.
struct Lab {
    /// Holds the bridge: with it would go all links.
    switch: Namespace,
    client: Namespace,
    members: Vec<MemberSpec>,
    data: PathBuf,
}

impl Lab {
    fn new(sandbox: &Sandbox, name: &str, count: usize) -> Result<Self, Failed> {
        let dir = sandbox.dir().join(name);
        std::fs::create_dir(&dir)?;
        let data = dir.join("data");
        let switch = Namespace::create("switch", &dir)?;
        ip(&switch, &["link", "add", "br0", "type", "bridge"])?;
        ip(&switch, &["link", "set", "br0", "up"])?;
        let node = |name: &str, address: Ipv4Addr| -> Result<Namespace, Failed> {
            let namespace = Namespace::create(name, &dir)?;
            let (path, prefix) = (namespace.path().display().to_string(), format!("{address}/24"));
            ip(&switch, &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &path])?;
            ip(&switch, &["link", "set", name, "master", "br0", "up"])?;
            ip(&namespace, &["addr", "add", &prefix, "dev", "eth0"])?;
            ip(&namespace, &["link", "set", "eth0", "up"])?;
            ip(&namespace, &["link", "set", "lo", "up"])?;
            ip(&namespace, &["route", "add", "default", "via", "10.9.0.254"])?;
            Ok(namespace)
        };
        let client = node("client", Ipv4Addr::new(10, 9, 0, 1))?;
        let mut members = Vec::new();
        for (number, last) in (1..=count).zip(11..) {
            let (name, address) = (format!("etcd{number}"), Ipv4Addr::new(10, 9, 0, last));
            let namespace = node(&name, address)?;
            members.push(MemberSpec { name, address, namespace });
        }
        Ok(Self { switch, client, members, data })
    }

    async fn start(&self, kind: Kind) -> Result<Cluster, Error> {
        let started = Instant::now();
        let cluster = Cluster::start(kind, self.members.clone(), &self.data).await?;
        eprintln!("{kind:?} of {}: ready after {:?}", self.members.len(), started.elapsed());
        Ok(cluster)
    }
}

fn ip(namespace: &Namespace, arguments: &[&str]) -> Outcome {
    let output = namespace.command("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
}

fn ensure(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

async fn one_member(kind: Kind, lab: Lab) -> Outcome {
    let cluster = lab.start(kind).await?;
    let mut etcd = client(&lab.client, &cluster.endpoints()).await?;
    etcd.put("key", "value", None).await?;
    let answer = etcd.get("key", None).await?;
    ensure(answer.kvs()[0].value() == b"value", "the value is not what was put")?;

    // The address is reached over the link, and by nothing else.
    ip(cluster.members()[0].namespace(), &["link", "set", "eth0", "down"])?;
    let mut cut = client(&lab.client, &cluster.endpoints()).await?;
    let answer = tokio::time::timeout(Duration::from_secs(2), cut.get("key", None)).await;
    ensure(!matches!(answer, Ok(Ok(_))), "etcd answers over a link that is down")?;
    cluster.shutdown().await?;
    Ok(())
}

async fn three_members(kind: Kind, lab: Lab) -> Outcome {
    let mut cluster = lab.start(kind).await?;
    let endpoints = cluster.endpoints();
    client(&lab.client, &endpoints[..1]).await?.put("key", "one", None).await?;
    let answer = client(&lab.client, &endpoints[2..]).await?.get("key", None).await?;
    ensure(answer.kvs()[0].value() == b"one", "the third member does not know what the first was told")?;

    cluster.member("etcd1")?.kill().await?;
    let mut others = client(&lab.client, &endpoints[1..]).await?;
    let until = Instant::now() + Duration::from_secs(10);
    while others.put("key", "two", None).await.is_err() {
        ensure(Instant::now() < until, "two of three members do not take a write")?;
    }
    cluster.member("etcd1")?.start().await?;
    let answer = client(&lab.client, &endpoints[..1]).await?.get("key", None).await?;
    ensure(answer.kvs()[0].value() == b"two", "the first member does not catch up")?;
    cluster.shutdown().await?;
    Ok(())
}

async fn cut_off(kind: Kind, lab: Lab) -> Outcome {
    let mut cluster = lab.start(kind).await?;
    let endpoints = cluster.endpoints();
    ip(&lab.switch, &["link", "set", "etcd3", "down"])?;
    let mut others = client(&lab.client, &endpoints[..2]).await?;
    let until = Instant::now() + Duration::from_secs(10);
    while others.put("key", "value", None).await.is_err() {
        ensure(Instant::now() < until, "two of three members do not take a write")?;
    }
    let third = cluster.member("etcd3")?;
    let alone = client(third.namespace(), &endpoints[2..]).await?;
    let stale = alone.clone().get("key", Some(GetOptions::new().with_serializable())).await?;
    ensure(stale.kvs().is_empty(), "the third member hears from the others without a link")?;
    ensure(
        third.ready(Duration::from_millis(500)).await.is_err(),
        "the third member has a quorum without a link",
    )?;

    ip(&lab.switch, &["link", "set", "etcd3", "up"])?;
    let healed = Instant::now();
    third.ready(Duration::from_secs(20)).await?;
    eprintln!("{kind:?}: agrees {:?} after its link is up", healed.elapsed());
    let answer = alone.clone().get("key", None).await?;
    ensure(answer.kvs()[0].value() == b"value", "the third member does not catch up")?;
    cluster.shutdown().await?;
    Ok(())
}

async fn keeps_data(kind: Kind, lab: Lab) -> Outcome {
    let mut cluster = lab.start(kind).await?;
    let endpoints = cluster.endpoints();
    client(&lab.client, &endpoints).await?.put("key", "value", None).await?;
    for kill in [false, true] {
        let member = cluster.member("etcd1")?;
        if kill {
            member.kill().await?
        } else {
            member.stop().await?
        }
        let refused = client(&lab.client, &endpoints).await?.get("key", None).await;
        ensure(refused.is_err(), "a member that is stopped answers")?;
        let started = Instant::now();
        cluster.member("etcd1")?.start().await?;
        eprintln!("{kind:?}: ready again after {:?}", started.elapsed());
        let answer = client(&lab.client, &endpoints).await?.get("key", None).await?;
        ensure(answer.kvs()[0].value() == b"value", "the data are gone")?;
    }
    cluster.shutdown().await?;
    Ok(())
}

async fn paused(kind: Kind, lab: Lab) -> Outcome {
    let mut cluster = lab.start(kind).await?;
    let member = cluster.member("etcd1")?;
    member.pause().await?;
    let silent = member.ready(Duration::from_millis(200)).await;
    ensure(matches!(silent, Err(Error::NotReady { .. })), "a member that is paused answers")?;
    member.resume().await?;
    member.ready(Duration::from_secs(10)).await?;
    cluster.shutdown().await?;
    Ok(())
}

async fn choice(lab: Lab) -> Outcome {
    let cluster = lab.start(Kind::Auto).await?;
    eprintln!("{:?}: {}", cluster.kind(), cluster.reason());
    ensure(cluster.kind() != Kind::Auto && !cluster.reason().is_empty(), "no choice, or no reason")?;
    cluster.shutdown().await?;
    Ok(())
}

async fn taken_port(kind: Kind, lab: Lab) -> Outcome {
    let mut cluster = lab.start(kind).await?;
    let member = cluster.member("etcd1")?;
    member.stop().await?;
    let taken = member.namespace().run(|| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 2379)))??;
    let refused = member.start().await;
    drop(taken);
    // A container that is given eth0 has a namespace of its own each time it starts, where the port is free.
    let moved = kind == Kind::Container
        && nix::unistd::geteuid().is_root()
        && lab.members[0].namespace.run(no_eth0)?;
    match refused {
        Ok(()) => ensure(moved, "a member starts although its port is taken")?,
        Err(error) => {
            let text = error.to_string();
            eprintln!("{text}");
            ensure(
                text.to_lowercase().contains("address already in use"),
                "the message does not say what is wrong",
            )?;
        }
    }
    cluster.shutdown().await?;
    Ok(())
}

fn no_eth0() -> bool {
    nix::net::if_::if_nametoindex("eth0").is_err()
}

/// A directory in which something is mounted cannot be removed: neither at the cluster's end nor by the reaper.
async fn held(lab: Lab) -> Outcome {
    let cluster = lab.start(Kind::Container).await?;
    let owner = reaper::Reaper::get()?.owner();
    let entries = std::fs::read_dir(std::env::temp_dir())?.flatten();
    let mut owned = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(owner));
    let directory = owned.next().ok_or("the cluster has no directory")?.path();
    let mount_point = directory.join("mounted");
    std::fs::create_dir(&mount_point)?;
    mount(Some("held"), &mount_point, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let ended = cluster.shutdown().await;
    umount(&mount_point)?;
    std::fs::remove_dir_all(&directory)?;
    let told = ended.err().map(|error| error.to_string()).unwrap_or_default();
    let busy = "cannot be removed: Device or resource busy (os error 16)";
    ensure(told == format!("directory {} {busy}", directory.display()), &format!("it says: {told}"))
}

async fn run_victim(fate: &str, lab: &Lab) -> Outcome {
    let cluster = lab.start(Kind::Container).await?;
    let owner = reaper::Reaper::get()?.owner();
    println!("{owner}");
    if fate == "killed" {
        std::future::pending::<()>().await;
    }
    drop(cluster);
    eprintln!("gone {:?} after the drop", gone(owner)?);
    Ok(())
}

fn victim(fate: &str) -> Result<(Child, String), Failed> {
    let mut victim =
        Command::new(std::env::current_exe()?).env(VICTIM, fate).stdout(Stdio::piped()).spawn()?;
    let mut owner = String::new();
    BufReader::new(victim.stdout.take().ok_or("no output")?).read_line(&mut owner)?;
    Ok((victim, owner.trim_end().to_owned()))
}

fn killed() -> Outcome {
    let (mut victim, owner) = victim("killed")?;
    let leaves_traces = !owner.is_empty() && traces(&owner)?.len() == 2;
    victim.kill()?;
    victim.wait()?;
    ensure(leaves_traces, "not one container and one directory were there to be removed")?;
    eprintln!("gone {:?} after SIGKILL", gone(&owner)?);
    Ok(())
}

fn dropped() -> Outcome {
    let (mut victim, _) = victim("dropped")?;
    ensure(victim.wait()?.success(), "something is left while the process lives")
}

/// How long it takes until nothing of that owner is left.
fn gone(owner: &str) -> Result<Duration, Failed> {
    let started = Instant::now();
    loop {
        let left = traces(owner)?;
        if left.is_empty() {
            return Ok(started.elapsed());
        }
        ensure(started.elapsed() < Duration::from_secs(10), &format!("left after 10 s: {left:?}"))?;
    }
}

/// The containers and directories of that owner.
fn traces(owner: &str) -> Result<Vec<String>, Failed> {
    let label = format!("label=harness.owner={owner}");
    let containers = Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &label]).output()?;
    let mut traces: Vec<_> = String::from_utf8(containers.stdout)?.lines().map(str::to_owned).collect();
    for entry in std::fs::read_dir(std::env::temp_dir())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(owner) {
            traces.push(name);
        }
    }
    Ok(traces)
}
