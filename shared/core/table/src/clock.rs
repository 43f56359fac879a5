//! The two clocks that cross process borders, both of this host.

use rustix::time::{ClockId, clock_gettime};

fn read(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// Nanoseconds since boot (CLOCK_MONOTONIC): comparable between processes, never set back.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// Milliseconds of [`monotonic_ns`].
#[must_use]
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// Nanoseconds since the epoch (CLOCK_REALTIME): for stamps that people read.
#[must_use]
pub fn unix_ns() -> u64 {
    read(ClockId::Realtime)
}

/// Milliseconds of [`unix_ns`].
#[must_use]
pub fn unix_ms() -> u64 {
    unix_ns() / 1_000_000
}
