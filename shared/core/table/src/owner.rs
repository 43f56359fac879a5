//! Which process owns a piece of shared memory, and whether it still lives.
//!
//! A pid alone is reused by the kernel; pid and start time together are not.

use std::fs;

/// A process, packed into one word: pid in the high half, the low 32 bits of its start time (clock ticks) in the low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub u64);

impl Owner {
    /// Nobody.
    pub const NONE: Owner = Owner(0);

    /// This process, as it is now (a fork has another pid, so it is another owner).
    #[must_use]
    pub fn current() -> Owner {
        let pid = std::process::id();
        Owner::of(pid).unwrap_or(Owner(u64::from(pid) << 32))
    }

    /// The live process `pid`.
    #[must_use]
    pub fn of(pid: u32) -> Option<Owner> {
        Some(Owner(u64::from(pid) << 32 | (start_time(pid)? & 0xffff_ffff)))
    }

    /// The same process while it moves in: nobody who counts, and yet nobody else may have the place.
    #[must_use]
    pub fn moving_in(self) -> Owner {
        Owner(u64::from(self.pid()) << 32)
    }

    /// Whether nobody else may have the place of this owner; `living` tells who a pid is.
    #[must_use]
    pub fn holds(self, living: impl Fn(u32) -> Option<Owner>) -> bool {
        living(self.pid()).is_some_and(|process| process == self || process.moving_in() == self)
    }

    /// Its pid.
    #[must_use]
    pub fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether exactly this process still runs (a zombie does not: it writes nothing any more).
    #[must_use]
    pub fn is_alive(self) -> bool {
        self != Owner::NONE && Owner::of(self.pid()) == Some(self)
    }
}

/// Field 22 of `/proc/PID/stat` (clock ticks since boot); `None` for a process that is gone or a zombie.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let me = Owner::current();
        assert_eq!(me.pid(), std::process::id());
        assert!(me.is_alive());
        assert!(!Owner(me.0 ^ 1).is_alive());
        assert!(!Owner::NONE.is_alive());
    }
}
