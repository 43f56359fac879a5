//! Random damage to a table: a read gives the right snapshot or an error, never another, and the next publish heals.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::sync::atomic::Ordering;

use memory::{payload, readable, segment, writable};
use pannier_table::Error;
use pannier_table::kind::Kind;
use pannier_table::map::Mapping;
use pannier_table::snapshot::{ReadError, Reader, SEGMENT_BYTES, SLOT_BYTES, Snapshot, Writer};
use proptest::prelude::*;

const CURRENT: usize = 8;
const EPOCH_SHIFT: u32 = 40;
const PAGE: usize = 4096;

/// A byte of the segment that matters: in the header, or near the beginning of a slot.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => 0..CURRENT * 8 + 8,
        2 => CURRENT * 8..CURRENT * 8 + 8,
        2 => 128..128 + 3 * 64_usize,
        3 => (0..3_usize, 0..2048_usize).prop_map(|(slot, at)| PAGE + slot * SLOT_BYTES + at),
    ]
}

fn flip(map: &Mapping, byte: usize, value: u8) {
    let word = &map.words()[byte / 8];
    let mask = u64::from(value) << (byte % 8 * 8);
    word.store(word.load(Ordering::Relaxed) ^ mask, Ordering::Release);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_noticed_or_harmless_and_heals(
        publishes in 1..8_u64,
        takeovers in 0..3_usize,
        words in 0..250_usize,
        damage in prop::collection::vec((place(), 1..=255_u8), 1..64),
    ) {
        let fd = segment(SEGMENT_BYTES);
        let raw = writable(&fd, SEGMENT_BYTES);
        let take_over = || Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Base);
        let mut writer = take_over().unwrap();
        for _ in 0..takeovers {
            writer = take_over().unwrap();
        }
        let reader = Reader::new(readable(&fd, SEGMENT_BYTES), Kind::Base).unwrap();
        let mut published = Vec::new();
        for seed in 1..=publishes {
            let bytes = payload(seed, words);
            published.push((writer.publish(&bytes).unwrap(), bytes));
        }
        let newest = published.last().unwrap().clone();
        prop_assert_eq!(reader.read(), Ok((newest.0, Snapshot::Payload(newest.1.clone()))));

        let epoch = raw.words()[CURRENT].load(Ordering::Relaxed) >> EPOCH_SHIFT;
        for (byte, value) in damage {
            flip(&raw, byte, value);
        }
        let same_epoch = raw.words()[CURRENT].load(Ordering::Relaxed) >> EPOCH_SHIFT == epoch;
        match reader.read() {
            Ok((generation, Snapshot::Payload(bytes))) if same_epoch => {
                prop_assert_eq!((generation, bytes), newest);
            }
            Ok((generation, Snapshot::Payload(bytes))) => {
                prop_assert!(published.contains(&(generation, bytes)));
            }
            Ok((generation, Snapshot::Absent)) => {
                prop_assert!(false, "absence at generation {}, which nobody published", generation);
            }
            Err(ReadError::Damaged | ReadError::Lapped) => {}
        }

        let healed = payload(1_000, 33);
        let generation = match writer.publish(&healed) {
            Ok(generation) => generation,
            Err(Error::Fenced) if !same_epoch => match take_over() {
                Ok(mut successor) => successor.publish(&healed).unwrap(),
                Err(Error::Layout(_)) => return Ok(()),
                Err(e) => return Err(TestCaseError::fail(e.to_string())),
            },
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        };
        prop_assert_eq!(reader.read(), Ok((generation, Snapshot::Payload(healed))));
    }

    #[test]
    fn a_segment_full_of_noise_is_refused_or_read_as_damaged(
        noise in prop::collection::vec(any::<u64>(), 64),
        keep_identity in any::<bool>(),
    ) {
        let fd = segment(SEGMENT_BYTES);
        let raw = writable(&fd, SEGMENT_BYTES);
        if keep_identity {
            Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Base).unwrap();
        }
        for (word, value) in raw.words().iter().zip(noise).skip(if keep_identity { 3 } else { 0 }) {
            word.store(value, Ordering::Relaxed);
        }
        match Reader::new(readable(&fd, SEGMENT_BYTES), Kind::Base) {
            Ok(reader) => {
                prop_assert!(keep_identity);
                prop_assert!(matches!(reader.read(), Err(ReadError::Damaged)));
                let _ = reader.writer();
            }
            Err(Error::Layout(_)) => prop_assert!(!keep_identity),
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        }
    }
}

#[test]
fn a_generation_that_goes_back_is_damage_not_an_older_snapshot() {
    let fd = segment(SEGMENT_BYTES);
    let raw = writable(&fd, SEGMENT_BYTES);
    let mut writer = Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Base).unwrap();
    let reader = Reader::new(readable(&fd, SEGMENT_BYTES), Kind::Base).unwrap();
    let mut generation = 0;
    for seed in 0..4 {
        generation = writer.publish(&payload(seed, 5)).unwrap();
    }
    reader.read().unwrap();
    let good = raw.words()[CURRENT].load(Ordering::Relaxed);
    for back in [1, 2, generation] {
        raw.words()[CURRENT].store(good - back, Ordering::Release);
        assert_eq!(reader.read(), Err(ReadError::Damaged), "back by {back}");
    }
    let healed = writer.publish(&payload(9, 5)).unwrap();
    assert_eq!(healed, generation + 1);
    assert_eq!(reader.read(), Ok((healed, Snapshot::Payload(payload(9, 5)))));

    raw.words()[CURRENT].store(good - generation, Ordering::Release);
    let mut successor = Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Base).unwrap();
    let restarted = successor.publish(&payload(10, 5)).unwrap();
    assert!(restarted < healed, "the new writer cannot know how far the old one was");
    assert_eq!(reader.read(), Ok((restarted, Snapshot::Payload(payload(10, 5)))), "and is believed all the same");
}
