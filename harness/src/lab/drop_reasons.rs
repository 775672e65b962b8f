//! Why this machine's kernel has dropped packets: the tracepoint `skb:kfree_skb`, whose reasons Linux tells since 5.17.
//!
//! Only root may look. The tracepoint knows of no network namespace, so what it says is told of a loss that nothing else
//! accounts for, by the time, and neither a verdict nor a snapshot depends on it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{SysconfVar, sysconf};
use perf_event::events::Tracepoint;
use perf_event::{Builder, Clock, SampleFlag, Sampler, data::Record};
use rustix::time::{ClockId, clock_gettime};

use crate::capture::frame::now;
use crate::lock::lock;

/// Where the kernel has its tracepoints, the first of them in what may be mounted there.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const EVENT: &str = "events/skb/kfree_skb";
/// Octets of each processor's ring: some thousand drops.
const RING: usize = 1 << 19;
/// Drops that are remembered.
const KEPT: usize = 1 << 14;
/// How soon a packet is dropped after it passed the last interface that saw it.
const WITHIN: Duration = Duration::from_millis(20);
/// An interface may see it a moment after it was stamped elsewhere.
const BEFORE: Duration = Duration::from_micros(50);
/// So many different ones are told.
const TOLD: usize = 3;
/// `ETH_P_IP`.
const IPV4: u16 = 0x0800;

/// What the kernel tells of the packets that it drops, on the whole machine.
pub struct DropReasons {
    watched: Mutex<Watched>,
    event: Event,
}

struct Watched {
    /// Each processor's.
    rings: Vec<Sampler>,
    drops: VecDeque<Drop>,
}

/// A packet that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Drop {
    /// By `CLOCK_MONOTONIC`.
    at: Duration,
    reason: u32,
    /// The instruction that did it.
    location: u64,
}

/// Where an event has what, as its `format` says, and what reasons are called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    id: u64,
    location: usize,
    protocol: usize,
    reason: usize,
    names: BTreeMap<u32, String>,
}

impl DropReasons {
    /// Looks from now on.
    ///
    /// # Errors
    /// When the kernel has no such tracepoint, or nobody but another may look.
    pub fn watch() -> io::Result<Self> {
        let event = tracepoint()?;
        let processors = sysconf(SysconfVar::_NPROCESSORS_CONF)?.unwrap_or(1);
        let mut rings = Vec::new();
        for processor in 0..usize::try_from(processors).unwrap_or(1) {
            let mut builder = Builder::new(Tracepoint::with_id(event.id));
            builder.any_pid().one_cpu(processor).include_kernel().clockid(Clock::MONOTONIC);
            builder.sample_period(1).sample(SampleFlag::TIME | SampleFlag::RAW).wakeup_watermark(RING / 2);
            let mut counter = match builder.build() {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                counter => counter?,
            };
            counter.enable()?;
            rings.push(counter.sampled(RING)?);
        }
        Ok(Self { watched: Mutex::new(Watched { rings, drops: VecDeque::new() }), event })
    }

    /// Takes what has come. A ring that is full takes nothing more.
    pub fn take(&self) {
        lock(&self.watched).take(&self.event);
    }

    /// What was dropped soon after a moment, by the clock that packets are stamped with: a line, or nothing.
    pub fn after(&self, moment: Duration) -> Option<String> {
        let mut watched = lock(&self.watched);
        watched.take(&self.event);
        let since_boot = Duration::try_from(clock_gettime(ClockId::Monotonic)).ok()?;
        // Of the two clocks one goes on from where the machine was started.
        let moment = moment.checked_sub(now().checked_sub(since_boot)?)?;
        let near = soon_after(&watched.drops, moment);
        if near.is_empty() {
            return None;
        }
        let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let told = near.iter().map(|(drop, later)| {
            let reason = self.event.names.get(&drop.reason).cloned();
            let reason = reason.unwrap_or_else(|| format!("reason {}", drop.reason));
            let place = function(&symbols, drop.location).map(|name| format!(" in {name}"));
            format!("{reason}{}, {} µs later", place.unwrap_or_default(), later.as_micros())
        });
        Some(told.collect::<Vec<_>>().join("; "))
    }
}

impl Watched {
    fn take(&mut self, event: &Event) {
        for ring in &mut self.rings {
            while let Some(record) = ring.next_record() {
                if let Ok(Record::Sample(sample)) = record.parse_record()
                    && let (Some(at), Some(raw)) = (sample.time(), sample.raw())
                    && let Some(drop) = event.read(Duration::from_nanos(at), raw)
                {
                    self.drops.push_back(drop);
                }
            }
        }
        let surplus = self.drops.len().saturating_sub(KEPT);
        self.drops.drain(..surplus);
    }
}

impl Event {
    /// What `id` and `format` say of the event.
    fn parse(id: &str, format: &str) -> Option<Self> {
        let offset = |name: &str| {
            let named = |line: &&str| line.split(';').next().is_some_and(|field| field.ends_with(name));
            let line = format.lines().filter(|line| line.trim_start().starts_with("field:")).find(named)?;
            line.split(';').nth(1)?.trim().strip_prefix("offset:")?.parse().ok()
        };
        let pair = |pair: &str| {
            let (number, name) = pair.split_once('}')?.0.split_once(',')?;
            Some((number.trim().parse().ok()?, name.trim().trim_matches('"').to_owned()))
        };
        Some(Self {
            id: id.trim().parse().ok()?,
            location: offset(" location")?,
            protocol: offset(" protocol")?,
            reason: offset(" reason")?,
            names: format.split('{').filter_map(pair).collect(),
        })
    }

    /// The drop of an IPv4 packet.
    fn read(&self, at: Duration, raw: &[u8]) -> Option<Drop> {
        let protocol = u16::from_ne_bytes(*raw.get(self.protocol..)?.first_chunk()?);
        let reason = u32::from_ne_bytes(*raw.get(self.reason..)?.first_chunk()?);
        let location = u64::from_ne_bytes(*raw.get(self.location..)?.first_chunk()?);
        (protocol == IPV4).then_some(Drop { at, reason, location })
    }
}

/// The first drops of each kind soon after a moment, and how much later they were.
fn soon_after(drops: &VecDeque<Drop>, moment: Duration) -> Vec<(Drop, Duration)> {
    let mut near: Vec<(Drop, Duration)> = Vec::new();
    let from = moment.saturating_sub(BEFORE);
    let mut soon: Vec<Drop> =
        drops.iter().copied().filter(|drop| (from..=moment + WITHIN).contains(&drop.at)).collect();
    soon.sort_unstable_by_key(|drop| drop.at);
    for drop in soon {
        let is_same =
            |(known, _): &(Drop, Duration)| (known.reason, known.location) == (drop.reason, drop.location);
        if near.len() < TOLD && !near.iter().any(is_same) {
            near.push((drop, drop.at.saturating_sub(moment)));
        }
    }
    near
}

/// The function that an address lies in, of what `/proc/kallsyms` says. All are at 0 there for who may not know.
fn function(symbols: &str, address: u64) -> Option<&str> {
    let parse = |line| {
        let mut words = str::split_whitespace(line);
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        let is_code = matches!(words.next()?, "t" | "T" | "w" | "W");
        let name = words.next()?;
        (is_code && start > 0 && start <= address).then_some((start, name))
    };
    symbols.lines().filter_map(parse).max_by_key(|(start, _)| *start).map(|(_, name)| name)
}

fn tracepoint() -> io::Result<Event> {
    let read = |root: &str| {
        let event = Path::new(root).join(EVENT);
        let (id, format) = (fs::read_to_string(event.join("id"))?, fs::read_to_string(event.join("format"))?);
        Event::parse(&id, &format).ok_or_else(|| io::Error::other("the format of skb:kfree_skb is another"))
    };
    if let Some(event) = TRACEFS.iter().find_map(|root| read(root).ok()) {
        return Ok(event);
    }
    // In this process's own mount namespace.
    let [root, _] = TRACEFS;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tracefs"), root, Some("tracefs"), flags, None::<&str>)?;
    let event = read(root);
    umount2(root, MntFlags::MNT_DETACH)?;
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: kfree_skb\nID: 2310\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
                          \tfield:void * location;\toffset:16;\tsize:8;\tsigned:0;\n\
                          \tfield:unsigned short protocol;\toffset:32;\tsize:2;\tsigned:0;\n\
                          \tfield:enum skb_drop_reason reason;\toffset:36;\tsize:4;\tsigned:0;\n\n\
                          print fmt: \"reason: %s\", __print_symbolic(REC->reason, { 2, \"NOT_SPECIFIED\" }, { 12, \"NETFILTER_DROP\" })\n";

    fn event() -> Event {
        Event::parse("2310\n", FORMAT).unwrap()
    }

    #[test]
    fn an_event_is_read_as_its_format_says() {
        let event = event();
        assert_eq!((event.id, event.location, event.protocol, event.reason), (2310, 16, 32, 36));
        assert_eq!(event.names[&12], "NETFILTER_DROP");
        let mut raw = [0; 44];
        raw[16..24].copy_from_slice(&0x1234_u64.to_ne_bytes());
        raw[36..40].copy_from_slice(&12_u32.to_ne_bytes());
        assert_eq!(event.read(Duration::ZERO, &raw), None, "no IPv4 packet");
        raw[32..34].copy_from_slice(&IPV4.to_ne_bytes());
        let drop = Drop { at: Duration::from_secs(1), reason: 12, location: 0x1234 };
        assert_eq!(event.read(Duration::from_secs(1), &raw), Some(drop));
        assert_eq!(event.read(Duration::ZERO, &raw[..38]), None);
        assert_eq!(Event::parse("x", FORMAT), None);
        assert_eq!(Event::parse("1", "field:int other;\toffset:8;"), None);
    }

    #[test]
    fn of_each_kind_the_first_soon_after_is_told() {
        let drop = |micros, reason| Drop { at: Duration::from_micros(micros), reason, location: 1 };
        let drops = [drop(900, 9), drop(1_500, 3), drop(1_010, 2), drop(1_020, 2), drop(30_000, 7)].into();
        let near = soon_after(&drops, Duration::from_micros(1_000));
        let expected =
            [(drop(1_010, 2), Duration::from_micros(10)), (drop(1_500, 3), Duration::from_micros(500))];
        assert_eq!(near, expected);
    }

    #[test]
    fn a_function_is_known_by_any_address_in_it() {
        let symbols = "ffffffff81000000 T first\nffffffff81000100 t second\nffffffff81000180 D data\nffffffff81000200 T third\n";
        assert_eq!(function(symbols, 0xffff_ffff_8100_01f0), Some("second"));
        assert_eq!(function(symbols, 0x10), None);
        assert_eq!(function("0000000000000000 T first\n", 0x10), None);
    }
}
