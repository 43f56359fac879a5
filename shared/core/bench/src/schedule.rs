//! When which request is due; time is an argument, in nanoseconds since the run began.
//!
//! Closed loop: a request is due as soon as a connection is free. Open loop: request i is due at i / rate whether or not
//! a connection is free, and its latency counts from there, so that a stalled proxy cannot slow its own clock down
//! (coordinated omission).

use std::error::Error;

const SECOND: u64 = 1_000_000_000;

/// One request that is to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// From 0, without gaps.
    pub number: u64,
    /// From when its latency counts.
    pub intended: u64,
}

/// The pace of a run and how far it came.
#[derive(Debug, Clone)]
pub struct Schedule {
    requests: u64,
    until: u64,
    rate: Option<u64>,
    issued: u64,
}

impl Schedule {
    /// A run of `requests`, of `seconds`, or both, whichever ends first; with `rate` requests a second it is an open loop.
    ///
    /// # Errors
    /// Neither end is given; a rate outside 1…1 000 000; a duration that is not positive.
    pub fn try_new(requests: Option<u64>, seconds: Option<f64>, rate: Option<u64>) -> Result<Self, Box<dyn Error>> {
        if requests.is_none() && seconds.is_none() {
            return Err("give --requests or --seconds".into());
        }
        if seconds.is_some_and(|seconds| !seconds.is_finite() || seconds <= 0.0) {
            return Err("--seconds must be positive".into());
        }
        if rate.is_some_and(|rate| !(1..=1_000_000).contains(&rate)) {
            return Err("--rate must be 1 to 1000000 requests a second".into());
        }
        let until = seconds.map_or(u64::MAX, |seconds| (seconds * SECOND as f64) as u64);
        Ok(Self { requests: requests.unwrap_or(u64::MAX), until, rate, issued: 0 })
    }

    /// Whether this is an open loop.
    pub fn is_paced(&self) -> bool {
        self.rate.is_some()
    }

    /// Nanoseconds between two requests of an open loop.
    pub fn interval(&self) -> Option<u64> {
        self.rate.map(|rate| SECOND / rate)
    }

    /// The next request, if one is due at `now`.
    pub fn next(&mut self, now: u64) -> Option<Due> {
        let intended = self.intended(now);
        if self.is_over(now) || intended > now {
            return None;
        }
        let number = self.issued;
        self.issued += 1;
        Some(Due { number, intended })
    }

    /// Whether no request will be due any more.
    pub fn is_over(&self, now: u64) -> bool {
        self.issued >= self.requests || self.intended(now) >= self.until
    }

    fn intended(&self, now: u64) -> u64 {
        match self.rate {
            None => now,
            Some(rate) => {
                let due = u128::from(self.issued) * u128::from(SECOND) / u128::from(rate);
                u64::try_from(due).unwrap_or(u64::MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::{Due, Schedule};

    #[test]
    fn a_closed_loop_is_always_due_until_its_end() -> Result<(), Box<dyn Error>> {
        let mut schedule = Schedule::try_new(Some(2), Some(1.0), None)?;
        assert_eq!(schedule.next(5), Some(Due { number: 0, intended: 5 }));
        assert!(schedule.is_over(1_000_000_000));
        assert_eq!(schedule.next(9), Some(Due { number: 1, intended: 9 }));
        assert_eq!(schedule.next(10), None);
        Ok(())
    }

    #[test]
    fn an_open_loop_keeps_its_clock_when_it_is_late() -> Result<(), Box<dyn Error>> {
        let mut schedule = Schedule::try_new(None, Some(0.004), Some(1_000))?;
        assert_eq!(schedule.next(0), Some(Due { number: 0, intended: 0 }));
        assert_eq!(schedule.next(999_999), None);
        assert_eq!(schedule.next(9_000_000), Some(Due { number: 1, intended: 1_000_000 }));
        assert_eq!(schedule.next(9_000_000), Some(Due { number: 2, intended: 2_000_000 }));
        assert_eq!(schedule.next(9_000_000), Some(Due { number: 3, intended: 3_000_000 }));
        assert!(schedule.is_over(9_000_000));
        assert_eq!(schedule.next(9_000_000), None);
        Ok(())
    }

    #[test]
    fn a_rate_that_divides_badly_does_not_drift() -> Result<(), Box<dyn Error>> {
        let mut schedule = Schedule::try_new(Some(3_001), None, Some(3_000))?;
        let mut last = None;
        while let Some(due) = schedule.next(u64::MAX - 1) {
            last = Some(due);
        }
        assert_eq!(last, Some(Due { number: 3_000, intended: 1_000_000_000 }));
        Ok(())
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Schedule::try_new(None, None, Some(5)).is_err());
        assert!(Schedule::try_new(None, Some(-1.0), None).is_err());
        assert!(Schedule::try_new(Some(1), None, Some(0)).is_err());
    }
}
