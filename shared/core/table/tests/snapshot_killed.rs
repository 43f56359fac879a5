//! A table between processes that are killed and stopped at any moment: what is read is whole, and goes on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::os::fd::OwnedFd;
use std::process::Child;

use memory::{Dice, inherited, payload, readable, seed_of, segment, spawn, wait_until, writable};
use pannier_table::Error;
use pannier_table::kind::Kind;
use pannier_table::snapshot::{ReadError, Reader, SEGMENT_BYTES, Snapshot, Writer};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

const FENCED: i32 = 3;
const FAREWELL: u64 = u64::MAX;

fn writer(fd: &OwnedFd) -> Writer {
    Writer::take_over(writable(fd, SEGMENT_BYTES), Kind::Endpoints).unwrap()
}

fn reader(fd: &OwnedFd) -> Reader {
    Reader::new(readable(fd, SEGMENT_BYTES), Kind::Endpoints).unwrap()
}

fn read(reader: &Reader) -> (u64, Option<u64>) {
    loop {
        match reader.read() {
            Ok((generation, Snapshot::Payload(bytes))) => {
                return (generation, Some(seed_of(&bytes)));
            }
            Ok((generation, Snapshot::Absent)) => return (generation, None),
            Err(ReadError::Lapped) => {}
            Err(ReadError::Damaged) => panic!("damaged"),
        }
    }
}

#[test]
fn child() {
    match inherited() {
        Some((role, fd)) if role == "writer" => publish_for_ever(&fd),
        Some((role, fd)) if role == "reader" => read_until_farewell(&fd),
        _ => {}
    }
}

fn publish_for_ever(fd: &OwnedFd) {
    let mut writer = writer(fd);
    let mut seed = u64::from(std::process::id()) << 32;
    memory::until_orphaned(|| {
        seed += 1;
        match writer.publish(&payload(seed, 200 + (seed % 3000) as usize)) {
            Ok(_) => {}
            Err(Error::Fenced) => std::process::exit(FENCED),
            Err(e) => panic!("{e}"),
        }
    });
}

fn read_until_farewell(fd: &OwnedFd) {
    let reader = reader(fd);
    let mut last = (0, None);
    memory::until_orphaned(|| {
        let now = read(&reader);
        assert!(now.0 >= last.0, "{now:?} after {last:?}");
        last = now;
        if now.1 == Some(FAREWELL) {
            std::process::exit(0);
        }
    });
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn stop(child: &Child) {
    kill_process(pid(child), Signal::STOP).unwrap();
    let (_, status) = waitpid(Some(pid(child)), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped(), "{status:?}");
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_whole_snapshot_and_a_table_that_goes_on() {
    let fd = segment(SEGMENT_BYTES);
    writer(&fd).publish(&payload(1, 1)).unwrap();
    let reader = reader(&fd);
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut last = read(&reader);
    let mut own = 1;
    for _ in 0..25 {
        let mut child = spawn("writer", &fd);
        let id = u64::from(child.id());
        let writes = |seed: Option<u64>| seed.is_some_and(|s| s >> 32 == id);
        let mut see = || {
            let now = read(&reader);
            assert!(now.0 >= last.0, "{now:?} after {last:?}");
            assert_eq!(now.0 == last.0, now.1 == last.1, "a generation is one snapshot for ever");
            last = now;
            now
        };
        wait_until("the new writer published", || writes(see().1));
        for _ in 0..dice.below(20) {
            see();
        }
        for _ in 0..dice.below(20_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let left = see();
        assert!(writes(left.1));
        assert_eq!(see(), left, "the dead change nothing");

        let mut successor = writer(&fd);
        assert_eq!(see(), left);
        for _ in 0..dice.below(4) {
            own += 1;
            let generation = successor.publish(&payload(own, 77)).unwrap();
            assert_eq!(see(), (generation, Some(own)));
        }
    }
}

#[test]
fn a_writer_that_was_stopped_wakes_up_fenced() {
    let fd = segment(SEGMENT_BYTES);
    writer(&fd).publish(&payload(1, 1)).unwrap();
    let reader = reader(&fd);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..10 {
        let mut child = spawn("writer", &fd);
        let id = u64::from(child.id());
        wait_until("the new writer published", || read(&reader).1.is_some_and(|seed| seed >> 32 == id));
        for _ in 0..dice.below(20_000) {
            std::hint::spin_loop();
        }
        stop(&child);
        let mut successor = writer(&fd);
        let mut seed = round;
        for _ in 0..=round % 2 {
            seed += 100;
            successor.publish(&payload(seed, 500)).unwrap();
        }
        kill_process(pid(&child), Signal::CONT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(FENCED));
        assert_eq!(read(&reader).1, Some(seed));
        let generation = successor.publish(&payload(7, 7)).unwrap();
        assert_eq!(read(&reader), (generation, Some(7)));
    }
}

#[test]
fn a_reader_stopped_across_a_thousand_publishes_never_sees_a_mix() {
    let fd = segment(SEGMENT_BYTES);
    let mut writer = writer(&fd);
    let mut seed = 0;
    let mut publish = |times: usize| {
        for _ in 0..times {
            seed += 1;
            writer.publish(&payload(seed, 100 + (seed % 900) as usize)).unwrap();
        }
    };
    publish(1);
    let mut child = spawn("reader", &fd);
    let mut dice = Dice(77);
    for _ in 0..5 {
        publish(20 + dice.below(50) as usize);
        stop(&child);
        publish(1_000);
        kill_process(pid(&child), Signal::CONT).unwrap();
    }
    writer.publish(&payload(FAREWELL, 10)).unwrap();
    assert!(child.wait().unwrap().success());
}
