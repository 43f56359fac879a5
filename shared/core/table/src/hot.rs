//! Hot words: what changes faster than a snapshot, changed by compare-and-swap.
//!
//! A slot belongs to one endpoint (or to one service as a whole) in one *incarnation*, and has three words:
//!
//! | word | bits | what |
//! | --- | --- | --- |
//! | state | state 8, incarnation 16, until 40 (ms since boot) | whether it is out, and until when |
//! | streak | incarnation 16, failures 16, gateway failures 16, local failures 16 | in a row; half open: calls let through |
//! | history | incarnation 16, times 8, at 40 (ms since boot) | how often it was out, and until when the last time |
//!
//! A word of another incarnation, or one whose time lies further ahead than [`MAX_HORIZON_MS`], says nothing: so no damage
//! keeps an endpoint out, and no former owner of a slot speaks for the next. What a state means once its `until` has
//! passed is decided by whoever has a policy about it; without one, the endpoint is taken.

use crate::atomic::{AtomicU64, Ordering, size};

use crate::map::Mapping;
use crate::{Error, layout};

/// Endpoints and services that can have words.
pub const SLOTS: usize = size(4096, 2);
const FIRST: usize = 64;
const SLOT_WORDS: usize = 4;
/// Size of the segment.
pub const SEGMENT_BYTES: usize = (FIRST + SLOTS * SLOT_WORDS) * 8;
/// No word may reach further into the future: what does was damaged (ejections last at most 300 s).
pub const MAX_HORIZON_MS: u64 = 3_600_000;
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// A slot, and which holder of it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, less than [`SLOTS`].
    pub slot: u32,
    /// The holder.
    pub incarnation: u16,
}

/// What is known of an endpoint right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Take it.
    Closed,
    /// Leave it out (ejected, or its breaker is open).
    Open,
    /// One request is trying it.
    HalfOpen,
}

/// The state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub state: State,
    /// Until when, in milliseconds since boot.
    pub until_ms: u64,
}

impl Word {
    /// Nothing is known against it.
    pub const CLOSED: Word = Word { state: State::Closed, until_ms: 0 };

    /// What a raw word says of `incarnation` at `now_ms`; everything doubtful is closed.
    #[must_use]
    pub fn unpack(raw: u64, incarnation: u16, now_ms: u64) -> Word {
        let until_ms = raw & TIME_MASK;
        if (raw >> TIME_BITS) as u16 != incarnation || until_ms > now_ms.saturating_add(MAX_HORIZON_MS) {
            return Word::CLOSED;
        }
        match raw >> 56 {
            1 => Word { state: State::Open, until_ms },
            2 => Word { state: State::HalfOpen, until_ms },
            _ => Word::CLOSED,
        }
    }

    /// The raw word.
    #[must_use]
    pub fn pack(self, incarnation: u16) -> u64 {
        let state = match self.state {
            State::Closed => return u64::from(incarnation) << TIME_BITS,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        state << 56 | u64::from(incarnation) << TIME_BITS | (self.until_ms & TIME_MASK)
    }
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Of any kind.
    pub failures: u16,
    /// Of those that a gateway answers with: 502, 503, 504, or nothing.
    pub gateway: u16,
    /// Without any answer.
    pub local: u16,
}

impl Streak {
    fn unpack(raw: u64, incarnation: u16) -> Streak {
        if (raw >> 48) as u16 != incarnation {
            return Streak::default();
        }
        Streak { failures: (raw >> 32) as u16, gateway: (raw >> 16) as u16, local: raw as u16 }
    }

    fn pack(self, incarnation: u16) -> u64 {
        let Streak { failures, gateway, local } = self;
        u64::from(incarnation) << 48 | u64::from(failures) << 32 | u64::from(gateway) << 16 | u64::from(local)
    }
}

/// How often it was out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How often, lately.
    pub times: u8,
    /// Until when it was out the last time, in milliseconds since boot.
    pub at_ms: u64,
}

impl History {
    fn unpack(raw: u64, incarnation: u16, now_ms: u64) -> History {
        let at_ms = raw & TIME_MASK;
        if (raw >> 48) as u16 != incarnation || at_ms > now_ms.saturating_add(MAX_HORIZON_MS) {
            return History::default();
        }
        History { times: (raw >> TIME_BITS) as u8, at_ms }
    }

    fn pack(self, incarnation: u16) -> u64 {
        u64::from(incarnation) << 48 | u64::from(self.times) << TIME_BITS | (self.at_ms & TIME_MASK)
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

    fn word(&self, slot: u32, index: usize) -> Option<&AtomicU64> {
        self.0.words().get(FIRST..)?.get(slot as usize * SLOT_WORDS + index)
    }

    fn load(&self, slot: u32, index: usize) -> u64 {
        self.word(slot, index).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Whether a slot's state is closed, whoever holds it: nearly every look ends here.
    #[must_use]
    #[inline]
    pub fn is_closed(&self, slot: u32) -> bool {
        self.load(slot, 0) >> 56 == 0
    }

    /// The state of a place at `now_ms`.
    #[must_use]
    pub fn state(&self, place: Place, now_ms: u64) -> Word {
        Word::unpack(self.load(place.slot, 0), place.incarnation, now_ms)
    }

    /// Moves a place to the state `to` if `decide` says so of the one that it is in at `now_ms`; asks again if somebody
    /// else was faster. Returns the state that it was moved from; none if nothing was changed.
    pub fn change(&self, place: Place, now_ms: u64, decide: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let word = self.word(place.slot, 0)?;
        loop {
            let seen = word.load(Ordering::Acquire);
            let from = Word::unpack(seen, place.incarnation, now_ms);
            let to = decide(from)?.pack(place.incarnation);
            if word.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Some(from);
            }
        }
    }

    /// The failures in a row.
    #[must_use]
    pub fn streak(&self, place: Place) -> Streak {
        Streak::unpack(self.load(place.slot, 1), place.incarnation)
    }

    /// Steps the failures in a row and returns what they have become.
    pub fn step_streak(&self, place: Place, step: impl Fn(Streak) -> Streak) -> Streak {
        let Some(word) = self.word(place.slot, 1) else {
            return Streak::default();
        };
        loop {
            let seen = word.load(Ordering::Acquire);
            let next = step(Streak::unpack(seen, place.incarnation));
            let packed = next.pack(place.incarnation);
            if seen == packed || word.compare_exchange(seen, packed, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return next;
            }
        }
    }

    /// How often the place was out.
    #[must_use]
    pub fn history(&self, place: Place, now_ms: u64) -> History {
        History::unpack(self.load(place.slot, 2), place.incarnation, now_ms)
    }

    /// Notes how often it was out. Whoever has just changed the state does this, so there is one writer at a time.
    pub fn set_history(&self, place: Place, history: History) {
        if let Some(word) = self.word(place.slot, 2) {
            word.store(history.pack(place.incarnation), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_was_packed_of_their_incarnation_alone() {
        let word = Word { state: State::Open, until_ms: 2_000 };
        assert_eq!(Word::unpack(word.pack(7), 7, 1_000), word);
        assert_eq!(Word::unpack(word.pack(7), 8, 1_000), Word::CLOSED, "another incarnation holds the slot now");
        let streak = Streak { failures: 3, gateway: 2, local: 1 };
        assert_eq!(Streak::unpack(streak.pack(7), 7), streak);
        assert_eq!(Streak::unpack(streak.pack(7), 8), Streak::default());
        let history = History { times: 4, at_ms: 9 };
        assert_eq!(History::unpack(history.pack(7), 7, 10), history);
        assert_eq!(History::unpack(history.pack(7), 8, 10), History::default());
    }

    #[test]
    fn a_damaged_word_is_closed() {
        assert_eq!(Word::unpack(u64::MAX, u16::MAX, 5), Word::CLOSED);
        let far = Word { state: State::Open, until_ms: MAX_HORIZON_MS * 2 };
        assert_eq!(Word::unpack(far.pack(1), 1, 5), Word::CLOSED);
        assert_eq!(Word::unpack(9 << 56 | 1 << 40 | 100, 1, 5), Word::CLOSED);
        assert_eq!(Word::unpack(0, 0, 5), Word::CLOSED);
        assert_eq!(History::unpack(u64::MAX, u16::MAX, 5), History::default());
    }
}
