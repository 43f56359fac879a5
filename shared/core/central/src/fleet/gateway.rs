//! A Central as a queue: what it is sent, what it does in time, and how it breaks down when it is sent more than it can do.
//!
//! First come, first served. Who has waited for longer than the deadline has gone, but the work is done all the same; so once
//! the queue is that long, all work is for nobody (goodput 0) until it is short again, and those who went try once more. That is a Central
//! without admission of its own, at its worst; one that refuses at once what it cannot do loses only the excess.

use super::parameters::Central;
use crate::ledger::Ledger;
use std::collections::VecDeque;

/// It is under pressure: work waits for so long, or so much of its CPU is used.
const PRESSED_WAIT_MS: f64 = 20.0;
const PRESSED_SHARE: f64 = 0.95;

/// One Central.
pub struct Gateway {
    /// Its tokens.
    pub ledger: Ledger,
    settings: Central,
    /// Requests that wait.
    queue: f64,
    /// Requests a second that will be tried again, the next first.
    again: VecDeque<f64>,
}

/// What became of what was sent within a while; requests, but for `busy`: 0…1 of its CPU.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Passed {
    pub offered: f64,
    pub served: f64,
    pub failed: f64,
    pub busy: f64,
}

impl Gateway {
    /// With room for so many hosts.
    pub fn new(settings: Central, hosts: usize, tick_s: f64) -> Self {
        let can = settings.cores * 1e6 / settings.request_us;
        let later = (settings.deadline_ms / 1_000.0 / tick_s).clamp(1.0, 1e4) as usize;
        Gateway {
            ledger: Ledger::new(can * settings.granted, hosts),
            settings,
            queue: 0.0,
            again: VecDeque::from(vec![0.0; later]),
        }
    }

    /// Requests a second that it can do.
    pub fn can(&self) -> f64 {
        self.settings.cores * 1e6 / self.settings.request_us
    }

    /// How long what comes now will wait.
    pub fn wait_ms(&self) -> f64 {
        self.queue / self.can() * 1_000.0
    }

    /// Some time goes by while so many requests a second are sent.
    pub fn pass(&mut self, now_ms: u64, seconds: f64, rate: f64) -> Passed {
        let retried = self.again.pop_front().unwrap_or(0.0);
        let came = (rate + retried) * seconds;
        let done = (self.queue + came).min(self.can() * seconds);
        let waiting = self.queue + came - done;
        let refused = (waiting - self.can() * self.settings.queue_ms / 1_000.0).max(0.0);
        self.queue = waiting - refused;
        let late = if self.wait_ms() > self.settings.deadline_ms { done } else { 0.0 };
        let fails = if came > 0.0 { ((refused + late) / came).min(1.0) } else { 0.0 };
        self.again.push_back(rate * fails * self.settings.retried);
        let busy = done / (self.can() * seconds);
        if self.settings.tokens {
            self.ledger.press(now_ms, busy >= PRESSED_SHARE || self.wait_ms() >= PRESSED_WAIT_MS);
        }
        Passed {
            offered: rate * seconds,
            served: (rate + retried) * seconds * (1.0 - fails),
            failed: (rate * (1.0 - self.settings.retried) + retried) * seconds * fails,
            busy,
        }
    }
}
