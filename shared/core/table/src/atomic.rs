//! The atomics that every protocol here is written with: the machine's, or those of a model checker.
//!
//! `make proofs` builds the crate with `--cfg loom`: then the same protocols run on loom's atomics, over segments of a few
//! words ([`size`]), and loom tries every order in which the steps of the threads, and what each of them sees of the
//! others' stores, may come about. In every other build these are the standard library's, and cost nothing.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A number of a layout: what it is, and what it is in a model, where each word costs time.
#[must_use]
pub const fn size(real: usize, model: usize) -> usize {
    if cfg!(loom) { model } else { real }
}

/// The word that somebody meets who goes beyond a segment: one that nobody shares, and not a panic.
#[cfg(not(loom))]
pub(crate) fn beyond() -> &'static AtomicU64 {
    static BEYOND: AtomicU64 = AtomicU64::new(0);
    &BEYOND
}

/// In a model nobody may go beyond a segment.
#[cfg(loom)]
pub(crate) fn beyond() -> &'static AtomicU64 {
    unreachable!("a word beyond the segment")
}
