//! CPU quotas, our group's and those of the groups above it: how often one ran out, and what is left of the tightest.
//!
//! Version 1 counts usage in another controller, `cpuacct`, whose groups need not be the same. Where they are not, usage is
//! not known, and a quota has nothing left if it ran out and as much as the host has if it did not.

use super::groups::Place;
use super::parse;
use super::source::{Counter, Source, Text};

/// A group, and what is above it.
#[derive(Default)]
pub struct Quotas(Vec<Level>);

/// One group that could have a quota.
struct Level {
    quota: Limit,
    stat: Source,
    /// Version 2 has usage in `stat`.
    usage: Option<Source>,
    periods: Counter,
    throttled: Counter,
    used_ns: Counter,
}

enum Limit {
    First { quota: Source, period: Source },
    Second(Source),
}

/// All of them together.
pub struct Verdict {
    /// Percent of periods, of the group where it is worst; `None` if no group has a quota.
    pub throttled: Option<f64>,
    /// The smallest quota, infinite if there is none.
    pub cpus: f64,
    /// CPUs that are left of the quota that has least left.
    left: f64,
}

impl Verdict {
    /// The idle share of what we may use, on a host that has `idle` of its `cpus` idle.
    pub fn idle(&self, idle: f64, cpus: f64) -> Option<f64> {
        let whole = cpus.min(self.cpus);
        (whole > 0.0).then(|| (idle.min(self.left) / whole).clamp(0.0, 1.0))
    }
}

impl Quotas {
    /// Version 1: `usage` is our group of `cpuacct`.
    pub fn first(cpu: &Place, usage: Option<&Place>) -> Self {
        let usage = usage.filter(|usage| usage.group() == cpu.group());
        let mut usage = usage.into_iter().flat_map(Place::and_above);
        let levels = cpu.and_above().filter_map(|folder| {
            let usage = usage.next().map(|folder| Source::new(folder.join("cpuacct.usage")));
            let quota = folder.join("cpu.cfs_quota_us");
            quota.exists().then(|| {
                let period = Source::new(folder.join("cpu.cfs_period_us"));
                Level::new(
                    Limit::First { quota: Source::new(quota), period },
                    Source::new(folder.join("cpu.stat")),
                    usage,
                )
            })
        });
        Quotas(levels.collect())
    }

    /// Version 2: a group without the controller, and the root, have no quota.
    pub fn second(unified: &Place) -> Self {
        let levels = unified.and_above().filter_map(|folder| {
            let quota = folder.join("cpu.max");
            let stat = folder.join("cpu.stat");
            quota.exists().then(|| Level::new(Limit::Second(Source::new(quota)), Source::new(stat), None))
        });
        Quotas(levels.collect())
    }

    /// What has happened since the last call.
    pub fn read(&mut self, text: &mut Text, interval_ns: Option<u64>) -> Verdict {
        let mut verdict = Verdict { throttled: None, cpus: f64::INFINITY, left: f64::INFINITY };
        for level in &mut self.0 {
            let Some(cpus) = level.quota.read(text).filter(|cpus| cpus.is_finite()) else { continue };
            let (throttled, used) = level.read(text, interval_ns);
            let ran_out = throttled.is_some_and(|percent| percent > 0.0);
            let left = used.map(|used| (cpus - used).max(0.0)).unwrap_or(if ran_out { 0.0 } else { cpus });
            verdict.throttled = verdict.throttled.into_iter().chain(throttled).reduce(f64::max);
            verdict.cpus = verdict.cpus.min(cpus);
            verdict.left = verdict.left.min(left);
        }
        verdict
    }

    pub fn files(&mut self) -> impl Iterator<Item = &mut Source> {
        self.0.iter_mut().flat_map(|level| {
            let (quota, period) = match &mut level.quota {
                Limit::First { quota, period } => (quota, Some(period)),
                Limit::Second(quota) => (quota, None),
            };
            [quota, &mut level.stat].into_iter().chain(period).chain(&mut level.usage)
        })
    }
}

impl Level {
    fn new(quota: Limit, stat: Source, usage: Option<Source>) -> Self {
        Level {
            quota,
            stat,
            usage,
            periods: Counter::default(),
            throttled: Counter::default(),
            used_ns: Counter::default(),
        }
    }

    /// Percent of periods in which the quota ran out, and CPUs that were used.
    fn read(&mut self, text: &mut Text, interval_ns: Option<u64>) -> (Option<f64>, Option<f64>) {
        let second = matches!(self.quota, Limit::Second(_));
        let stat = self.stat.read(text, |text| {
            let used_us = parse::field(text, "usage_usec").filter(|_| second);
            parse::periods(text).map(|periods| (periods, used_us.map(|us| us.saturating_mul(1_000))))
        });
        let used_ns = match &mut self.usage {
            Some(file) => file.read(text, |text| parse::number(text).and_then(|ns| u64::try_from(ns).ok())),
            None => stat.and_then(|(_, used_ns)| used_ns),
        };
        let periods = self.periods.passed(stat.map(|((periods, _), _)| periods));
        let throttled = self.throttled.passed(stat.map(|((_, throttled), _)| throttled));
        let percent = periods.zip(throttled).map(|(periods, throttled)| match periods {
            0 => 0.0,
            periods => (throttled as f64 / periods as f64 * 100.0).min(100.0),
        });
        let used = self.used_ns.passed(used_ns).zip(interval_ns).map(|(used, interval)| used as f64 / interval as f64);
        (percent, used)
    }
}

impl Limit {
    /// In CPUs; infinite if there is no quota.
    fn read(&mut self, text: &mut Text) -> Option<f64> {
        match self {
            Limit::Second(quota) => quota.read(text, parse::quota),
            Limit::First { quota, period } => {
                let quota_us = quota.read(text, parse::number)?;
                if quota_us < 0 {
                    return Some(f64::INFINITY);
                }
                let period_us = period.read(text, |text| parse::number(text).filter(|us| *us > 0))?;
                Some(quota_us as f64 / period_us as f64)
            }
        }
    }
}
