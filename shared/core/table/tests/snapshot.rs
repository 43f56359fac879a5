//! A table between threads: snapshots are whole, waiters wake, older writers are fenced, foreign segments are refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use memory::{SOON, payload, readable, seed_of, segment, writable};
use pannier_table::kind::Kind;
use pannier_table::layout;
use pannier_table::map::{Access, Mapping};
use pannier_table::snapshot::{ReadError, Reader, SEGMENT_BYTES, SLOT_BYTES, Snapshot, Writer};
use pannier_table::{Error, hot};

fn writer(fd: &OwnedFd) -> Writer {
    Writer::take_over(writable(fd, SEGMENT_BYTES), Kind::Base).unwrap()
}

fn reader(fd: &OwnedFd) -> Reader {
    Reader::new(readable(fd, SEGMENT_BYTES), Kind::Base).unwrap()
}

fn table() -> (OwnedFd, Writer, Reader) {
    let fd = segment(SEGMENT_BYTES);
    let (writer, reader) = (writer(&fd), reader(&fd));
    (fd, writer, reader)
}

/// Reads until not lapped; the seed of what is in force.
fn newest(reader: &Reader) -> (u64, u64) {
    loop {
        match reader.read() {
            Ok((generation, Snapshot::Payload(bytes))) => return (generation, seed_of(&bytes)),
            Ok((_, Snapshot::Absent)) => panic!("absent"),
            Err(ReadError::Lapped) => {}
            Err(ReadError::Damaged) => panic!("damaged"),
        }
    }
}

#[test]
fn what_is_published_is_read_whatever_its_size() {
    let (_fd, mut writer, reader) = table();
    assert_eq!(reader.generation(), 0);
    assert_eq!(reader.read(), Ok((0, Snapshot::Absent)));
    let mut before = 0;
    for size in [0, 1, 7, 8, 9, 63, 64, 65, 4096, SLOT_BYTES - 1, SLOT_BYTES] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let generation = writer.publish(&bytes).unwrap();
        assert!(generation > before);
        before = generation;
        assert_eq!(reader.generation(), generation);
        assert!(reader.read() == Ok((generation, Snapshot::Payload(bytes))), "{size} bytes");
    }
}

#[test]
fn a_payload_that_is_too_large_leaves_the_one_before_in_force() {
    let (_fd, mut writer, reader) = table();
    let generation = writer.publish(b"good").unwrap();
    assert!(matches!(writer.publish(&vec![0; SLOT_BYTES + 1]), Err(Error::TooLarge(SLOT_BYTES))));
    assert_eq!(reader.read(), Ok((generation, Snapshot::Payload(b"good".to_vec()))));
    assert_eq!(writer.publish(b"next").unwrap(), generation + 1);
}

#[test]
fn absence_is_a_snapshot_like_another() {
    let (_fd, mut writer, reader) = table();
    writer.publish(b"here").unwrap();
    let gone = writer.withdraw().unwrap();
    assert_eq!(reader.read(), Ok((gone, Snapshot::Absent)));
    let back = writer.publish(b"").unwrap();
    assert!(back > gone);
    assert_eq!(reader.read(), Ok((back, Snapshot::Payload(Vec::new()))));
}

#[test]
fn an_older_writer_is_fenced_for_good() {
    let (fd, mut old, reader) = table();
    let before = old.publish(&payload(1, 10)).unwrap();
    let mut new = writer(&fd);
    assert_eq!(newest(&reader).1, 1, "taking over changes nothing");
    assert!(matches!(old.publish(&payload(2, 10)), Err(Error::Fenced)));
    assert_eq!(newest(&reader).1, 1);
    let generation = new.publish(&payload(3, 10)).unwrap();
    assert_eq!(generation, before + 2, "the slot that the old one may still fill is left alone");
    for _ in 0..5 {
        assert!(matches!(old.publish(&payload(4, 10)), Err(Error::Fenced)));
        assert!(matches!(old.withdraw(), Err(Error::Fenced)));
        assert_eq!(newest(&reader), (generation, 3));
    }
    assert_eq!(new.publish(&payload(5, 10)).unwrap(), generation + 1);
    assert_eq!(reader.writer().0.pid(), std::process::id());
}

#[test]
fn what_was_spoilt_is_published_again_at_the_next_heartbeat() {
    let (fd, mut old, reader) = table();
    old.publish(&payload(1, 10)).unwrap();
    let raw = writable(&fd, SEGMENT_BYTES);
    let mut new = writer(&fd);
    let good = new.publish(&payload(2, 10)).unwrap();
    new.heartbeat();
    assert_eq!(newest(&reader), (good, 2), "what is whole is left alone");
    // Words of the slot in force: stamp, length, checksum, the first and the last of its payload; and *current*.
    for n in 0..6 {
        let generation = reader.generation();
        let slot = (generation % 3) as usize;
        let (head, first) = (16 + slot * 8, 512 + slot * SLOT_BYTES / 8);
        let word = [head, head + 1, head + 2, first, first + 11, 8][n];
        raw.words()[word].fetch_xor(1, Ordering::Relaxed);
        assert!(reader.read().is_err(), "word {word}");
        old.heartbeat();
        assert!(reader.read().is_err(), "a fenced writer repairs nothing");
        new.heartbeat();
        assert_eq!(newest(&reader), (generation + 1, 2), "word {word}");
    }
    new.withdraw().unwrap();
    new.heartbeat();
    assert!(matches!(reader.read(), Ok((_, Snapshot::Absent))));
}

#[test]
fn however_many_take_over_none_of_them_may_fill_the_slot_in_force_or_a_generation_of_another() {
    let (fd, mut first, reader) = table();
    let mut used = vec![first.publish(&payload(1, 1)).unwrap()];
    for idle in 0..12_u64 {
        let in_force = reader.generation();
        for _ in 0..idle {
            drop(writer(&fd));
        }
        let generation = writer(&fd).publish(&payload(idle, 1)).unwrap();
        assert_ne!(generation % 3, in_force % 3, "after {idle} who did not publish");
        assert!(generation > in_force + idle, "a generation of one of them");
        used.push(generation);
    }
    assert!(used.is_sorted_by(|a, b| a < b), "{used:?}");
}

#[test]
fn of_two_writers_that_race_only_the_newest_goes_on() {
    let (fd, _first, reader) = table();
    thread::scope(|scope| {
        let racers: Vec<_> = (1..=4_u64)
            .map(|id| {
                let fd = &fd;
                scope.spawn(move || {
                    let mut writer = writer(fd);
                    for n in 0..200 {
                        match writer.publish(&payload(id << 32 | n, 100)) {
                            Ok(_) => {}
                            Err(Error::Fenced) => return false,
                            Err(e) => panic!("{e}"),
                        }
                    }
                    true
                })
            })
            .collect();
        let finished = racers.into_iter().map(|racer| racer.join().unwrap()).filter(|finished| *finished).count();
        assert!(finished >= 1, "the last to take over is never fenced");
    });
    newest(&reader);
}

#[test]
fn readers_of_a_writer_in_a_hurry_see_whole_snapshots_in_order() {
    let (fd, mut writer, _) = table();
    writer.publish(&payload(0, 1)).unwrap();
    let done = AtomicBool::new(false);
    let published = AtomicU64::new(0);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let reader = reader(&fd);
                    let (mut reads, mut lapped, mut last) = (0_u64, 0_u64, (0, 0));
                    while !done.load(Ordering::Acquire) || last.1 < published.load(Ordering::Acquire) {
                        let floor = published.load(Ordering::Acquire);
                        match reader.read() {
                            Ok((generation, Snapshot::Payload(bytes))) => {
                                let now = (generation, seed_of(&bytes));
                                assert!(now >= last && now.1 >= last.1, "{now:?} after {last:?}");
                                assert!(now.1 >= floor, "older than what was published before");
                                assert_eq!(now.0 == last.0, now.1 == last.1 && reads > 0);
                                (reads, last) = (reads + 1, now);
                            }
                            Ok(other) => panic!("{other:?}"),
                            Err(ReadError::Lapped) => lapped += 1,
                            Err(ReadError::Damaged) => panic!("damaged"),
                        }
                    }
                    (reads, lapped)
                })
            })
            .collect();
        let until = Instant::now() + Duration::from_secs(2);
        let mut n = 0;
        while Instant::now() < until {
            n += 1;
            writer.publish(&payload(n, (n % 700) as usize)).unwrap();
            published.store(n, Ordering::Release);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            let (reads, lapped) = reader.join().unwrap();
            assert!(reads > 10, "{reads} reads, lapped {lapped} times");
        }
    });
}

#[test]
fn a_reader_that_slept_through_a_thousand_publishes_sees_the_newest() {
    let (fd, mut writer, _) = table();
    let (to_reader, go) = mpsc::channel::<()>();
    let (seen, from_reader) = mpsc::channel();
    let reading = thread::spawn(move || {
        let reader = reader(&fd);
        for () in go {
            seen.send(newest(&reader)).unwrap();
        }
    });
    let mut seed = 0;
    for _ in 0..3 {
        let mut generation = 0;
        for _ in 0..1_000 {
            seed += 1;
            generation = writer.publish(&payload(seed, (seed % 50) as usize)).unwrap();
        }
        to_reader.send(()).unwrap();
        assert_eq!(from_reader.recv_timeout(SOON), Ok((generation, seed)));
    }
    drop(to_reader);
    reading.join().unwrap();
}

#[test]
fn each_publish_wakes_every_waiter_that_may_only_read() {
    let (fd, mut writer, _) = table();
    let (seen, from_readers) = mpsc::channel();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let (reader, seen) = (reader(&fd), seen.clone());
            thread::spawn(move || {
                let mut generation = 0;
                for _ in 0..50 {
                    let deadline = Instant::now() + SOON * 10;
                    while reader.generation() == generation && Instant::now() < deadline {
                        reader.wait(generation, SOON * 10);
                    }
                    generation = reader.generation();
                    seen.send(generation).unwrap();
                }
            })
        })
        .collect();
    let started = Instant::now();
    for _ in 0..50 {
        let generation = writer.publish(b"ring").unwrap();
        for _ in 0..waiters.len() {
            assert_eq!(from_readers.recv_timeout(SOON), Ok(generation));
        }
    }
    assert!(started.elapsed() < SOON, "somebody slept until the timeout");
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

#[test]
fn a_wait_ends_at_its_timeout_or_at_once_when_there_is_news() {
    let (_fd, mut writer, reader) = table();
    let generation = writer.publish(b"x").unwrap();
    reader.wait(generation, Duration::from_millis(5));
    let started = Instant::now();
    reader.wait(generation - 1, SOON * 10);
    assert!(started.elapsed() < SOON);
}

#[test]
fn foreign_segments_are_refused_in_words() {
    let blank = segment(SEGMENT_BYTES);
    let refused = |fd: &OwnedFd, kind| match Reader::new(readable(fd, SEGMENT_BYTES), kind) {
        Err(Error::Layout(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(&blank, Kind::Base).contains("not laid out"));

    let (fd, _writer, _) = table();
    assert!(refused(&fd, Kind::Endpoints).contains("table.endpoints"));
    assert!(matches!(Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Telemetry), Err(Error::Layout(_))));

    let raw = writable(&fd, SEGMENT_BYTES);
    raw.words()[1].store(u64::from(layout::ABI_MAJOR + 1) << 32, Ordering::Release);
    assert!(refused(&fd, Kind::Base).contains(&format!("layout version {}", layout::ABI_MAJOR + 1)));
    assert!(matches!(Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Base), Err(Error::Layout(_))));
    raw.words()[1].store(u64::from(layout::ABI_MAJOR) << 32 | 7, Ordering::Release);
    assert!(Reader::new(readable(&fd, SEGMENT_BYTES), Kind::Base).is_ok(), "a newer minor version is read");

    raw.words()[0].store(0x1234, Ordering::Release);
    assert!(matches!(Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Base), Err(Error::Layout(_))));
}

#[test]
fn a_refused_takeover_leaves_the_writer_in_office() {
    let (fd, mut writer, reader) = table();
    assert!(Writer::take_over(writable(&fd, SEGMENT_BYTES), Kind::Endpoints).is_err());
    writer.publish(&payload(9, 9)).unwrap();
    assert_eq!(newest(&reader).1, 9);
}

#[test]
fn a_segment_of_the_wrong_size_is_refused_and_a_sealed_one_keeps_its_size() {
    let short = segment(hot::SEGMENT_BYTES);
    assert!(matches!(Mapping::new(&short, SEGMENT_BYTES, Access::Read), Err(Error::Layout(_))));
    assert!(matches!(Mapping::new(&short, 0, Access::Read), Err(Error::Layout(_))));
    let (fd, mut writer, reader) = table();
    writer.publish(&payload(1, 1)).unwrap();
    for size in [0, 4096, SEGMENT_BYTES as u64 + 4096] {
        assert_eq!(rustix::fs::ftruncate(&fd, size), Err(rustix::io::Errno::PERM));
    }
    assert_eq!(
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::WRITE),
        Err(rustix::io::Errno::PERM),
        "nobody can seal the writer out"
    );
    assert_eq!(newest(&reader).1, 1);
}
