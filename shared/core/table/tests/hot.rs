//! Hot words: of two who change a word one wins, and what is damaged or foreign keeps nobody out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::os::fd::OwnedFd;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::thread;

use memory::{readable, segment, writable};
use pannier_table::Error;
use pannier_table::hot::{History, HotWords, MAX_HORIZON_MS, Place, SEGMENT_BYTES, SLOTS, State, Streak, Word};
use proptest::prelude::*;

const FAR: u64 = 1_000;

fn words(fd: &OwnedFd) -> HotWords {
    HotWords::new(writable(fd, SEGMENT_BYTES)).unwrap()
}

fn place(slot: u32, incarnation: u16) -> Place {
    Place { slot, incarnation }
}

fn open(until_ms: u64) -> Word {
    Word { state: State::Open, until_ms }
}

#[test]
fn of_two_who_take_the_same_step_one_does_each_round() {
    const ROUNDS: u64 = 2_000;
    let fd = segment(SEGMENT_BYTES);
    let (start, end) = (Barrier::new(2), Barrier::new(2));
    let race = || {
        let words = words(&fd);
        let (start, end) = (&start, &end);
        move || {
            (0..ROUNDS)
                .map(|round| {
                    start.wait();
                    let step = |word: Word| (word.until_ms == round).then_some(open(round + 1));
                    let first = |word: Word| (round == 0 && word == Word::CLOSED).then_some(open(1));
                    let won = words.change(place(7, 1), 0, |word| step(word).or(first(word))).is_some();
                    end.wait();
                    won
                })
                .collect::<Vec<_>>()
        }
    };
    let (one, other) = (race(), race());
    let (first, second) = thread::scope(|scope| {
        let (first, second) = (scope.spawn(one), scope.spawn(other));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert!(first.iter().zip(&second).all(|(a, b)| a != b));
    assert_eq!(words(&fd).state(place(7, 1), 0), open(ROUNDS));
}

#[test]
fn no_failure_is_lost_between_two_who_count() {
    const EACH: u16 = 20_000;
    let fd = segment(SEGMENT_BYTES);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let words = words(&fd);
                for _ in 0..EACH {
                    words.step_streak(place(0, 1), |streak| Streak { failures: streak.failures + 1, ..streak });
                }
            });
        }
    });
    assert_eq!(words(&fd).streak(place(0, 1)).failures, 2 * EACH);
}

#[test]
fn slots_are_apart_and_those_beyond_the_last_are_closed() {
    let fd = segment(SEGMENT_BYTES);
    let words = words(&fd);
    let last = SLOTS as u32 - 1;
    assert_eq!(words.change(place(last, 3), 0, |_| Some(open(100))), Some(Word::CLOSED));
    words.set_history(place(last, 3), History { times: 2, at_ms: 100 });
    assert_eq!(words.state(place(last, 3), 99), open(100));
    assert_eq!(words.state(place(last, 3), 101), open(100), "what a passed time means is for a policy to say");
    assert_eq!(words.state(place(last - 1, 3), 99), Word::CLOSED);
    assert_eq!(words.state(place(last, 4), 99), Word::CLOSED);
    assert_eq!(words.history(place(last, 4), 0), History::default());
    for beyond in [last + 1, u32::MAX] {
        assert_eq!(words.change(place(beyond, 0), 0, |_| Some(open(FAR))), None);
        assert_eq!(
            words.step_streak(place(beyond, 0), |_| Streak { failures: 1, ..Streak::default() }),
            Streak::default()
        );
        words.set_history(place(beyond, 0), History { times: 1, at_ms: 1 });
        assert_eq!(words.state(place(beyond, 0), 0), Word::CLOSED);
        assert_eq!(words.history(place(beyond, 0), 0), History::default());
    }
}

#[test]
fn a_reader_follows_and_foreign_segments_are_refused() {
    let fd = segment(SEGMENT_BYTES);
    let read_only = || HotWords::new(readable(&fd, SEGMENT_BYTES));
    assert!(matches!(read_only(), Err(Error::Layout(_))), "not laid out");
    let words = words(&fd);
    let reader = read_only().unwrap();
    words.change(place(1, 1), 0, |_| Some(open(10)));
    assert_eq!(reader.state(place(1, 1), 9), open(10));

    writable(&fd, SEGMENT_BYTES).words()[2].store(1, Ordering::Relaxed);
    assert!(matches!(read_only(), Err(Error::Layout(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_word_reaches_no_further_than_an_hour_and_speaks_of_one_holder(raw in any::<u64>(), incarnation in any::<u16>(), now in 0..1_u64 << 39) {
        let word = Word::unpack(raw, incarnation, now);
        prop_assert!(word.until_ms <= now + MAX_HORIZON_MS);
        if word.state != State::Closed {
            prop_assert_eq!(Word::unpack(word.pack(incarnation), incarnation, now), word);
            prop_assert_eq!(Word::unpack(raw, incarnation.wrapping_add(1), now), Word::CLOSED);
        }
    }
}
