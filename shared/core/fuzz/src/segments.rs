//! Segments of shared memory: whatever lies in one, its readers take it or refuse it, and its next writer goes on.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pannier_table::counter_reader::CounterReader;
use pannier_table::counters::{self, Cell, Enrolment, Sample, WorkerCounters};
use pannier_table::hot::{self, HotWords, MAX_HORIZON_MS, Place};
use pannier_table::kind::Kind;
use pannier_table::layout::LINE_WORDS;
use pannier_table::map::{Access, Mapping};
use pannier_table::record::MAX_RECORD_LINES;
use pannier_table::ring::{self, Consumer, Producer};
use pannier_table::series::{Direction, Key};
use pannier_table::snapshot::{self, Reader, SLOT_BYTES, Snapshot, Writer};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const KEY: Key<'static> =
    Key { direction: Direction::Inbound, service: "s", route: "/", method: "GET", status: 200, flag: 0, version: 1 };
const SAMPLE: Sample = Sample { duration_ns: 1, request_bytes: 1, response_bytes: 1 };

/// The first byte says which segment; then ten bytes a word: where, and what.
pub fn segments(data: &[u8]) {
    let Some((first, damage)) = data.split_first() else { return };
    match first % 4 {
        0 => table(damage),
        1 => rings(damage),
        2 => counting(damage),
        _ => hot_words(damage),
    }
}

fn segment(bytes: usize) -> (OwnedFd, Mapping) {
    let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, bytes as u64).unwrap();
    let map = Mapping::new(&fd, bytes, Access::Write).unwrap();
    (fd, map)
}

/// Stores the words; `at` makes a place of a number.
fn damaged(map: &Mapping, damage: &[u8], at: impl Fn(usize) -> usize) {
    for chunk in damage.chunks_exact(10) {
        let place = usize::from(u16::from_le_bytes([chunk[0], chunk[1]]));
        let value = u64::from_le_bytes(chunk[2..].try_into().unwrap());
        map.words()[at(place)].store(value, Ordering::Relaxed);
    }
}

fn table(damage: &[u8]) {
    let (fd, raw) = segment(snapshot::SEGMENT_BYTES);
    let map = || Mapping::new(&fd, snapshot::SEGMENT_BYTES, Access::Write).unwrap();
    let mut writer = Writer::take_over(map(), Kind::Base).unwrap();
    let reader = Reader::new(map(), Kind::Base).unwrap();
    for _ in 0..3 {
        writer.publish(b"as it was published").unwrap();
    }
    // The header, and the first words of each slot.
    damaged(&raw, damage, |n| if n % 64 < 48 { n % 64 } else { 512 + n % 3 * SLOT_BYTES / 8 + n / 64 % 4 });
    if let Ok((_, Snapshot::Payload(bytes))) = reader.read() {
        assert!(bytes.len() <= SLOT_BYTES);
    }
    let _ = Reader::new(map(), Kind::Base).map(|reader| reader.read().map(drop));
    writer.heartbeat();
    if let Ok(mut successor) = Writer::take_over(map(), Kind::Base) {
        let published = successor.publish(b"and again").unwrap();
        assert_eq!(
            Reader::new(map(), Kind::Base).unwrap().read(),
            Ok((published, Snapshot::Payload(b"and again".into())))
        );
    }
}

fn rings(damage: &[u8]) {
    const RECORD: [u64; LINE_WORDS] = [1, 2, 3, 4, 5, 6, 7, 8];
    let (fd, raw) = segment(ring::SEGMENT_BYTES);
    let map = || Mapping::new(&fd, ring::SEGMENT_BYTES, Access::Write).unwrap();
    let mut producer = Producer::new(Arc::new(map()), 0, 0).unwrap();
    let consumer = Consumer::new(map()).unwrap();
    for _ in 0..40 {
        producer.push(&RECORD);
    }
    // Head, tail, and the first words of the lines.
    damaged(&raw, damage, |n| [512, 520, 1024 + n / 4 % 50 * LINE_WORDS][n % 3]);
    let whole = |words: &[u64]| assert!(!words.is_empty() && words.len() <= MAX_RECORD_LINES * LINE_WORDS);
    consumer.drain(&[0], usize::MAX, whole);
    producer.push(&RECORD);
    consumer.drain(&[0], usize::MAX, whole);
    // It has healed: what is pushed now is drained.
    assert!(producer.push(&RECORD));
    let mut drained = Vec::new();
    consumer.drain(&[0], usize::MAX, |words| drained.push(words.to_vec()));
    assert_eq!(drained, [RECORD.to_vec()]);
}

fn counting(damage: &[u8]) {
    let (fd, raw) = segment(counters::SEGMENT_BYTES);
    let map = || Mapping::new(&fd, counters::SEGMENT_BYTES, Access::Write).unwrap();
    let enrolment = Arc::new(Enrolment::new(map(), 1).unwrap());
    let mut worker = WorkerCounters::new(enrolment.clone(), 0);
    worker.record(&KEY, &SAMPLE);
    let reader = CounterReader::new(map()).unwrap();
    // The segment's and the region's header, its gauges, the cells and the first block.
    damaged(&raw, damage, |n| [n / 4 % 64, 512 + n / 4 % 256, 512 + 4096 + n / 4 % 344][n % 3]);
    let _ = reader.series();
    let _ = reader.totals();
    let _ = reader.gauges();
    let _ = reader.enrolled();
    let _ = reader.endpoint(Place { slot: 0, incarnation: 1 });
    worker.record(&KEY, &SAMPLE);
    worker.count(Cell::Probes);
    WorkerCounters::new(enrolment, 0).record(&KEY, &SAMPLE);
    let _ = reader.series();
}

fn hot_words(damage: &[u8]) {
    let (_fd, raw) = segment(hot::SEGMENT_BYTES);
    damaged(&raw, damage, |n| 64 + n % 16);
    let Ok(words) = HotWords::new(raw) else { return };
    for slot in 0..4 {
        for incarnation in [0, 1, u16::MAX] {
            let place = Place { slot, incarnation };
            assert!(words.state(place, 5).until_ms <= 5 + MAX_HORIZON_MS);
            assert!(words.history(place, 5).at_ms <= 5 + MAX_HORIZON_MS);
            words.step_streak(place, |streak| streak);
        }
    }
}
