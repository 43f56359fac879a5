//! How many requests a second a host has to answer, through the day.

use super::parameters::{Load, Parameters, Peaks};
use crate::random::Random;

const DAY_S: f64 = 86_400.0;
const EVENING_H: f64 = 20.0;

/// One host's day.
#[derive(Clone, Debug)]
pub struct Day {
    from_h: f64,
    peak_rate: f64,
    peak_h: f64,
    night: f64,
    width_h: f64,
    burst_rate: f64,
    /// When bursts begin and end, seconds; the next that is not over is the last.
    bursts: Vec<(f64, f64)>,
}

impl Day {
    /// Draws a host's day.
    pub fn new(parameters: &Parameters, random: &mut Random) -> Self {
        let Load { peaks, night, width_h, utilisation, spread, bursts, burst_adds, burst_s } = parameters.load;
        let host = &parameters.host;
        let needs = (utilisation + spread * normal(random)).clamp(utilisation / 2.0, utilisation * 2.0);
        let peak_rate = needs * f64::from(host.cores) * 1e6 / (host.app_us + host.mesh_us);
        let peak_h = match peaks {
            Peaks::Correlated => EVENING_H + 0.25 * normal(random),
            Peaks::Spread => 24.0 * random.unit(),
        };
        let mut when = vec![];
        let mut at = 0.0;
        while bursts > 0.0 && when.len() < 100_000 {
            at += -(1.0 - random.unit()).ln() * DAY_S / bursts;
            if at >= parameters.hours * 3_600.0 {
                break;
            }
            when.push((at, at + burst_s));
            at += burst_s;
        }
        when.reverse();
        Day {
            from_h: parameters.from_h,
            peak_rate,
            peak_h,
            night,
            width_h,
            burst_rate: burst_adds * peak_rate,
            bursts: when,
        }
    }

    /// Requests a second at that time, in seconds from the beginning; never asked of the past. And when a burst changes that next.
    pub fn at(&mut self, now_s: f64) -> (f64, f64) {
        while self.bursts.last().is_some_and(|(_, end)| *end <= now_s) {
            self.bursts.pop();
        }
        let apart = (self.from_h + now_s / 3_600.0 - self.peak_h).rem_euclid(24.0);
        let distance = apart.min(24.0 - apart) / self.width_h;
        let curve = self.night + (1.0 - self.night) * (-0.5 * distance * distance).exp();
        match self.bursts.last() {
            Some((begin, end)) if *begin <= now_s => (self.peak_rate * curve + self.burst_rate, *end),
            Some((begin, _)) => (self.peak_rate * curve, *begin),
            None => (self.peak_rate * curve, f64::INFINITY),
        }
    }
}

/// Of a normal distribution (Box and Muller).
pub fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}
