//! What must hold of everything that reads bytes of strangers, whatever the bytes: one function a target.
//!
//! A target takes any bytes and panics where a promise does not hold. The same functions are run in two ways:
//! - `cargo test` replays `corpus/TARGET/*` and then mutates it for a while, the same way each time (`tests/corpus.rs`);
//! - `make fuzz` builds them with libFuzzer, which follows what each input reaches (`guided/`, a workspace of its own, since
//!   nothing else needs its instrumentation nor a C++ compiler).
//!
//! Corpora are ours and small. What libFuzzer finds beside them stays in `target/`; what it finds wrong becomes a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod bodies;
pub mod heads;
pub mod mutate;
pub mod records;
pub mod segments;
pub mod tables;
pub mod values;

/// What is tried with any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("request", heads::request),
    ("response", heads::response),
    ("chunked", bodies::chunked),
    ("relay", bodies::relay),
    ("authority", values::authority),
    ("values", values::values),
    ("tables", tables::tables),
    ("access_log", records::access_log),
    ("segments", segments::segments),
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
