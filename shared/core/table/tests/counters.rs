//! Counters: totals never go back, whoever dies, and series beyond the limit are counted all the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

mod memory;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use memory::{inherited, readable, segment, spawn, wait_until, writable};
use pannier_table::Error;
use pannier_table::counter_reader::{CounterReader, Series};
use pannier_table::counters::{BLOCKS, Cell, Enrolment, OVERFLOW, SEGMENT_BYTES, Sample, WorkerCounters};
use pannier_table::kind::Kind;
use pannier_table::layout::{MAX_WORKERS, REGIONS};
use pannier_table::series::{Direction, Key};

fn enrol(fd: &OwnedFd, workers: usize) -> Arc<Enrolment> {
    Arc::new(Enrolment::new(writable(fd, SEGMENT_BYTES), workers).unwrap())
}

fn reader(fd: &OwnedFd) -> CounterReader {
    CounterReader::new(readable(fd, SEGMENT_BYTES)).unwrap()
}

fn total(reader: &CounterReader, name: &str) -> u64 {
    let totals = reader.totals();
    totals.iter().find(|(n, _)| *n == name).unwrap().1
}

fn key<'a>(service: &'a str, route: &'a str) -> Key<'a> {
    Key { direction: Direction::Outbound, service, route, method: "GET", status: 200, flag: 0, version: 1 }
}

const SAMPLE: Sample = Sample { duration_ns: 3_000_000, request_bytes: 10, response_bytes: 100 };

fn of<'a>(series: &'a [Series], service: &str) -> &'a Series {
    let mut matching = series.iter().filter(|s| s.labels.service == service);
    let found = matching.next().unwrap();
    assert!(matching.next().is_none(), "{service} is there twice");
    found
}

fn long_route() -> String {
    format!("/{}", "é".repeat(200))
}

#[test]
fn child() {
    let Some((_, fd)) = inherited() else { return };
    let enrolment = enrol(&fd, 2);
    enrolment.set_in_force(Kind::Base, 77);
    enrolment.count_rejected_table();
    let mut workers: Vec<_> = (0..2).map(|i| WorkerCounters::new(enrolment.clone(), i)).collect();
    for worker in &mut workers {
        for _ in 0..10 {
            worker.record(&key("orders", "/o/{id}"), &SAMPLE);
            worker.record(&key("stock", &long_route()), &SAMPLE);
            worker.count(Cell::ConnectionsAccepted);
        }
    }
    workers[1].count(Cell::ConnectionsClosed);
    memory::until_orphaned(|| thread::park_timeout(memory::SOON / 100));
}

#[test]
fn the_next_process_inherits_what_a_dead_one_counted() {
    let fd = segment(SEGMENT_BYTES);
    let first = enrol(&fd, 1);
    assert_eq!(first.index(), 0);
    let reader = reader(&fd);
    for generation in 1..=3 {
        let mut child = spawn("count", &fd);
        wait_until("the child counted", || total(&reader, "connections_closed") == generation);
        let before = reader.enrolled();
        let its = before.iter().find(|e| e.index == 1).unwrap();
        assert_eq!((its.owner.pid(), its.alive), (child.id(), true));
        assert_eq!((its.workers, its.in_force[0]), (2, (Kind::Base, 77)));

        child.kill().unwrap();
        let zombie_is_dead = || reader.enrolled().iter().any(|e| e.index == 1 && !e.alive);
        wait_until("the kernel ended it", zombie_is_dead);
        child.wait().unwrap();

        assert_eq!(total(&reader, "connections_accepted"), generation * 20);
        let series = reader.series();
        assert_eq!(series.len(), 2, "after {generation} deaths: {series:?}");
        let orders = of(&series, "orders");
        assert_eq!(orders.labels.route, "/o/{id}");
        assert_eq!(orders.count, generation * 20);
        assert_eq!(of(&series, "stock").count, generation * 20);
        assert_eq!(reader.enrolled()[1].rejected_tables, generation);
    }

    let heir = enrol(&fd, 1);
    assert_eq!(heir.index(), 1, "the dead one's region, with its values");
    assert_eq!(total(&reader, "connections_accepted"), 60);
    let heirs = &reader.enrolled()[1];
    assert_eq!(heirs.owner.pid(), std::process::id());
    assert_eq!(heirs.in_force[0], (Kind::Base, 0), "the heir has nothing in force before it says so");
    let mut worker = WorkerCounters::new(heir, 0);
    worker.count(Cell::ConnectionsAccepted);
    worker.record(&key("orders", "/o/{id}"), &SAMPLE);
    worker.record(&key("stock", &long_route()), &SAMPLE);
    assert_eq!(total(&reader, "connections_accepted"), 61);
    let series = reader.series();
    assert_eq!(series.len(), 2);
    assert_eq!(of(&series, "orders").count, 61);
    assert_eq!(of(&series, "stock").count, 61);
}

#[test]
fn a_long_label_does_not_use_up_a_block_at_each_inheritance() {
    let fd = segment(SEGMENT_BYTES);
    let enrolment = enrol(&fd, 1);
    let reader = reader(&fd);
    let (long, longer) = (long_route(), long_route() + "/more");
    let restarts = BLOCKS as u64 + 10;
    for n in 1..=restarts {
        let mut worker = WorkerCounters::new(enrolment.clone(), 0);
        worker.record(&key("orders", &long), &SAMPLE);
        worker.record(&key("orders", &longer), &SAMPLE);
        worker.record(&key("orders", &longer), &SAMPLE);
        if n % 100 == 1 {
            assert_eq!(of(&reader.series(), "orders").count, n * 3);
        }
    }
    let series = reader.series();
    assert_eq!(series.len(), 1);
    assert_eq!(of(&series, "orders").count, restarts * 3);
    let kept = &of(&series, "orders").labels.route;
    assert!(long.starts_with(kept.as_str()), "cut at a character: {kept}");
    assert_eq!(total(&reader, "series_overflowed"), 0);
}

#[test]
fn readers_sum_over_workers_and_processes() {
    let fd = segment(SEGMENT_BYTES);
    let reader = {
        let blank = CounterReader::new(readable(&fd, SEGMENT_BYTES));
        assert!(matches!(blank, Err(Error::Layout(_))), "not laid out");
        let _ = CounterReader::new(writable(&fd, SEGMENT_BYTES)).unwrap();
        reader(&fd)
    };
    assert!(reader.series().is_empty() && reader.enrolled().is_empty());
    let (a, b) = (enrol(&fd, MAX_WORKERS), enrol(&fd, 1));
    assert_ne!(a.index(), b.index(), "a live process keeps its region");
    thread::scope(|scope| {
        for enrolment in [a, b] {
            for i in 0..MAX_WORKERS {
                let mut worker = WorkerCounters::new(enrolment.clone(), i);
                scope.spawn(move || {
                    for n in 0..500_u64 {
                        let duration_ns = n * 10_000_000;
                        worker.record(&key("one", ""), &Sample { duration_ns, ..SAMPLE });
                        worker.record(&Key { status: 503, ..key("one", "") }, &SAMPLE);
                        worker.count(Cell::RingRecords);
                    }
                });
            }
        }
    });
    let all = 2 * MAX_WORKERS as u64 * 500;
    let series = reader.series();
    assert_eq!(series.len(), 2);
    for one in &series {
        assert_eq!(one.count, all);
        assert_eq!(one.conventional.iter().sum::<u64>(), all);
        assert_eq!(one.fine.iter().sum::<u64>(), all);
        assert_eq!((one.request_bytes, one.response_bytes), (all * 10, all * 100));
    }
    let varied = series.iter().find(|s| s.labels.status == 200).unwrap();
    assert_eq!(varied.sum_ns, 2 * MAX_WORKERS as u64 * 10_000_000 * (499 * 500 / 2));
    assert_eq!(varied.conventional[0], 2 * MAX_WORKERS as u64, "0 ms alone is below 5 ms");
    assert_eq!(total(&reader, "ring_records"), all);
}

#[test]
fn each_label_distinguishes_a_series() {
    let fd = segment(SEGMENT_BYTES);
    let mut worker = WorkerCounters::new(enrol(&fd, 1), 0);
    let base = key("a", "/r");
    let different = [
        base,
        Key { direction: Direction::Inbound, ..base },
        Key { service: "b", ..base },
        Key { route: "", ..base },
        Key { method: "POST", ..base },
        Key { status: 0, ..base },
        Key { flag: 3, ..base },
        Key { version: 0, ..base },
    ];
    for (n, key) in different.iter().enumerate() {
        for _ in 0..=n {
            worker.record(key, &SAMPLE);
        }
    }
    let series = reader(&fd).series();
    let counts: Vec<_> = series.iter().map(|s| s.count).collect();
    assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 8]);
    for (key, series) in different.iter().zip(&series) {
        let labels = &series.labels;
        assert_eq!(
            (labels.direction, labels.service.as_str(), labels.route.as_str(), labels.method.as_str()),
            (key.direction, key.service, key.route, key.method)
        );
        assert_eq!((labels.status, labels.flag, labels.version), (key.status, key.flag, key.version));
    }
}

#[test]
fn series_beyond_the_limit_are_counted_under_one_name() {
    let fd = segment(SEGMENT_BYTES);
    let enrolment = enrol(&fd, 1);
    let mut worker = WorkerCounters::new(enrolment.clone(), 0);
    let reader = reader(&fd);
    let more = BLOCKS + 100;
    let names: Vec<_> = (0..more).map(|n| format!("service-{n}")).collect();
    for _ in 0..2 {
        for name in &names {
            worker.record(&key(name, ""), &SAMPLE);
        }
    }
    let check = |rounds: u64| {
        let series = reader.series();
        assert_eq!(series.len(), BLOCKS);
        assert_eq!(series.iter().map(|s| s.count).sum::<u64>(), rounds * more as u64);
        assert_eq!(of(&series, OVERFLOW).count, rounds * (more - BLOCKS + 1) as u64);
        assert_eq!(of(&series, "service-0").count, rounds);
    };
    check(2);
    assert!(total(&reader, "series_overflowed") >= 2 * (more - BLOCKS) as u64);

    let mut heir = WorkerCounters::new(enrolment, 0);
    for name in &names {
        heir.record(&key(name, ""), &SAMPLE);
    }
    check(3);
}

#[test]
fn live_processes_are_never_displaced() {
    let fd = segment(SEGMENT_BYTES);
    let held: Vec<_> = (0..REGIONS).map(|_| enrol(&fd, 1)).collect();
    let indices: Vec<_> = held.iter().map(|e| e.index()).collect();
    assert_eq!(indices, (0..REGIONS).collect::<Vec<_>>());
    let refused = Enrolment::new(writable(&fd, SEGMENT_BYTES), 1);
    assert!(matches!(refused, Err(Error::Full)));
    assert!(reader(&fd).enrolled().iter().all(|e| e.alive && e.heartbeat_ms > 0));
}
