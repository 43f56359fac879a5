//! Figures of shared memory that need no other process: `make bench-plane`. With `fill FD` it fills the rings of an inherited
//! segment for a consumer elsewhere, until its standard input ends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use pannier_table::kind::Kind;
use pannier_table::layout::LINE_WORDS;
use pannier_table::map::{Access, Mapping};
use pannier_table::record::{AccessRecord, MAX_RECORD_LINES, Texts};
use pannier_table::ring::{self, Consumer, Producer};
use pannier_table::snapshot::{self, Reader, Snapshot, Writer};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const MESSAGES: u64 = 40_000_000;
const READS: u64 = 10_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            one_way();
            torn_reads();
        }
        ["fill", fd] => fill(fd),
        _ => panic!("plane, or plane fill FD"),
    }
}

fn segment(bytes: usize) -> OwnedFd {
    let fd = memfd_create("plane", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, bytes as u64).unwrap();
    fd
}

fn map(fd: &OwnedFd, bytes: usize) -> Mapping {
    Mapping::new(fd, bytes, Access::Write).unwrap()
}

/// Records of one line from one thread to another, each checked.
fn one_way() {
    let fd = segment(ring::SEGMENT_BYTES);
    let consumer = Consumer::new(map(&fd, ring::SEGMENT_BYTES)).unwrap();
    let mut producer = Producer::new(Arc::new(map(&fd, ring::SEGMENT_BYTES)), 0, 0).unwrap();
    let (mut next, mut wrong) = (0, 0_u64);
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut record = [0; LINE_WORDS];
            for n in 0..MESSAGES {
                (record[0], record[LINE_WORDS - 1]) = (n << 8 | 1, !n);
                while !producer.push(&record) {
                    thread::yield_now();
                }
            }
        });
        while next < MESSAGES {
            let drained = consumer.drain(&[0], 8_192, |words| {
                wrong += u64::from((words[0] >> 8, words[LINE_WORDS - 1]) != (next, !next));
                next += 1;
            });
            if drained.records == 0 {
                thread::yield_now();
            }
        }
    });
    let rate = MESSAGES as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!("ring, one way, two threads: {rate:.1} M messages/s, {wrong} wrong or lost of {MESSAGES}");
}

/// Good reads of a table whose writer never rests.
fn torn_reads() {
    let fd = segment(snapshot::SEGMENT_BYTES);
    let mut writer = Writer::take_over(map(&fd, snapshot::SEGMENT_BYTES), Kind::Base).unwrap();
    let reader = Reader::new(map(&fd, snapshot::SEGMENT_BYTES), Kind::Base).unwrap();
    let done = AtomicBool::new(false);
    let (mut reads, mut torn, mut lapped, mut published) = (0_u64, 0_u64, 0_u64, 0_u64);
    writer.publish(&[0; 512]).unwrap();
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut n = 0_u64;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                let payload: Vec<u8> = n.to_le_bytes().iter().copied().cycle().take(512).collect();
                writer.publish(&payload).unwrap();
            }
            n
        });
        while reads < READS {
            match reader.read() {
                Ok((_, Snapshot::Payload(bytes))) => {
                    reads += 1;
                    torn += u64::from(bytes.len() != 512 || bytes.chunks_exact(8).any(|word| word != &bytes[..8]));
                }
                Ok((_, Snapshot::Absent)) => torn += 1,
                Err(_) => lapped += 1,
            }
        }
        done.store(true, Ordering::Relaxed);
        published = writing.join().unwrap();
    });
    println!("table: {torn} torn reads of {READS}, {lapped} lapped, while {published} snapshots were published");
}

/// Pushes a usual record into every ring of the first region.
fn fill(fd: &str) {
    let file = std::fs::File::options().read(true).write(true).open(format!("/proc/self/fd/{fd}")).unwrap();
    let map = Arc::new(map(&file.into(), ring::SEGMENT_BYTES));
    let mut producers: Vec<_> = (0..16).map(|worker| Producer::new(map.clone(), 0, worker).unwrap()).collect();
    let mut buffer = [0; MAX_RECORD_LINES * LINE_WORDS];
    let texts = Texts { method: "GET", path: "/orders/7", authority: "orders", service: "orders", ..Texts::default() };
    let record =
        AccessRecord { status: 200, version: 1, texts, ..AccessRecord::default() }.encode(&mut buffer).to_vec();
    let ended = Arc::new(AtomicBool::new(false));
    let ends = ended.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        ends.store(true, Ordering::Relaxed);
    });
    while !ended.load(Ordering::Relaxed) {
        let pushed = producers.iter_mut().map(|producer| (0..512).take_while(|_| producer.push(&record)).count());
        if pushed.sum::<usize>() == 0 {
            thread::yield_now();
        }
    }
}
