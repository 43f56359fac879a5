//! Shared memory between the processes of one service: who may write what, and how a reader never sees half of it.
//!
//! | module | segment | writers → readers |
//! | --- | --- | --- |
//! | [`snapshot`] | one *table* a kind | one sidecar (or the supervisor) → proxy |
//! | [`hot`] | `hot` words | proxy, resilience ↔ proxy, resilience (CAS) |
//! | [`counters`], [`counter_reader`] | `counters` | each enrolled process its own region → sidecars |
//! | [`ring`] | `rings` | each enrolled worker its own ring → observability |
//!
//! Rules:
//! - all `unsafe` of this crate is in [`map`]: everything else works on `&[AtomicU64]`;
//! - no lock lives in shared memory, so nobody's death can hold one;
//! - memory that another process writes is only ever read as relaxed atomic words, never as `&[u8]`;
//! - every number read from a segment is range-checked before it is used.
//!
//! A segment is a sealed memfd (`SHRINK | GROW | SEAL`): it cannot be truncated under a reader (no SIGBUS). A
//! read-only mapping guards against bugs, not against a process of the same user, which could reopen the descriptor.

pub mod access_log;
pub mod atomic;
pub mod bulletin;
pub mod clock;
pub mod counter_reader;
pub mod counters;
pub mod gauges;
pub mod histogram;
pub mod hot;
pub mod kind;
pub mod layout;
#[cfg_attr(loom, path = "map_model.rs")]
pub mod map;
pub mod owner;
pub mod record;
pub mod ring;
pub mod segments;
pub mod series;
pub mod snapshot;
mod words;

#[cfg(all(loom, test))]
mod proofs;

/// What can be wrong with a segment, in words an operator can act on.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused (map, allocate, stat).
    Os(std::io::Error),
    /// The segment was laid out by an incompatible version, or is not one of ours.
    Layout(String),
    /// A newer writer took the table over; this one must stop writing.
    Fenced,
    /// The payload does not fit into a slot (limit in bytes).
    TooLarge(usize),
    /// Every enrolment slot is held by a live process.
    Full,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Os(e) => write!(f, "shared memory: {e}"),
            Error::Layout(what) => write!(f, "shared memory layout: {what}"),
            Error::Fenced => write!(f, "another writer took this table over"),
            Error::TooLarge(limit) => write!(f, "the table is larger than {limit} bytes"),
            Error::Full => write!(f, "no free enrolment slot: too many live processes count here"),
        }
    }
}

impl std::error::Error for Error {}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Self {
        Error::Os(e.into())
    }
}
