//! The protocols under loom: every order of steps, and every store that a load may see, for two or three threads.
//!
//! `make proofs` runs them all. `PANNIER_PROOFS=short`, which `make test` sets, bounds the number of preemptions to two: most
//! of what goes wrong needs no more. Where a proof is bounded in its long form too, it says so.
//! What loom does not model: a load that sees a store which comes later in its own thread's past (load buffering), spurious
//! failure of a weak exchange, and the kernel. Deaths between two stores are `tests/snapshot_killed.rs`.

use std::cell::Cell;
use std::sync::Arc;

mod counting;
mod hot;
mod ring;
mod snapshot;

thread_local! {
    static SWAPPED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `model` in every order; at most `preemptions` of them if given, and two in the short form. Each model runs twice,
/// the two of its [`both`] having changed places: loom remembers the last access of a word alone, and where one thread
/// loads a word and then exchanges it, it does not try the exchange before another thread's earlier load.
fn prove(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let is_short = std::env::var("PANNIER_PROOFS").is_ok_and(|form| form == "short");
    let model = Arc::new(model);
    for swapped in [false, true] {
        SWAPPED.set(swapped);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound =
            if is_short { Some(preemptions.map_or(2, |bound| bound.min(2))) } else { preemptions };
        builder.max_branches = 100_000;
        let model = model.clone();
        builder.check(move || model());
    }
}

/// Runs two at the same time.
fn both<A: 'static, B: 'static>(one: impl FnOnce() -> A + 'static, other: impl FnOnce() -> B + 'static) -> (A, B) {
    if SWAPPED.get() {
        let one = loom::thread::spawn(one);
        let other = other();
        (one.join().expect("no panic"), other)
    } else {
        let other = loom::thread::spawn(other);
        (one(), other.join().expect("no panic"))
    }
}
