//! Rings: against a model, between threads, across deaths, and with damaged words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use memory::{inherited, readable, segment, spawn, wait_until, writable};
use pannier_table::layout::LINE_WORDS;
use pannier_table::record::MAX_RECORD_LINES;
use pannier_table::ring::{Consumer, Drained, LINES, Producer, SEGMENT_BYTES};
use proptest::prelude::*;

const REGION: usize = 3;
const WORKER: usize = 2;
const ALL: &[usize] = &[REGION];
/// The first word of the ring under test: a header page, then 16 rings a region.
const RING: usize = 512 + (REGION * 16 + WORKER) * (512 + LINES as usize * LINE_WORDS);
const HEAD: usize = RING;
const TAIL: usize = RING + 8;
const FIRST_LINE: usize = RING + 512;

fn producer(fd: &OwnedFd) -> Producer {
    Producer::new(Arc::new(writable(fd, SEGMENT_BYTES)), REGION, WORKER).unwrap()
}

fn consumer(fd: &OwnedFd) -> Consumer {
    Consumer::new(writable(fd, SEGMENT_BYTES)).unwrap()
}

fn record(seed: u64, lines: usize) -> Vec<u64> {
    let words = lines * LINE_WORDS;
    let mut record: Vec<u64> = (0..words as u64).map(|i| seed.wrapping_mul(31) ^ i).collect();
    record[0] = seed << 8 | lines as u64;
    record
}

/// The seed of a record that is whole.
fn seed_of(words: &[u64]) -> u64 {
    let seed = words[0] >> 8;
    assert!(words == record(seed, words.len() / LINE_WORDS), "torn: {seed}");
    seed
}

fn drain(consumer: &Consumer, limit: usize) -> (Drained, Vec<u64>) {
    let mut seeds = Vec::new();
    let drained = consumer.drain(ALL, limit, |words| seeds.push(seed_of(words)));
    (drained, seeds)
}

#[derive(Clone, Debug)]
enum Action {
    Push { lines: usize, times: usize },
    Drain { limit: usize },
    NewProducer,
    NewConsumer,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1..=MAX_RECORD_LINES, 1..600_usize).prop_map(|(lines, times)| Action::Push { lines, times }),
        4 => (0..1_500_usize).prop_map(|limit| Action::Drain { limit }),
        1 => Just(Action::NewProducer),
        1 => Just(Action::NewConsumer),
    ]
}

/// What a ring holds, by its rules alone: records in order, each with the lines that it takes, padding before it included.
#[derive(Default)]
struct Model {
    held: VecDeque<(u64, u64)>,
    position: u64,
    used: u64,
}

impl Model {
    fn push(&mut self, seed: u64, lines: u64) -> bool {
        let to_end = LINES - self.position % LINES;
        let padding = if to_end < lines { to_end } else { 0 };
        let takes = padding + lines;
        if self.used + takes > LINES {
            return false;
        }
        self.position += takes;
        self.used += takes;
        self.held.push_back((seed, takes));
        true
    }

    fn drain(&mut self, limit: usize) -> Vec<u64> {
        let taken: Vec<_> = self.held.drain(..limit.min(self.held.len())).collect();
        self.used -= taken.iter().map(|(_, takes)| takes).sum::<u64>();
        taken.into_iter().map(|(seed, _)| seed).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_a_bounded_queue(actions in prop::collection::vec(action(), 1..40)) {
        let fd = segment(SEGMENT_BYTES);
        let (mut producer, mut consumer) = (self::producer(&fd), self::consumer(&fd));
        let mut model = Model::default();
        let mut seed = 0;
        for action in actions {
            match action {
                Action::Push { lines, times } => for _ in 0..times {
                    seed += 1;
                    let pushed = producer.push(&record(seed, lines));
                    prop_assert_eq!(pushed, model.push(seed, lines as u64), "push of {} lines", lines);
                },
                Action::Drain { limit } => {
                    let (drained, seeds) = drain(&consumer, limit);
                    prop_assert_eq!(drained, Drained { records: seeds.len(), skipped: 0 });
                    prop_assert_eq!(seeds, model.drain(limit));
                }
                Action::NewProducer => producer = self::producer(&fd),
                Action::NewConsumer => consumer = self::consumer(&fd),
            }
        }
        prop_assert_eq!(drain(&consumer, usize::MAX).1, model.drain(usize::MAX));
        prop_assert_eq!(drain(&consumer, usize::MAX).1, Vec::<u64>::new());
    }
}

/// A value that a damaged word may have, the treacherous ones first.
fn damaged() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(u64::MAX - 3),
        0..2 * LINES,
        any::<u64>().prop_map(|n| n << 8 | 0xff),
        (0..2 * LINES).prop_map(|n| n << 8 | 0xff),
        0..256_u64,
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_ring_panics_nobody_and_heals(
        lines in 1..=MAX_RECORD_LINES,
        times in 0..1_200_usize,
        drained in 0..600_usize,
        damage in prop::collection::vec(
            (prop_oneof![Just(HEAD), Just(TAIL), (0..1_000_usize).prop_map(|l| FIRST_LINE + l * LINE_WORDS)], damaged()),
            1..6,
        ),
        new_producer in any::<bool>(),
        drain_first in any::<bool>(),
    ) {
        let fd = segment(SEGMENT_BYTES);
        let raw = writable(&fd, SEGMENT_BYTES);
        let (mut producer, consumer) = (self::producer(&fd), self::consumer(&fd));
        for seed in 0..times as u64 {
            producer.push(&record(seed, lines));
        }
        consumer.drain(ALL, drained, |_| {});
        for (place, value) in damage {
            raw.words()[place].store(value, Ordering::Relaxed);
        }
        if new_producer {
            producer = self::producer(&fd);
        }
        let each = |words: &[u64]| {
            let lines = words.len() / LINE_WORDS;
            assert!((1..=MAX_RECORD_LINES).contains(&lines) && words.len().is_multiple_of(LINE_WORDS));
        };
        if drain_first {
            consumer.drain(ALL, usize::MAX, each);
        }
        for n in 0..3 {
            producer.push(&record(n, 1 + n as usize));
        }
        consumer.drain(ALL, usize::MAX, each);

        for n in 0..600 {
            let seed = 1_000_000 + n;
            prop_assert!(producer.push(&record(seed, 32)), "a ring that was drained takes a record");
            let mut seeds = Vec::new();
            consumer.drain(ALL, usize::MAX, |words| seeds.push(seed_of(words)));
            if n > 0 {
                prop_assert_eq!(seeds, vec![seed]);
            }
        }
    }
}

#[test]
fn a_million_records_pass_between_threads_in_order() {
    const RECORDS: u64 = 1_000_000;
    let fd = segment(SEGMENT_BYTES);
    let consumer = consumer(&fd);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut producer = producer(&fd);
            let mut one = [0; LINE_WORDS];
            for seed in 0..RECORDS {
                one[0] = seed << 8 | 1;
                one[LINE_WORDS - 1] = !seed;
                while !producer.push(&one) {
                    thread::yield_now();
                }
            }
        });
        let mut next = 0;
        wait_until("every record came", || {
            let drained = consumer.drain(ALL, 4_000, |words| {
                assert_eq!((words[0] >> 8, words[LINE_WORDS - 1]), (next, !next));
                next += 1;
            });
            assert_eq!(drained.skipped, 0);
            next == RECORDS
        });
    });
}

#[test]
fn records_of_all_sizes_pass_between_threads_whole() {
    const RECORDS: u64 = 60_000;
    let fd = segment(SEGMENT_BYTES);
    let consumer = consumer(&fd);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut producer = producer(&fd);
            for seed in 0..RECORDS {
                let one = record(seed, 1 + (seed.wrapping_mul(7) % 32) as usize);
                while !producer.push(&one) {
                    thread::yield_now();
                }
            }
        });
        let mut next = 0;
        wait_until("every record came", || {
            for seed in drain(&consumer, 500).1 {
                assert_eq!(seed, next);
                next += 1;
            }
            next == RECORDS
        });
    });
}

#[test]
fn a_full_ring_drops_and_what_it_holds_stays() {
    let fd = segment(SEGMENT_BYTES);
    let (mut producer, consumer) = (producer(&fd), consumer(&fd));
    let fits = LINES / 32;
    for seed in 0..fits {
        assert!(producer.push(&record(seed, 32)));
    }
    assert!(!producer.push(&record(fits, 1)));
    assert_eq!(drain(&consumer, 1).1, [0]);
    assert!(producer.push(&record(fits, 32)));
    assert!(!producer.push(&record(fits + 1, 1)));
    assert_eq!(drain(&consumer, usize::MAX).1, (1..=fits).collect::<Vec<_>>());
}

#[test]
fn records_of_no_or_too_many_lines_are_not_taken() {
    let fd = segment(SEGMENT_BYTES);
    let (mut producer, consumer) = (producer(&fd), consumer(&fd));
    assert!(!producer.push(&[]));
    assert!(!producer.push(&[1; LINE_WORDS - 1]));
    assert!(!producer.push(&record(1, MAX_RECORD_LINES + 1)));
    assert_eq!(drain(&consumer, usize::MAX).0, Drained::default());
    assert!(Consumer::new(readable(&fd, SEGMENT_BYTES)).is_err());
}

#[test]
fn child() {
    let Some((role, fd)) = inherited() else { return };
    if role == "consume" {
        let mut taken = 0;
        consumer(&fd).drain(ALL, usize::MAX, |_| {
            taken += 1;
            if taken == 40 {
                std::process::abort();
            }
        });
    } else {
        let mut producer = producer(&fd);
        let mut seed = 0;
        memory::until_orphaned(|| {
            if producer.push(&record(seed, 1 + seed as usize % 32)) {
                seed += 1;
            }
        });
    }
}

#[test]
fn a_consumer_that_dies_before_it_acknowledges_leaves_its_batch_to_the_next() {
    let fd = segment(SEGMENT_BYTES);
    let mut producer = producer(&fd);
    for seed in 0..100 {
        assert!(producer.push(&record(seed, 3)));
    }
    for _ in 0..2 {
        assert!(!spawn("consume", &fd).wait().unwrap().success());
    }
    assert!(producer.push(&record(100, 1)));
    assert_eq!(drain(&consumer(&fd), usize::MAX).1, (0..=100).collect::<Vec<_>>());
    assert!(drain(&consumer(&fd), usize::MAX).1.is_empty(), "acknowledged");
}

#[test]
fn a_producer_killed_at_any_moment_leaves_whole_records_and_a_ring_that_goes_on() {
    let fd = segment(SEGMENT_BYTES);
    let consumer = consumer(&fd);
    let mut dice = memory::Dice(11);
    for _ in 0..10 {
        let mut child = spawn("produce", &fd);
        let mut next = 0;
        let enough = 1 + dice.below(3_000);
        let take = |next: &mut u64| {
            let (drained, seeds) = drain(&consumer, usize::MAX);
            assert_eq!(drained.skipped, 0);
            for seed in seeds {
                assert_eq!(seed, *next);
                *next += 1;
            }
        };
        wait_until("the child produced", || {
            take(&mut next);
            next >= enough
        });
        child.kill().unwrap();
        child.wait().unwrap();
        take(&mut next);
        let mut heir = producer(&fd);
        assert!(heir.push(&record(9, 9)));
        assert_eq!(drain(&consumer, usize::MAX).1, [9]);
    }
}
