//! Hot words as Python sees them.

use pannier_table::clock;
use pannier_table::hot::{self, History, Place, SEGMENT_BYTES, State, Streak, Word};
use pannier_table::map::Access;
use pyo3::prelude::*;

use crate::tables::{map, translate};

#[pyfunction]
pub fn monotonic_ms() -> u64 {
    clock::monotonic_ms()
}

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct HotWord {
    state: &'static str,
    until_ms: u64,
    failures: u16,
    times: u8,
}

#[pyclass(module = "pannier._native")]
pub struct HotWords {
    words: hot::HotWords,
}

#[pymethods]
impl HotWords {
    #[new]
    fn new(fd: i32) -> PyResult<Self> {
        let words = hot::HotWords::new(map(fd, SEGMENT_BYTES, Access::Write)?).map_err(translate)?;
        Ok(HotWords { words })
    }

    fn read(&self, slot: u32, incarnation: u16) -> HotWord {
        let (place, now) = (Place { slot, incarnation }, clock::monotonic_ms());
        let word = self.words.state(place, now);
        let state = match word.state {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        };
        let (failures, times) = (self.words.streak(place).failures, self.words.history(place, now).times);
        HotWord { state, until_ms: word.until_ms, failures, times }
    }

    #[pyo3(signature = (slot, incarnation, until_ms, times=None))]
    fn open(&self, slot: u32, incarnation: u16, until_ms: u64, times: Option<u8>) -> bool {
        let (place, now) = (Place { slot, incarnation }, clock::monotonic_ms());
        let out = Word { state: State::Open, until_ms };
        let is_in = |word: Word| word.state != State::Open || word.until_ms <= now;
        if self.words.change(place, now, |word| is_in(word).then_some(out)).is_none() {
            return false;
        }
        let times = times.unwrap_or_else(|| self.words.history(place, now).times.saturating_add(1));
        self.words.set_history(place, History { times, at_ms: until_ms });
        true
    }

    fn close(&self, slot: u32, incarnation: u16) -> bool {
        let (place, now) = (Place { slot, incarnation }, clock::monotonic_ms());
        let is_out = |word: Word| word.state != State::Closed;
        if self.words.change(place, now, |word| is_out(word).then_some(Word::CLOSED)).is_none() {
            return false;
        }
        self.words.step_streak(place, |_| Streak::default());
        self.words.set_history(place, History::default());
        true
    }
}
