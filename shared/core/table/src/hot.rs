//! Hot words: what changes faster than a snapshot, one word an endpoint, changed by compare-and-swap.
//!
//! A word is `state (8 bits) | incarnation (16 bits) | until (40 bits, ms since boot)`. It speaks about the endpoint that
//! holds its slot *in that incarnation*, and only until `until`: a word that is out of range, belongs to an earlier
//! incarnation or has run out reads as [`State::Closed`]. So nobody's death, and no damage, keeps an endpoint out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::map::Mapping;
use crate::{Error, layout};

/// Endpoints that can have a word.
pub const SLOTS: usize = 4096;
const FIRST: usize = 64;
/// Size of the segment.
pub const SEGMENT_BYTES: usize = (FIRST + SLOTS) * 8;
/// No word may reach further into the future: what does was damaged (ejections last at most 300 s).
pub const MAX_HORIZON_MS: u64 = 3_600_000;
const UNTIL_BITS: u32 = 40;
const UNTIL_MASK: u64 = (1 << UNTIL_BITS) - 1;

/// What is known of an endpoint right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Take it.
    Closed,
    /// Leave it out (ejected, or its breaker is open).
    Open,
    /// One request may try it.
    HalfOpen,
}

/// Packs a word. `until_ms` is in milliseconds since boot.
#[must_use]
pub fn pack(state: State, incarnation: u16, until_ms: u64) -> u64 {
    let state = match state {
        State::Closed => 0,
        State::Open => 1,
        State::HalfOpen => 2,
    };
    state << 56 | u64::from(incarnation) << UNTIL_BITS | (until_ms & UNTIL_MASK)
}

/// What a word says of the endpoint `incarnation` at `now_ms`; everything doubtful is closed.
#[must_use]
pub fn read(word: u64, incarnation: u16, now_ms: u64) -> State {
    let until = word & UNTIL_MASK;
    let about = (word >> UNTIL_BITS) as u16;
    if about != incarnation || until <= now_ms || until > now_ms + MAX_HORIZON_MS {
        return State::Closed;
    }
    match word >> 56 {
        1 => State::Open,
        2 => State::HalfOpen,
        _ => State::Closed,
    }
}

/// The segment of hot words.
#[derive(Debug)]
pub struct HotWords(Mapping);

impl HotWords {
    /// Over a mapping; lays a fresh one out if it is writable.
    ///
    /// # Errors
    /// `Layout` for a foreign segment.
    pub fn new(map: Mapping) -> Result<Self, Error> {
        if map.access() == crate::map::Access::Write {
            layout::initialise(&map, "hot")?;
        }
        layout::check(map.words(), "hot")?;
        Ok(HotWords(map))
    }

    fn word(&self, slot: u32) -> Option<&AtomicU64> {
        self.0.words().get(FIRST..)?.get(slot as usize)
    }

    /// What slot `slot` says of `incarnation` at `now_ms`.
    #[must_use]
    pub fn state(&self, slot: u32, incarnation: u16, now_ms: u64) -> State {
        self.word(slot).map_or(State::Closed, |w| read(w.load(Ordering::Acquire), incarnation, now_ms))
    }

    /// Moves a slot from the word `seen` to another; `false` when somebody else was first (read again, decide again).
    #[must_use]
    pub fn replace(&self, slot: u32, seen: u64, new: u64) -> bool {
        self.word(slot).is_some_and(|w| w.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// The raw word of a slot, to be given to [`HotWords::replace`].
    #[must_use]
    pub fn raw(&self, slot: u32) -> u64 {
        self.word(slot).map_or(0, |w| w.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_speaks_until_it_runs_out() {
        let word = pack(State::Open, 7, 2_000);
        assert_eq!(read(word, 7, 1_999), State::Open);
        assert_eq!(read(word, 7, 2_000), State::Closed);
        assert_eq!(read(word, 8, 1_000), State::Closed, "another incarnation holds the slot now");
    }

    #[test]
    fn a_damaged_word_is_closed() {
        assert_eq!(read(u64::MAX, u16::MAX, 5), State::Closed);
        assert_eq!(read(pack(State::Open, 1, MAX_HORIZON_MS * 2), 1, 5), State::Closed);
        assert_eq!(read(9 << 56 | 1 << 40 | 100, 1, 5), State::Closed);
        assert_eq!(read(0, 0, 5), State::Closed);
    }
}
