//! Rings: what was pushed is drained once, whole and in order, whatever wraps, and whoever takes an end over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool as StdBool, Ordering as StdOrdering};

use super::{both, prove};
use crate::layout::LINE_WORDS;
use crate::map::Mapping;
use crate::ring::{Consumer, Drained, Producer, SEGMENT_BYTES};

const ALL: &[usize] = &[0];

fn record(seed: u64, lines: usize) -> Vec<u64> {
    let mut record = vec![seed; lines * LINE_WORDS];
    record[0] = seed << 8 | lines as u64;
    record
}

fn producer(map: &Mapping) -> Producer {
    Producer::new(Arc::new(map.clone()), 0, 0).expect("rings")
}

/// Drains what there is; each record must be whole.
fn drain(consumer: &Consumer, into: &mut Vec<u64>) {
    let drained = consumer.drain(ALL, usize::MAX, |words| {
        let seed = words[0] >> 8;
        assert_eq!(words, record(seed, words.len() / LINE_WORDS), "torn");
        into.push(seed);
    });
    assert_eq!(drained, Drained { records: drained.records, skipped: 0 });
}

/// A ring of four lines: the second record of two lines must wait for the first to be taken, and is preceded by padding.
#[test]
fn what_was_pushed_is_drained_once_whole_and_in_order() {
    static DROPPED: StdBool = StdBool::new(false);
    static ALL_TAKEN: StdBool = StdBool::new(false);
    prove(None, || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let mut producer = producer(&map);
        let consumer = Consumer::new(map).expect("rings");
        let produce = move || {
            let records = (1..).zip([2, 1, 2]);
            let pushed = records.filter(|(seed, lines)| producer.push(&record(*seed, *lines)));
            pushed.map(|(seed, _)| seed).collect::<Vec<_>>()
        };
        let (pushed, (consumer, mut taken)) = both(produce, move || {
            let mut taken = Vec::new();
            drain(&consumer, &mut taken);
            drain(&consumer, &mut taken);
            (consumer, taken)
        });
        drain(&consumer, &mut taken);
        assert_eq!(taken, pushed);
        if pushed.len() < 3 { &DROPPED } else { &ALL_TAKEN }.store(true, StdOrdering::Relaxed);
    });
    assert!(DROPPED.load(StdOrdering::Relaxed) && ALL_TAKEN.load(StdOrdering::Relaxed));
}

/// A process goes and the next one has its ring, while the consumer is at work.
#[test]
fn a_successor_goes_on_where_its_predecessor_published_last() {
    prove(Some(3), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let consumer = Consumer::new(map.clone()).expect("rings");
        let produce = move || (1..=3).filter(|seed| producer(&map).push(&record(*seed, 1))).collect::<Vec<_>>();
        let (pushed, (consumer, mut taken)) = both(produce, move || {
            let mut taken = Vec::new();
            drain(&consumer, &mut taken);
            (consumer, taken)
        });
        drain(&consumer, &mut taken);
        assert_eq!(taken, pushed);
        assert_eq!(pushed, [1, 2, 3], "there is room for all");
    });
}
