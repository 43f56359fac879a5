//! The two clocks that cross process borders, both of this host.
//!
//! A reading costs 25 ns, a request has twenty places that want the time, and most of them can do with the time of a few
//! microseconds ago: [`recent_ns`] gives what this thread read last. Whoever measures reads; whoever sets or compares a
//! deadline does with that, since a thread that wakes up reads first.

use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

/// How long the difference between the two clocks is taken as it was.
const WALL_NS: u64 = 100_000_000;

thread_local! {
    /// In nanoseconds and in milliseconds.
    static RECENT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// When the difference was looked at, and what it was.
    static WALL: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

fn read(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// Nanoseconds since boot (CLOCK_MONOTONIC): comparable between processes, never set back.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = read(ClockId::Monotonic);
    RECENT.set((now, now / 1_000_000));
    now
}

/// Milliseconds of [`monotonic_ns`].
#[must_use]
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// What [`monotonic_ns`] gave this thread last; it is read if it never was.
#[must_use]
#[inline]
pub fn recent_ns() -> u64 {
    match RECENT.get() {
        (0, _) => monotonic_ns(),
        (recent, _) => recent,
    }
}

/// Milliseconds of [`recent_ns`].
#[must_use]
#[inline]
pub fn recent_ms() -> u64 {
    match RECENT.get() {
        (0, _) => monotonic_ms(),
        (_, recent) => recent,
    }
}

/// Nanoseconds since the epoch (CLOCK_REALTIME): for stamps that people read.
#[must_use]
pub fn unix_ns() -> u64 {
    read(ClockId::Realtime)
}

/// The time since the epoch at a moment that [`monotonic_ns`] gave. A clock that is set shows after a tenth of a second.
#[must_use]
pub fn unix_ns_at(monotonic: u64) -> u64 {
    let (mut at, mut ahead) = WALL.get();
    if at == 0 || monotonic.wrapping_sub(at) > WALL_NS {
        (at, ahead) = (monotonic, unix_ns().wrapping_sub(monotonic_ns()));
        WALL.set((at, ahead));
    }
    monotonic.wrapping_add(ahead)
}

/// Milliseconds of [`unix_ns`].
#[must_use]
pub fn unix_ms() -> u64 {
    unix_ns() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recent_time_is_the_last_that_was_read() {
        std::thread::spawn(|| {
            assert!(recent_ns() > 0, "the first look reads");
            let now = monotonic_ns();
            assert_eq!((recent_ns(), recent_ms()), (now, now / 1_000_000));
        })
        .join()
        .unwrap_or_else(|_| std::process::abort());
    }

    #[test]
    fn a_moment_has_a_time_since_the_epoch() {
        let (before, moment, after) = (unix_ns(), monotonic_ns(), unix_ns());
        let told = unix_ns_at(moment);
        assert!(told.abs_diff(before) < WALL_NS + (after - before), "{told} {before}");
        assert_eq!(unix_ns_at(moment + 5) - told, 5);
    }
}
