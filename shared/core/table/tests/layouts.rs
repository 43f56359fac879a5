//! Layouts: what is written is read back, whatever it is; a segment of the minor version before or after is read both ways,
//! and one of another major version by nobody.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{payload, readable, segment, writable};
use pannier_table::Error;
use pannier_table::counter_reader::CounterReader;
use pannier_table::counters::{self, Enrolment, Sample, WorkerCounters};
use pannier_table::gauges::{self, GAUGES};
use pannier_table::hot::{self, History, HotWords, Place, SLOTS, State, Streak, Word};
use pannier_table::kind::Kind;
use pannier_table::layout::{self, ABI_MAJOR, ABI_MINOR, LINE_WORDS};
use pannier_table::record::{AccessRecord, Flag, MAX_RECORD_LINES, Texts};
use pannier_table::ring::{self, Consumer, Producer};
use pannier_table::series::{Direction, Key};
use pannier_table::snapshot::{self, Reader, Snapshot, Writer};
use proptest::prelude::*;

const ABI: usize = 1;
/// The words of a table's header that this version gives no meaning, the beginnings of its slots' heads included.
const RESERVED: [std::ops::Range<usize>; 5] = [6..8, 9..16, 19..24, 27..32, 35..512];

fn set_abi(fd: &OwnedFd, bytes: usize, major: u32, minor: u32) {
    let abi = u64::from(major) << 32 | u64::from(minor);
    writable(fd, bytes).words()[ABI].store(abi, Ordering::Release);
}

fn write(fd: &OwnedFd) -> Result<Writer, Error> {
    Writer::take_over(writable(fd, snapshot::SEGMENT_BYTES), Kind::Limits)
}

fn read(fd: &OwnedFd) -> Result<Reader, Error> {
    Reader::new(readable(fd, snapshot::SEGMENT_BYTES), Kind::Limits)
}

/// Opens a segment in every way; laid out first if it is fresh.
type Open = fn(&OwnedFd) -> Vec<Result<(), Error>>;

const SEGMENTS: [(&str, usize, Open); 4] = [
    ("table", snapshot::SEGMENT_BYTES, |fd| vec![write(fd).map(drop), read(fd).map(drop)]),
    ("hot", hot::SEGMENT_BYTES, |fd| {
        let (write, read) = (writable(fd, hot::SEGMENT_BYTES), readable(fd, hot::SEGMENT_BYTES));
        vec![HotWords::new(write).map(drop), HotWords::new(read).map(drop)]
    }),
    ("counters", counters::SEGMENT_BYTES, |fd| {
        let (write, read) = (writable(fd, counters::SEGMENT_BYTES), readable(fd, counters::SEGMENT_BYTES));
        vec![Enrolment::new(write, 1).map(drop), CounterReader::new(read).map(drop)]
    }),
    ("rings", ring::SEGMENT_BYTES, |fd| {
        let producer = Producer::new(Arc::new(writable(fd, ring::SEGMENT_BYTES)), 0, 0);
        vec![producer.map(drop), Consumer::new(writable(fd, ring::SEGMENT_BYTES)).map(drop)]
    }),
];

#[test]
fn another_major_version_is_refused_by_both_ends_and_another_minor_one_by_none() {
    for (name, bytes, open) in SEGMENTS {
        let fd = segment(bytes);
        assert!(open(&fd).iter().all(Result::is_ok), "{name}");
        for minor in [ABI_MINOR - 1, ABI_MINOR + 1, u32::MAX] {
            set_abi(&fd, bytes, ABI_MAJOR, minor);
            assert!(open(&fd).iter().all(Result::is_ok), "{name}, minor {minor}");
        }
        for major in [0, ABI_MAJOR - 1, ABI_MAJOR + 1, u32::MAX] {
            set_abi(&fd, bytes, major, ABI_MINOR);
            for refused in open(&fd) {
                let Err(Error::Layout(why)) = refused else { panic!("{name}: {refused:?}") };
                assert!(why.contains(&format!("layout version {major}, this build reads {ABI_MAJOR}")), "{why}");
            }
        }
    }
}

#[test]
fn a_table_of_the_next_minor_version_is_read_and_taken_over_and_what_it_added_is_left_alone() {
    let fd = segment(snapshot::SEGMENT_BYTES);
    let raw = writable(&fd, snapshot::SEGMENT_BYTES);
    let mut newer = write(&fd).unwrap();
    newer.publish(&payload(1, 10)).unwrap();
    set_abi(&fd, snapshot::SEGMENT_BYTES, ABI_MAJOR, ABI_MINOR + 1);
    for word in RESERVED.into_iter().flatten() {
        raw.words()[word].store(!0 - word as u64, Ordering::Relaxed);
    }
    let (mut writer, reader) = (write(&fd).unwrap(), read(&fd).unwrap());
    assert!(matches!(reader.read(), Ok((_, Snapshot::Payload(bytes))) if bytes == payload(1, 10)));
    for seed in 2..6 {
        let generation = writer.publish(&payload(seed, 10)).unwrap();
        assert_eq!(reader.read(), Ok((generation, Snapshot::Payload(payload(seed, 10)))));
    }
    for word in RESERVED.into_iter().flatten() {
        assert_eq!(raw.words()[word].load(Ordering::Relaxed), !0 - word as u64, "word {word}");
    }
    assert_eq!(raw.words()[ABI].load(Ordering::Relaxed) as u32, ABI_MINOR + 1, "it stays what it was laid out as");
}

/// Minor version 0 had no claims: its word is 0 whatever its writers do, and they stamp what they like.
#[test]
fn a_table_of_the_minor_version_before_lacks_its_tail_and_goes_on_both_ways() {
    const CLAIMED: usize = 5;
    let fd = segment(snapshot::SEGMENT_BYTES);
    let raw = writable(&fd, snapshot::SEGMENT_BYTES);
    let mut older = write(&fd).unwrap();
    set_abi(&fd, snapshot::SEGMENT_BYTES, ABI_MAJOR, ABI_MINOR - 1);
    let generation = older.publish(&payload(1, 10)).unwrap();
    raw.words()[CLAIMED].store(0, Ordering::Relaxed);
    let (mut writer, reader) = (write(&fd).unwrap(), read(&fd).unwrap());
    assert_eq!(reader.read(), Ok((generation, Snapshot::Payload(payload(1, 10)))));
    let next = writer.publish(&payload(2, 10)).unwrap();
    assert_eq!(next, generation + 2, "as if there had been no claim");

    // And back: the older version takes over and does not claim, a long way on.
    let mut older = write(&fd).unwrap();
    raw.words()[CLAIMED].store(next, Ordering::Relaxed);
    for seed in 3..20 {
        let generation = older.publish(&payload(seed, 3)).unwrap();
        assert_eq!(reader.read(), Ok((generation, Snapshot::Payload(payload(seed, 3)))));
    }
}

#[test]
fn a_word_beyond_a_segment_is_nobodys() {
    let map = writable(segment(64), 64);
    let beyond = |i| std::ptr::from_ref(layout::word(map.words(), i));
    assert_eq!(beyond(8), beyond(usize::MAX));
    assert_ne!(beyond(7), beyond(8));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z0-9/{}.:-]{0,40}", 2 => any::<String>(), 1 => "é{0,1500}"]
        .prop_map(|text| text.replace('\0', ""))
}

fn starts(whole: &str, kept: &str, truncated: bool) -> bool {
    whole.starts_with(kept) && (truncated || whole == kept)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_is_read_back_with_the_beginnings_of_its_texts(
        texts in prop::collection::vec(text(), 9),
        numbers in any::<[u64; 6]>(),
        bits in any::<[bool; 2]>(),
        (status, version, flag) in (any::<u16>(), any::<u8>(), 0..17_u8),
        noise in any::<u64>(),
    ) {
        let t = |i: usize| texts[i].as_str();
        let written = AccessRecord {
            outbound: bits[0],
            sampled: bits[1],
            truncated: false,
            flag: Flag::from_number(flag),
            status,
            version,
            start_ns: numbers[0],
            duration_ns: numbers[1],
            request_bytes: numbers[2],
            response_bytes: numbers[3],
            trace_id: u128::from(numbers[4]) << 64 | u128::from(numbers[0]),
            span_id: numbers[5],
            parent_id: numbers[2],
            texts: Texts {
                method: t(0), path: t(1), authority: t(2), service: t(3), route: t(4), upstream: t(5),
                request_id: t(6), trace_state: t(7), client: t(8),
            },
        };
        // What lay in the buffer before, and lines behind the record that a later minor version might add, are not read.
        let mut buffer = [noise; MAX_RECORD_LINES * LINE_WORDS];
        let mut words = written.encode(&mut buffer).to_vec();
        prop_assert!(words.len() <= MAX_RECORD_LINES * LINE_WORDS && words.len().is_multiple_of(LINE_WORDS));
        prop_assert_eq!(words[0] & 0xff, (words.len() / LINE_WORDS) as u64);
        words.extend([noise; LINE_WORDS]);
        let mut scratch = Vec::new();
        let read = AccessRecord::decode(&words, &mut scratch).expect("what was written");
        prop_assert_eq!(
            AccessRecord { texts: Texts::default(), truncated: false, ..read },
            AccessRecord { texts: Texts::default(), ..written }
        );
        let r = read.texts;
        let kept = [r.method, r.path, r.authority, r.service, r.route, r.upstream, r.request_id, r.trace_state, r.client];
        for (kept, whole) in kept.iter().zip(&texts) {
            prop_assert!(starts(whole, kept, read.truncated), "{} of {}", kept, whole);
        }
        for other in [1, 3, 0xff] {
            words[0] = words[0] & !0xff00 | other << 8;
            let mut scratch = Vec::new();
            prop_assert!(AccessRecord::decode(&words, &mut scratch).is_none(), "version {}", other);
        }
    }

    #[test]
    fn a_record_that_is_cut_or_damaged_anywhere_is_read_or_refused(
        words in prop::collection::vec(any::<u64>(), 0..40),
        keep_version in any::<bool>(),
        lengths in any::<[u16; 9]>(),
    ) {
        let mut words = words;
        if let [first, _, _, _, _, _, _, _, _, one, two, three, ..] = words.as_mut_slice() && keep_version {
            *first = *first & !0xff00 | 2 << 8;
            let pack = |at: usize| lengths[at..].iter().take(4).rev().fold(0, |sum, n| sum << 16 | u64::from(n % 24));
            (*one, *two, *three) = (pack(0), pack(4), pack(8));
        }
        let mut scratch = Vec::new();
        if let Some(record) = AccessRecord::decode(&words, &mut scratch) {
            prop_assert!(record.texts.path.len() <= words.len() * 8);
        }
    }

    #[test]
    fn a_series_is_read_back_with_the_beginnings_of_its_labels(
        (service, route, method) in (text(), text(), "[A-Z_]{1,15}"),
        (status, flag, version, outbound) in any::<(u16, u8, u8, bool)>(),
        (duration_ns, request_bytes, response_bytes) in (any::<u64>(), any::<u64>(), any::<u64>()),
    ) {
        let fd = segment(counters::SEGMENT_BYTES);
        let enrolment = Arc::new(Enrolment::new(writable(&fd, counters::SEGMENT_BYTES), 1).unwrap());
        let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
        let key = Key { direction, service: &service, route: &route, method: &method, status, flag, version };
        let sample = Sample { duration_ns, request_bytes, response_bytes };
        WorkerCounters::new(enrolment, 0).record(&key, &sample);
        let series = CounterReader::new(readable(&fd, counters::SEGMENT_BYTES)).unwrap().series();
        prop_assert_eq!(series.len(), 1);
        let labels = series[0].labels.clone();
        prop_assert_eq!(Key { service: "", route: "", ..labels.key() }, Key { service: "", route: "", ..key });
        prop_assert!(starts(&service, &labels.service, service.len() > 63), "{:?}", labels.service);
        prop_assert!(starts(&route, &labels.route, route.len() > 127), "{:?}", labels.route);
        let sums = (series[0].count, series[0].sum_ns, series[0].request_bytes, series[0].response_bytes);
        prop_assert_eq!(sums, (1, duration_ns, request_bytes, response_bytes));
        prop_assert_eq!((series[0].fine.iter().sum::<u64>(), series[0].conventional.iter().sum::<u64>()), (1, 1));
    }

    #[test]
    fn gauges_are_read_back_up_to_as_many_as_there_is_room_for(
        gauges in prop::collection::vec((text(), any::<u64>(), any::<u64>()), 0..GAUGES + 9),
    ) {
        let fd = segment(counters::SEGMENT_BYTES);
        let enrolment = Enrolment::new(writable(&fd, counters::SEGMENT_BYTES), 1).unwrap();
        gauges::write(enrolment.gauges(), gauges.iter().map(|(s, used, most)| (s.as_str(), "requests", *used, *most)));
        let read = gauges::read(enrolment.gauges());
        prop_assert_eq!(read.len(), gauges.len().min(GAUGES));
        for (read, (service, used, most)) in read.iter().zip(&gauges) {
            prop_assert_eq!((read.limit.as_str(), read.used, read.most), ("requests", *used, *most));
            let kept = read.service.trim_end_matches('\u{fffd}');
            prop_assert!(starts(service.trim_end_matches('\u{fffd}'), kept, service.len() > 63), "{:?}", read.service);
        }
    }

    #[test]
    fn hot_words_are_read_back_by_their_holder_alone(
        (slot, incarnation, other) in (0..SLOTS as u32, any::<u16>(), any::<u16>()),
        (until_ms, times) in (0..hot::MAX_HORIZON_MS, any::<u8>()),
        (failures, gateway, local) in any::<(u16, u16, u16)>(),
    ) {
        prop_assume!(incarnation != other);
        let fd = segment(hot::SEGMENT_BYTES);
        let words = HotWords::new(writable(&fd, hot::SEGMENT_BYTES)).unwrap();
        let (place, stranger) = (Place { slot, incarnation }, Place { slot, incarnation: other });
        for state in [State::HalfOpen, State::Open] {
            let word = Word { state, until_ms };
            words.change(place, 0, |_| Some(word));
            prop_assert_eq!((words.state(place, 0), words.state(stranger, 0)), (word, Word::CLOSED));
        }
        let (streak, history) = (Streak { failures, gateway, local }, History { times, at_ms: until_ms });
        prop_assert_eq!(words.step_streak(place, |_| streak), streak);
        words.set_history(place, history);
        prop_assert_eq!((words.streak(place), words.history(place, 0)), (streak, history));
        prop_assert_eq!((words.streak(stranger), words.history(stranger, 0)), (Streak::default(), History::default()));
    }

    #[test]
    fn a_snapshot_of_any_length_is_read_back(
        lengths in prop::collection::vec(prop_oneof![0..100_usize, 0..10_000_usize], 1..4),
        seed in any::<u8>(),
    ) {
        let fd = segment(snapshot::SEGMENT_BYTES);
        let (mut writer, reader) = (write(&fd).unwrap(), read(&fd).unwrap());
        for length in lengths {
            let bytes: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let generation = writer.publish(&bytes).unwrap();
            prop_assert!(reader.read() == Ok((generation, Snapshot::Payload(bytes))), "{} bytes", length);
        }
    }
}
