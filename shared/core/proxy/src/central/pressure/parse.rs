//! The kernel's texts. A line counts only if it is whole: a number that was cut off is another number.

/// `/proc/stat`, in ticks of the CPUs that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub cpus: usize,
    pub idle: u64,
    pub whole: u64,
}

/// `schedstat` of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    pub waited_ns: u64,
    pub count: u64,
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

/// A pressure file: microseconds in which somebody waited.
pub fn waited_us(text: &str) -> Option<u64> {
    let some = lines(text).find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

/// A line `name number`.
pub fn field(text: &str, name: &str) -> Option<u64> {
    lines(text).find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
}

/// A file that is one number.
pub fn number(text: &str) -> Option<i64> {
    lines(text).next()?.trim().parse().ok()
}

/// `cpu.stat`: periods, and those in which the quota ran out.
pub fn periods(text: &str) -> Option<(u64, u64)> {
    Some((field(text, "nr_periods")?, field(text, "nr_throttled")?))
}

/// `cpu.max` of version 2, in CPUs; infinite if there is no quota.
pub fn quota(text: &str) -> Option<f64> {
    let (quota, period) = lines(text).next()?.split_once(' ')?;
    let period_us: u64 = period.trim().parse().ok().filter(|us| *us > 0)?;
    if quota == "max" {
        return Some(f64::INFINITY);
    }
    quota.parse::<u64>().ok().map(|quota_us| quota_us as f64 / period_us as f64)
}

/// `/proc/stat` for the CPUs that `may` picks.
pub fn cpu_times(text: &str, may: impl Fn(usize) -> bool) -> Option<Times> {
    let mut times = Times { cpus: 0, idle: 0, whole: 0 };
    for line in lines(text) {
        let Some((cpu, ticks)) = line.strip_prefix("cpu").and_then(|line| line.split_once(' ')) else { continue };
        if !cpu.parse().is_ok_and(&may) {
            continue;
        }
        // user nice system idle iowait irq softirq steal; what guests use is in the first two already.
        let ticks: Vec<u64> = ticks.split(' ').take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let [_, _, _, idle, waiting, ..] = ticks.as_slice() else { return None };
        times.cpus += 1;
        times.idle = times.idle.checked_add(*idle)?.checked_add(*waiting)?;
        times.whole = ticks.iter().try_fold(times.whole, |sum, ticks| sum.checked_add(*ticks))?;
    }
    (times.cpus > 0).then_some(times)
}

/// `schedstat`: time on a CPU, time spent waiting for one, slices.
pub fn slices(text: &str) -> Option<Slices> {
    let mut words = lines(text).next()?.split(' ').map(|word| word.parse::<u64>().ok());
    let (_, waited_ns, count) = (words.next()??, words.next()??, words.next()??);
    Some(Slices { waited_ns, count })
}
