//! Numbers of the controller that would make it flap, or that make no sense. Each refusal is one line that says why.

use crate::config::Config;

/// How often the controller is asked.
pub const TICK_MS: u64 = 250;
/// A share above this leaves too little between what lets work leave and what lets it come back.
const LARGEST_SHARE: f64 = 0.8;

impl Config {
    /// What is wrong with these numbers, named as in a profile below `central`.
    ///
    /// # Errors
    /// The first thing that is wrong, and why it is.
    pub fn check(&self) -> Result<(), String> {
        self.check_thresholds()?;
        self.check_times()?;
        self.check_steps()
    }

    fn check_thresholds(&self) -> Result<(), String> {
        let enter = &self.enter;
        for (name, value) in [
            ("enter.host_pressure", enter.host_pressure),
            ("enter.cgroup_pressure", enter.cgroup_pressure),
            ("enter.throttled", enter.throttled),
        ] {
            refuse(!(value > 0.0 && value <= 100.0), || {
                format!("{name} = {value}: percent, above 0 (which always holds) and up to 100 (beyond, it never does)")
            })?;
        }
        refuse(!(enter.queue_wait_ms > 0.0 && enter.queue_wait_ms.is_finite()), || {
            format!("enter.queue_wait = {}ms: must be above 0, which always holds", enter.queue_wait_ms)
        })?;
        let share = self.leave.share;
        refuse(!(share > 0.0 && share <= LARGEST_SHARE), || {
            format!(
                "leave.share = {share}: above 0 (below 0 nothing is calm) and up to {LARGEST_SHARE}, or work leaves and comes back on the same noise"
            )
        })
    }

    fn check_times(&self) -> Result<(), String> {
        let (enter, leave) = (&self.enter, &self.leave);
        refuse(enter.holds_ms < TICK_MS, || {
            format!(
                "enter.holds = {}ms: shorter than a tick of {TICK_MS}ms, so nothing would have to hold",
                enter.holds_ms
            )
        })?;
        refuse(enter.within_ms < enter.holds_ms, || {
            format!(
                "enter.within = {}ms is shorter than enter.holds = {}ms: it would never hold",
                enter.within_ms, enter.holds_ms
            )
        })?;
        refuse(leave.calm_ms < enter.holds_ms, || {
            format!(
                "leave.calm = {}ms is shorter than enter.holds = {}ms: work would come back sooner than it leaves, and flap",
                leave.calm_ms, enter.holds_ms
            )
        })
    }

    fn check_steps(&self) -> Result<(), String> {
        let (up, down) = (self.step_up, self.step_down);
        refuse(!(self.jitter >= 0.0 && self.jitter <= 0.5), || {
            format!("jitter = {}: a share of the dwell, 0 to 0.5", self.jitter)
        })?;
        refuse(!(up > 0.0 && up <= 100.0), || format!("step_up = {up}: points a tick, above 0 and up to 100"))?;
        let ramp_ms = (100.0 / up).ceil() * TICK_MS as f64;
        let (shortest, needed) = (self.dwell_ms as f64 * (1.0 - self.jitter), ramp_ms + self.enter.within_ms as f64);
        refuse(shortest < needed, || {
            format!(
                "dwell = {}ms, less its jitter, is shorter than a whole ramp up and enter.within, {needed}ms: work would turn around before anybody has seen what its leaving does",
                self.dwell_ms
            )
        })?;
        refuse(!(down > 0.0 && down <= 100.0), || {
            format!("step_down = {down}: points a second, above 0 and up to 100")
        })?;
        let up_a_second = up * 1_000.0 / TICK_MS as f64;
        refuse(down > up_a_second, || {
            format!(
                "step_down = {down} points a second is faster than step_up = {up} points a tick ({up_a_second} a second): work would come back faster than it can leave"
            )
        })?;
        let whole_return_ms = 100_000.0 / down;
        refuse(whole_return_ms < self.enter.within_ms as f64, || {
            format!(
                "step_down = {down}: all work would be back after {whole_return_ms:.0}ms, before enter.within = {}ms shows what it does",
                self.enter.within_ms
            )
        })
    }
}

fn refuse(wrong: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if wrong { Err(why()) } else { Ok(()) }
}
