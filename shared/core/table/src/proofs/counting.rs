//! Enrolment: a region has one process, the next one inherits what it counted, and no total goes back meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool as StdBool, Ordering as StdOrdering};

use super::{both, prove};
use crate::Error;
use crate::counter_reader::CounterReader;
use crate::counters::{Cell, Enrolment, SEGMENT_BYTES, Sample, WorkerCounters};
use crate::kind::Kind;
use crate::map::Mapping;
use crate::owner::Owner;
use crate::series::{Direction, Key};

/// Processes that live, by their pids; every other one is dead.
const FIRST: Owner = Owner(1 << 32 | 5);
const SECOND: Owner = Owner(2 << 32 | 5);
const DEAD: Owner = Owner(9 << 32 | 5);
const SAMPLE: Sample = Sample { duration_ns: 1, request_bytes: 2, response_bytes: 3 };
const KEY: Key<'static> =
    Key { direction: Direction::Inbound, service: "s", route: "", method: "GET", status: 200, flag: 0, version: 1 };

fn living(pid: u32) -> Option<Owner> {
    [FIRST, SECOND].into_iter().find(|owner| owner.pid() == pid)
}

fn enrol(map: &Mapping, me: Owner) -> Result<Arc<Enrolment>, Error> {
    Enrolment::of(map.clone(), 1, me, living).map(Arc::new)
}

fn total(reader: &CounterReader) -> u64 {
    reader.totals().first().map_or(0, |(_, sum)| *sum)
}

/// One region of a dead process, and a free one: two enrol at once, and each gets one of its own.
#[test]
fn of_two_who_enrol_at_once_each_gets_a_region_and_nothing_is_lost() {
    prove(Some(2), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let dead = enrol(&map, DEAD).expect("a free region");
        WorkerCounters::new(dead, 0).count(Cell::ConnectionsAccepted);
        let reader = CounterReader::new(map.clone()).expect("counters");
        let count = |me| {
            let map = map.clone();
            move || {
                let enrolment = enrol(&map, me).expect("two regions for two");
                WorkerCounters::new(enrolment.clone(), 0).count(Cell::ConnectionsAccepted);
                enrolment.index()
            }
        };
        let (one, other) = both(count(FIRST), count(SECOND));
        assert_ne!(one, other);
        assert_eq!(total(&reader), 3);
        assert!(matches!(Enrolment::of(map, 1, Owner(3 << 32 | 5), living), Err(Error::Full)));
    });
}

/// Somebody reads while a successor takes the region over and counts.
#[test]
fn no_total_goes_back_and_the_heir_has_nothing_in_force_before_it_says_so() {
    static MET: StdBool = StdBool::new(false);
    prove(Some(1), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let dead = enrol(&map, DEAD).expect("a free region");
        dead.set_in_force(Kind::Base, 77);
        WorkerCounters::new(dead, 0).count(Cell::ConnectionsAccepted);
        let reader = CounterReader::new(map.clone()).expect("counters");
        let (reader, ()) = both(
            move || {
                let before = total(&reader);
                for heir in reader.enrolled_of(living).iter().filter(|enrolled| enrolled.alive) {
                    MET.store(true, StdOrdering::Relaxed);
                    assert_eq!((heir.owner, heir.workers), (FIRST, 1));
                    assert!([(Kind::Base, 0), (Kind::Base, 78)].contains(&heir.in_force[0]), "{heir:?}");
                }
                let after = total(&reader);
                assert!((1..=2).contains(&before) && (before..=2).contains(&after), "{before}, then {after}");
                reader
            },
            move || {
                let heir = enrol(&map, FIRST).expect("the dead one's region");
                WorkerCounters::new(heir.clone(), 0).count(Cell::ConnectionsAccepted);
                heir.set_in_force(Kind::Base, 78);
            },
        );
        assert_eq!(total(&reader), 2);
    });
    assert!(MET.load(StdOrdering::Relaxed));
}

/// A series is published by its worker while somebody reads: its labels are whole, or it is not there yet.
#[test]
fn a_series_has_all_its_labels_or_is_not_there() {
    static MET: StdBool = StdBool::new(false);
    prove(Some(2), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let mut worker = WorkerCounters::new(enrol(&map, FIRST).expect("a free region"), 0);
        let reader = CounterReader::new(map).expect("counters");
        let (reader, ()) = both(
            move || {
                for series in reader.series() {
                    MET.store(true, StdOrdering::Relaxed);
                    assert_eq!(series.labels.key(), KEY);
                    assert!(series.count <= 1);
                }
                reader
            },
            move || worker.record(&KEY, &SAMPLE),
        );
        assert_eq!(reader.series().iter().map(|series| series.count).sum::<u64>(), 1);
    });
    assert!(MET.load(StdOrdering::Relaxed));
}
