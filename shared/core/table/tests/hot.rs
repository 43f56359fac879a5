//! Hot words: of two who change a word one wins, and what is damaged or foreign keeps nobody out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::os::fd::OwnedFd;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::thread;

use memory::{readable, segment, writable};
use pannier_table::Error;
use pannier_table::hot::{HotWords, MAX_HORIZON_MS, SEGMENT_BYTES, SLOTS, State, pack, read};
use proptest::prelude::*;

fn words(fd: &OwnedFd) -> HotWords {
    HotWords::new(writable(fd, SEGMENT_BYTES)).unwrap()
}

#[test]
fn of_two_writers_of_one_word_one_wins_each_round() {
    const ROUNDS: u64 = 2_000;
    let fd = segment(SEGMENT_BYTES);
    let reader = words(&fd);
    let (start, end) = (Barrier::new(2), Barrier::new(2));
    let race = |id: u16| {
        let words = words(&fd);
        let (start, end) = (&start, &end);
        move || {
            (0..ROUNDS)
                .map(|round| {
                    let seen = words.raw(7);
                    start.wait();
                    let won = words.replace(7, seen, pack(State::Open, id, round + 1));
                    end.wait();
                    won
                })
                .collect::<Vec<_>>()
        }
    };
    let (one, other) = (race(1), race(2));
    let (first, second) = thread::scope(|scope| {
        let (first, second) = (scope.spawn(one), scope.spawn(other));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert!(first.iter().zip(&second).all(|(a, b)| a != b));
    let winner = if *first.last().unwrap() { 1 } else { 2 };
    assert_eq!(reader.raw(7), pack(State::Open, winner, ROUNDS));
}

#[test]
fn nothing_is_lost_between_two_who_read_again_after_losing() {
    const EACH: u64 = 50_000;
    let fd = segment(SEGMENT_BYTES);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let words = words(&fd);
                for _ in 0..EACH {
                    loop {
                        let seen = words.raw(0);
                        if words.replace(0, seen, seen + 1) {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(words(&fd).raw(0), 2 * EACH);
}

#[test]
fn slots_are_apart_and_those_beyond_the_last_are_closed() {
    let fd = segment(SEGMENT_BYTES);
    let words = words(&fd);
    let last = SLOTS as u32 - 1;
    assert!(words.replace(last, 0, pack(State::HalfOpen, 3, 100)));
    assert_eq!(words.state(last, 3, 99), State::HalfOpen);
    assert_eq!(words.state(last, 3, 100), State::Closed);
    assert_eq!(words.state(last - 1, 3, 99), State::Closed);
    for beyond in [last + 1, u32::MAX] {
        assert!(!words.replace(beyond, 0, 1));
        assert_eq!(words.raw(beyond), 0);
        assert_eq!(words.state(beyond, 0, 0), State::Closed);
    }
}

#[test]
fn a_reader_follows_and_foreign_segments_are_refused() {
    let fd = segment(SEGMENT_BYTES);
    let read_only = || HotWords::new(readable(&fd, SEGMENT_BYTES));
    assert!(matches!(read_only(), Err(Error::Layout(_))), "not laid out");
    let words = words(&fd);
    let reader = read_only().unwrap();
    assert!(words.replace(1, 0, pack(State::Open, 1, 10)));
    assert_eq!(reader.state(1, 1, 9), State::Open);

    writable(&fd, SEGMENT_BYTES).words()[2].store(1, Ordering::Relaxed);
    assert!(matches!(read_only(), Err(Error::Layout(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_is_read_within_its_time(
        incarnation in any::<u16>(),
        now in 0..1_u64 << 39,
        left in 1..=MAX_HORIZON_MS,
        open in any::<bool>(),
    ) {
        let state = if open { State::Open } else { State::HalfOpen };
        let word = pack(state, incarnation, now + left);
        prop_assert_eq!(read(word, incarnation, now), state);
        prop_assert_eq!(read(word, incarnation.wrapping_add(1), now), State::Closed);
        prop_assert_eq!(read(word, incarnation, now + left), State::Closed);
    }

    #[test]
    fn any_word_is_closed_an_hour_from_now(
        word in any::<u64>(),
        incarnation in any::<u16>(),
        now in 0..1_u64 << 40,
    ) {
        if read(word, incarnation, now) != State::Closed {
            prop_assert_eq!(read(word, incarnation, now + MAX_HORIZON_MS), State::Closed);
        }
    }
}
