//! A real process is killed after its first store to a segment, then another after its second, and so on to the last: what
//! is read then is the old or the new, and a successor goes on.
//!
//! The child stops itself before its step; from there it is single-stepped, so that a store is noticed by the words that
//! changed, before the next one can happen.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{inherited, payload, readable, segment, spawn, writable};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use pannier_table::counter_reader::CounterReader;
use pannier_table::counters::{Cell, Enrolment, WorkerCounters};
use pannier_table::kind::Kind;
use pannier_table::layout::LINE_WORDS;
use pannier_table::map::Mapping;
use pannier_table::owner::Owner;
use pannier_table::ring::{Consumer, Drained, Producer};
use pannier_table::snapshot::{Reader, SLOT_BYTES, Snapshot, Writer};
use pannier_table::{counters, ring, snapshot};

/// One step of a process, killed at each store of it.
struct Case {
    /// What the child does, by name.
    step: &'static str,
    bytes: usize,
    /// Where its stores go: beginnings and lengths, in words.
    watched: &'static [(usize, usize)],
    /// Lays out what there is before; in the test process.
    before: fn(&OwnedFd),
    /// Whether the step is seen as done. Panics if it is half done, or a successor cannot go on.
    is_done: fn(&OwnedFd) -> bool,
    /// It must be seen as done at its last store at the latest; a step that changes nothing visible never is.
    is_visible: bool,
}

const SLOT: usize = SLOT_BYTES / 8;
const TABLE: &[(usize, usize)] = &[(0, 40), (512, 8), (512 + SLOT, 8), (512 + 2 * SLOT, 8)];
const RING: &[(usize, usize)] = &[(0, 3), (512, 1), (520, 1), (1024, 6 * LINE_WORDS)];
const REGION: &[(usize, usize)] = &[(0, 3), (512, 80), (512 + 4096, 2)];

const CASES: &[Case] = &[
    Case {
        step: "publish",
        bytes: snapshot::SEGMENT_BYTES,
        watched: TABLE,
        before: publish_the_old,
        is_done: |fd| goes_on(fd, &Snapshot::Payload(payload(2, 2))),
        is_visible: true,
    },
    Case {
        step: "withdraw",
        bytes: snapshot::SEGMENT_BYTES,
        watched: TABLE,
        before: publish_the_old,
        is_done: |fd| goes_on(fd, &Snapshot::Absent),
        is_visible: true,
    },
    Case {
        step: "take over",
        bytes: snapshot::SEGMENT_BYTES,
        watched: TABLE,
        before: publish_the_old,
        is_done: |fd| goes_on(fd, &old()),
        is_visible: false,
    },
    Case {
        step: "push",
        bytes: ring::SEGMENT_BYTES,
        watched: RING,
        before: |fd| assert!(producer(fd).push(&record(1))),
        is_done: |fd| {
            let seeds = drain(fd);
            assert!(producer(fd).push(&record(3)));
            assert_eq!(drain(fd), [3]);
            assert!(seeds == [1] || seeds == [1, 2], "{seeds:?}");
            seeds.len() == 2
        },
        is_visible: true,
    },
    Case {
        step: "drain",
        bytes: ring::SEGMENT_BYTES,
        watched: RING,
        before: |fd| assert!(producer(fd).push(&record(1)) && producer(fd).push(&record(2))),
        is_done: |fd| {
            let seeds = drain(fd);
            assert!(seeds.is_empty() || seeds == [1, 2], "{seeds:?}");
            seeds.is_empty()
        },
        is_visible: true,
    },
    Case {
        step: "count",
        bytes: counters::SEGMENT_BYTES,
        watched: REGION,
        before: |fd| {
            // As a process left it that is dead: its region has an owner of another start time.
            count(fd);
            let words = writable(fd, counters::SEGMENT_BYTES);
            words.words()[512].fetch_xor(1, Ordering::Relaxed);
        },
        is_done: |fd| {
            let reader = CounterReader::new(readable(fd, counters::SEGMENT_BYTES)).unwrap();
            let total = || reader.totals()[0].1;
            let before = total();
            assert!((1..=2).contains(&before), "{before}");
            assert_eq!(count(fd), 0, "the region of the dead");
            assert_eq!(total(), before + 1);
            before == 2
        },
        is_visible: true,
    },
];

fn old() -> Snapshot {
    Snapshot::Payload(payload(1, 2))
}

fn table(fd: &OwnedFd) -> Writer {
    Writer::take_over(writable(fd, snapshot::SEGMENT_BYTES), Kind::Routes).unwrap()
}

fn publish_the_old(fd: &OwnedFd) {
    let mut writer = table(fd);
    for _ in 0..3 {
        writer.publish(&payload(1, 2)).unwrap();
    }
}

fn goes_on(fd: &OwnedFd, new: &Snapshot) -> bool {
    let reader = Reader::new(readable(fd, snapshot::SEGMENT_BYTES), Kind::Routes).unwrap();
    let (generation, found) = reader.read().unwrap();
    assert!(found == old() || found == *new, "a mix: {found:?}");
    let mut successor = table(fd);
    assert_eq!(reader.read(), Ok((generation, found.clone())));
    for seed in 3..7 {
        let next = successor.publish(&payload(seed, 2)).unwrap();
        assert!(next > generation);
        assert_eq!(reader.read(), Ok((next, Snapshot::Payload(payload(seed, 2)))));
    }
    found != old()
}

fn record(seed: u64) -> Vec<u64> {
    let mut record = vec![seed; 2 * LINE_WORDS];
    record[0] = seed << 8 | 2;
    record
}

fn producer(fd: &OwnedFd) -> Producer {
    Producer::new(Arc::new(writable(fd, ring::SEGMENT_BYTES)), 0, 0).unwrap()
}

fn drain(fd: &OwnedFd) -> Vec<u64> {
    let mut seeds = Vec::new();
    let consumer = Consumer::new(writable(fd, ring::SEGMENT_BYTES)).unwrap();
    let drained = consumer.drain(&[0], usize::MAX, |words| {
        assert_eq!(words, record(words[1]), "torn");
        seeds.push(words[1]);
    });
    assert_eq!(drained, Drained { records: seeds.len(), skipped: 0 });
    seeds
}

fn count(fd: &OwnedFd) -> usize {
    count_as(fd, Owner::current())
}

fn count_as(fd: &OwnedFd, me: Owner) -> usize {
    let enrolment = Enrolment::of(writable(fd, counters::SEGMENT_BYTES), 1, me, Owner::of).unwrap();
    let enrolment = Arc::new(enrolment);
    WorkerCounters::new(enrolment.clone(), 0).count(Cell::ConnectionsAccepted);
    enrolment.index()
}

#[test]
fn child() {
    let Some((step, fd)) = inherited() else { return };
    let case = CASES.iter().find(|case| case.step == step).unwrap();
    let last = writable(&fd, case.bytes);
    last.words()[case.bytes / 8 - 1].store(gettid().as_raw() as u64, Ordering::Release);
    match case.step {
        "publish" => between_stops(table(&fd), |writer| drop(writer.publish(&payload(2, 2)))),
        "withdraw" => between_stops(table(&fd), |writer| drop(writer.withdraw())),
        "take over" => between_stops((), |()| drop(table(&fd))),
        "push" => between_stops(producer(&fd), |producer| assert!(producer.push(&record(2)))),
        "drain" => between_stops((), |()| drop(drain(&fd))),
        _ => between_stops(Owner::current(), |me| _ = count_as(&fd, *me)),
    }
}

/// The process is stopped before the step, and killed in it or after.
fn between_stops<T>(mut with: T, step: impl FnOnce(&mut T)) {
    raise(Signal::SIGSTOP).unwrap();
    step(&mut with);
    raise(Signal::SIGSTOP).unwrap();
}

fn stored(words: &Mapping, watched: &[(usize, usize)]) -> Vec<u64> {
    let ranges = watched.iter().flat_map(|(from, count)| &words.words()[*from..from + count]);
    ranges.map(|word| word.load(Ordering::Relaxed)).collect()
}

/// Lets the child go on until its `stores`th store, and kills it there; `false` if it has done its step before.
fn kill_at(mut child: Child, stores: usize, words: &Mapping, watched: &[(usize, usize)]) -> bool {
    let process = Pid::from_raw(child.id() as i32);
    let stopped = waitpid(process, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(process, Signal::SIGSTOP));
    let thread = Pid::from_raw(words.words().last().unwrap().load(Ordering::Acquire) as i32);
    let wait = || waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::attach(thread).unwrap();
    assert!(matches!(wait(), WaitStatus::Stopped(_, _)));
    let (mut seen, mut changes) = (stored(words, watched), 0);
    let mut goes_on = true;
    while changes < stores && goes_on {
        ptrace::step(thread, None).unwrap();
        match wait() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Stopped(_, Signal::SIGSTOP) => goes_on = changes == 0,
            other => panic!("{other:?}"),
        }
        let now = stored(words, watched);
        if now != seen {
            let words = now.iter().zip(&seen).filter(|(a, b)| a != b).count();
            assert_eq!(words, 1, "one instruction stores one word");
            (seen, changes) = (now, changes + 1);
        }
    }
    child.kill().unwrap();
    while !matches!(wait(), WaitStatus::Signaled(_, Signal::SIGKILL, _)) {}
    if thread != process {
        child.wait().unwrap();
    }
    goes_on
}

#[test]
fn whoever_is_killed_at_any_store_leaves_the_old_or_the_new() {
    for case in CASES {
        let mut done = Vec::new();
        for stores in 0.. {
            let fd = segment(case.bytes);
            (case.before)(&fd);
            let words = writable(&fd, case.bytes);
            let goes_on = kill_at(spawn(case.step, &fd), stores, &words, case.watched);
            done.push((case.is_done)(&fd));
            if !goes_on {
                break;
            }
        }
        assert!(done.len() > 2, "{}: no store was seen", case.step);
        assert!(done.is_sorted() && !done[0], "{}: it was done, and then it was not: {done:?}", case.step);
        assert_eq!(done.last(), Some(&case.is_visible), "{}: {done:?}", case.step);
        eprintln!("{}: killed at each of {} stores", case.step, done.len() - 2);
    }
}
