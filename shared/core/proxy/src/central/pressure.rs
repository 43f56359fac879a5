//! What the kernel says about CPU: the inputs of the Central Mesh's controller, read four times a second.
//!
//! A host that starves must not pay for being looked at: files stay open and are read with `pread`, and only once a second is
//! anything opened, or asked whether it has changed (other threads, another control group, a file that was not there).
//! Everything is a difference of counters that go up, so no averages of the kernel's get in the way, and no trigger needs a
//! right. What is missing, unreadable or not understood is `None` and a line of trouble.
//!
//! | input | from |
//! | --- | --- |
//! | host pressure | `total=` of `/proc/pressure/cpu` |
//! | group pressure | the same in our own group of cgroup v2, also where only pressure and names are left to it (hybrid) |
//! | throttled | periods in which a quota ran out, ours or one above us: v1's controller `cpu`, or v2 |
//! | run delay | how long a thread of ours waits for a CPU before a slice, the worst thread |
//! | idle | the CPUs that we may run on, or what is left of the quota if that is less |
//!
//! | file | what |
//! | --- | --- |
//! | `source` | a file that stays open |
//! | `parse` | the texts |
//! | `groups` | where our control groups are |
//! | `quota` | quotas, and what is left of them |
//! | `threads` | how long our threads wait |

use std::path::{Path, PathBuf};

use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};

mod groups;
mod parse;
mod quota;
mod source;
#[cfg(test)]
mod tests;
mod threads;

use groups::Mount;
use quota::Quotas;
use source::{Counter, Source, Text};
use threads::Threads;

/// How often the files themselves are looked for.
const LOOK_NS: u64 = 1_000_000_000;

/// What has happened since the look before. Percentages are of that time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Percent of time in which somebody on the host waited for a CPU.
    pub host_pressure: Option<f64>,
    /// The same in our control group.
    pub cgroup_pressure: Option<f64>,
    /// Percent of periods in which a quota ran out; `None` too where there is no quota.
    pub throttled: Option<f64>,
    /// The mean wait before a slice of CPU, of the thread that waits longest.
    pub run_delay_ms: Option<f64>,
    /// 0…1 of `cpus`.
    pub idle: Option<f64>,
    /// CPUs that we may use: those of our affinity, or the smallest quota if that is less.
    pub cpus: Option<f64>,
    /// CPU time of this process.
    pub proxy_cpu_ns: u64,
    /// What could not be read, a line each.
    pub trouble: Vec<String>,
}

/// The files, and their counters at the last look.
pub struct Pressure {
    root: PathBuf,
    affinity: fn() -> Option<CpuSet>,
    allowed: Option<CpuSet>,
    text: Text,
    looked_ns: Option<u64>,
    read_ns: Option<u64>,
    membership: Vec<u8>,
    missing: Vec<String>,
    host: Source,
    host_total: Counter,
    group: Option<Source>,
    group_total: Counter,
    quotas: Quotas,
    threads: Threads,
    stat: Source,
    idle: Counter,
    whole: Counter,
    cpu_ns: u64,
}

impl Pressure {
    /// Finds what this host has.
    #[must_use]
    pub fn new() -> Self {
        Self::below(Path::new("/"), || rustix::thread::sched_getaffinity(Some(rustix::process::getpid())).ok())
    }

    /// The same for a tree of files that looks like a host's.
    fn below(root: &Path, affinity: fn() -> Option<CpuSet>) -> Self {
        let mut pressure = Pressure {
            root: root.to_owned(),
            affinity,
            allowed: None,
            text: Text::default(),
            looked_ns: None,
            read_ns: None,
            membership: Vec::new(),
            missing: Vec::new(),
            host: Source::new(root.join("proc/pressure/cpu")),
            host_total: Counter::default(),
            group: None,
            group_total: Counter::default(),
            quotas: Quotas::default(),
            threads: Threads::new(root.join("proc/self/task")),
            stat: Source::new(root.join("proc/stat")),
            idle: Counter::default(),
            whole: Counter::default(),
            cpu_ns: process_cpu_ns(),
        };
        pressure.find_groups();
        pressure
    }

    /// What has happened since the last call; `now_ns` is of a monotonic clock. The first one has nothing to compare with.
    pub fn read(&mut self, now_ns: u64) -> Readings {
        if self.looked_ns.is_none_or(|looked| now_ns.abs_diff(looked) >= LOOK_NS) {
            self.looked_ns = Some(now_ns);
            self.look();
        }
        let last = self.read_ns.replace(now_ns);
        let interval_ns = last.and_then(|last| now_ns.checked_sub(last)).filter(|ns| *ns > 0);
        let host_us = self.host_total.passed(self.host.read(&mut self.text, parse::waited_us));
        let group_us =
            self.group_total.passed(self.group.as_mut().and_then(|f| f.read(&mut self.text, parse::waited_us)));
        let quota = self.quotas.read(&mut self.text, interval_ns);
        let host = self.host_idle();
        Readings {
            host_pressure: percent(host_us, interval_ns),
            cgroup_pressure: percent(group_us, interval_ns),
            throttled: quota.throttled,
            run_delay_ms: self.threads.read(&mut self.text),
            idle: host.and_then(|(share, cpus)| quota.idle(share? * cpus, cpus)),
            cpus: host.map(|(_, cpus)| cpus.min(quota.cpus)),
            proxy_cpu_ns: self.own_cpu_ns(),
            trouble: self.trouble(),
        }
    }

    fn look(&mut self) {
        self.find_groups();
        self.allowed = (self.affinity)();
        self.threads.find();
        let files = [&mut self.host, &mut self.stat].into_iter();
        files.chain(&mut self.group).chain(self.quotas.files()).for_each(Source::reopen);
    }

    /// Finds our control groups, if they are other ones than before.
    fn find_groups(&mut self) {
        let membership = std::fs::read(self.root.join("proc/self/cgroup")).unwrap_or_default();
        if membership == self.membership && !membership.is_empty() {
            return;
        }
        let mounts = std::fs::read(self.root.join("proc/self/mountinfo")).unwrap_or_default();
        let mounts: Vec<Mount> = String::from_utf8_lossy(&mounts).lines().filter_map(groups::mount).collect();
        let names = String::from_utf8_lossy(&membership).into_owned();
        let unified = groups::unified(&names, &mounts).map(|place| place.below(&self.root));
        let cpu = groups::controller(&names, &mounts, "cpu").map(|place| place.below(&self.root));
        let usage = groups::controller(&names, &mounts, "cpuacct").map(|place| place.below(&self.root));
        self.missing = unified
            .is_none()
            .then(|| "no control group of version 2: its pressure is not known".into())
            .into_iter()
            .collect();
        self.group = unified.as_ref().map(|place| Source::new(place.folder().join("cpu.pressure")));
        self.quotas = match (cpu, unified) {
            (Some(cpu), _) => Quotas::first(&cpu, usage.as_ref()),
            (None, Some(unified)) => Quotas::second(&unified),
            (None, None) => Quotas::default(),
        };
        self.group_total = Counter::default();
        self.membership = membership;
    }

    /// The idle share of the CPUs that we may run on, and how many they are.
    fn host_idle(&mut self) -> Option<(Option<f64>, f64)> {
        let allowed = self.allowed.as_ref();
        let may = |cpu: usize| allowed.is_none_or(|set| cpu < CpuSet::MAX_CPU && set.is_set(cpu));
        let times = self.stat.read(&mut self.text, |text| parse::cpu_times(text, may));
        let whole = self.whole.passed(times.map(|times| times.whole)).filter(|ticks| *ticks > 0);
        let idle = self.idle.passed(times.map(|times| times.idle));
        let share = whole.zip(idle).map(|(whole, idle)| (idle as f64 / whole as f64).min(1.0));
        times.map(|times| (share, times.cpus as f64))
    }

    fn own_cpu_ns(&mut self) -> u64 {
        let now = process_cpu_ns();
        now.saturating_sub(std::mem::replace(&mut self.cpu_ns, now))
    }

    fn trouble(&mut self) -> Vec<String> {
        let files = [&mut self.host, &mut self.stat].into_iter().chain(&mut self.group).chain(self.quotas.files());
        let files: Vec<String> = files.filter_map(|file| file.trouble().map(str::to_owned)).collect();
        self.missing.iter().cloned().chain(files).chain(self.threads.trouble().map(str::to_owned)).collect()
    }
}

fn percent(waited_us: Option<u64>, interval_ns: Option<u64>) -> Option<f64> {
    let (waited_us, interval_ns) = waited_us.zip(interval_ns)?;
    Some((waited_us as f64 * 1_000.0 / interval_ns as f64 * 100.0).min(100.0))
}

fn process_cpu_ns() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64
}
