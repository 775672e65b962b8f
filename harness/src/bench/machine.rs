//! What the machine is, and what processes and links have cost it.

use std::fs;
use std::io;
use std::time::Duration;

use serde::Serialize;

use super::{Error, system};
use crate::lab::INTERFACE;
use crate::netns::Namespace;

/// The machine that was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that the run may use.
    pub cores: usize,
    /// Of memory, in GiB.
    pub memory_gib: f64,
    /// The kernel's release.
    pub kernel: String,
    /// The load average over a minute, when the run began.
    pub load: f64,
}

impl Machine {
    /// Looks at the machine now.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim_start_matches([' ', '\t', ':']).trim().to_owned()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
        Self {
            processor: after(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gib: kib / f64::from(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, memory_gib, kernel, load } = self;
        write!(
            f,
            "{cores} cores of {processor}, {memory_gib:.0} GiB, Linux {kernel}; load average at the start {load:.1}"
        )
    }
}

/// The load average over a minute (proc_loadavg(5)).
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// What a process has used since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// On a processor, to the nanosecond: the sum of its threads that still run.
    pub cpu: Duration,
    /// On a processor, in ticks of 10 ms: all its threads.
    pub ticks: Duration,
    /// As `ticks`, of its children that have ended.
    pub children: Duration,
    /// Times that one of its threads got a processor.
    pub slices: u64,
}

impl Usage {
    /// Reads what the process has used.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(process: u32) -> Result<Self, Error> {
        let doing = || system(format!("reading what process {process} has used"));
        Self::read(process).map_err(doing())
    }

    fn read(process: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let mut words = text.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
            usage.cpu += Duration::from_nanos(words.next().unwrap_or(0));
            usage.slices += words.nth(1).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name, in brackets, may contain anything.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks = |field: usize| {
            let word = after.split_whitespace().nth(field - 3);
            TICK * word.and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        usage.ticks = ticks(14) + ticks(15);
        usage.children = ticks(16) + ticks(17);
        Ok(usage)
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            ticks: self.ticks.saturating_sub(earlier.ticks),
            children: self.children.saturating_sub(earlier.children),
            slices: self.slices.saturating_sub(earlier.slices),
        }
    }
}

/// The unit of times in proc(5): `USER_HZ` is 100 on every architecture that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// What a process has in memory, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Now.
    pub now: f64,
    /// At most, since it was started.
    pub peak: f64,
}

impl Memory {
    /// Reads what the process has (`VmRSS` and `VmHWM` in proc_pid_status(5)).
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(process: u32) -> Result<Self, Error> {
        let path = format!("/proc/{process}/status");
        let text = fs::read_to_string(&path).map_err(system(format!("reading {path}")))?;
        let mebibytes = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
            kib / 1024.0
        };
        Ok(Self { now: mebibytes("VmRSS:"), peak: mebibytes("VmHWM:") })
    }
}

/// For how long the machine's processors were busy since it was started, all together (proc_stat(5)).
///
/// # Errors
/// When the kernel does not say.
pub fn busy() -> Result<Duration, Error> {
    let text = fs::read_to_string("/proc/stat").map_err(system("reading /proc/stat"))?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u32> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq
    Ok([0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).map(|ticks| TICK * *ticks).sum())
}

/// What passed a host's `eth0`, link headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// Octets received.
    pub received: u64,
    /// Octets sent.
    pub sent: u64,
}

impl Wire {
    /// Reads the counters of a host's `eth0`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn of(namespace: &Namespace) -> Result<Self, Error> {
        let text = namespace
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))?
            .map_err(system("reading the counters of a link"))?;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(INTERFACE)?.strip_prefix(':'));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        let octets = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
        Ok(Self { received: octets(0), sent: octets(8) })
    }

    /// What passed since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { received: self.received - earlier.received, sent: self.sent - earlier.sent }
    }
}
