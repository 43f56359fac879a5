//! A table: old or new and never a mix, a fenced writer that changes nothing, and what it spoilt repaired.

use std::sync::atomic::{AtomicBool as StdBool, Ordering as StdOrdering};

use super::{both, prove};
use crate::Error;
use crate::kind::Kind;
use crate::map::Mapping;
use crate::snapshot::{ReadError, Reader, SEGMENT_BYTES, Snapshot, Writer};

const KIND: Kind = Kind::Base;

fn writer(map: &Mapping) -> Writer {
    Writer::take_over(map.clone(), KIND).expect("a table")
}

fn reader(map: &Mapping) -> Reader {
    Reader::new(map.clone(), KIND).expect("a table")
}

/// Two words that belong together.
fn payload(seed: u8) -> Vec<u8> {
    let mut bytes = vec![seed; 16];
    bytes[8] = !seed;
    bytes
}

/// The seed of what a reader finds, which must be whole; 0 for none.
fn in_force(reader: &Reader) -> Result<u8, ReadError> {
    reader.read().map(|(_, snapshot)| {
        let Snapshot::Payload(bytes) = snapshot else { return 0 };
        assert_eq!(bytes, payload(bytes[0]), "a mix");
        bytes[0]
    })
}

#[test]
fn a_reader_sees_the_old_one_or_the_new_one_and_never_goes_back() {
    prove(None, || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let mut writer = writer(&map);
        writer.publish(&payload(1)).expect("in office");
        let (reader, last) = (reader(&map), reader(&map));
        both(
            move || writer.publish(&payload(2)).expect("in office"),
            move || {
                let first = in_force(&reader).expect("one publish laps nobody");
                let second = in_force(&reader).expect("one publish laps nobody");
                assert!([(1, 1), (1, 2), (2, 2)].contains(&(first, second)), "{first}, then {second}");
            },
        );
        assert_eq!(in_force(&last), Ok(2));
    });
}

#[test]
fn a_reader_that_is_lapped_knows_it_and_takes_it_for_no_damage() {
    static LAPPED: StdBool = StdBool::new(false);
    prove(Some(3), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let mut writer = writer(&map);
        writer.publish(&payload(1)).expect("in office");
        let (reader, last) = (reader(&map), reader(&map));
        both(
            move || {
                for seed in 2..=4 {
                    writer.publish(&payload(seed)).expect("in office");
                }
            },
            move || match in_force(&reader) {
                Ok(seed) => assert!((1..=4).contains(&seed)),
                Err(error) => {
                    assert_eq!(error, ReadError::Lapped);
                    LAPPED.store(true, StdOrdering::Relaxed);
                }
            },
        );
        assert_eq!(in_force(&last), Ok(4));
    });
    assert!(LAPPED.load(StdOrdering::Relaxed));
}

/// The older one is anywhere in its first publish, which so far had the same number as the newer one's.
#[test]
fn an_older_writer_is_fenced_whenever_the_newer_one_comes() {
    static WAS_FENCED: StdBool = StdBool::new(false);
    static WAS_FIRST: StdBool = StdBool::new(false);
    prove(Some(3), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        writer(&map).publish(&payload(1)).expect("in office");
        let mut old = writer(&map);
        let (meanwhile, last) = (reader(&map), reader(&map));
        let ((), mut new) = both(
            move || match old.publish(&payload(2)) {
                Ok(_) => WAS_FIRST.store(true, StdOrdering::Relaxed),
                Err(Error::Fenced) => WAS_FENCED.store(true, StdOrdering::Relaxed),
                Err(error) => panic!("{error}"),
            },
            move || {
                let mut new = writer(&map);
                new.publish(&payload(3)).expect("the newest");
                // The older one may have spoilt the slot; then that is seen, and nothing else is.
                assert!(matches!(in_force(&meanwhile), Ok(3) | Err(ReadError::Damaged)));
                new
            },
        );
        assert!(matches!(in_force(&last), Ok(3) | Err(ReadError::Damaged)));
        new.heartbeat();
        assert_eq!(in_force(&last), Ok(3));
    });
    assert!(WAS_FENCED.load(StdOrdering::Relaxed) && WAS_FIRST.load(StdOrdering::Relaxed));
}

/// The older one wakes up at any moment of three publishes of the newer one, whose last one takes the slot that it fills.
#[test]
fn what_a_writer_spoils_that_woke_late_is_repaired_at_the_next_heartbeat() {
    static SPOILT: StdBool = StdBool::new(false);
    prove(Some(2), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let mut old = writer(&map);
        old.publish(&payload(1)).expect("in office");
        let last = reader(&map);
        let (_, mut new) = both(
            move || old.publish(&payload(2)).is_ok(),
            move || {
                let mut new = writer(&map);
                for seed in 3..=5 {
                    new.publish(&payload(seed)).expect("the newest");
                }
                new
            },
        );
        match in_force(&last) {
            Ok(seed) => assert_eq!(seed, 5),
            Err(error) => {
                SPOILT.store(true, StdOrdering::Relaxed);
                assert_eq!(error, ReadError::Damaged);
            }
        }
        new.heartbeat();
        assert_eq!(in_force(&last), Ok(5));
    });
    assert!(SPOILT.load(StdOrdering::Relaxed), "or the repair is not proven");
}

#[test]
fn of_two_who_take_over_at_once_one_stays_and_no_other_is_in_force() {
    prove(Some(2), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        drop(writer(&map));
        let last = reader(&map);
        let race = |seed| {
            let map = map.clone();
            move || {
                let mut racer = writer(&map);
                let published = racer.publish(&payload(seed)).is_ok();
                (racer, published.then_some(seed))
            }
        };
        let ((mut one, first), (mut two, second)) = both(race(1), race(2));
        match in_force(&last) {
            Ok(seed) => assert!([first, second].contains(&Some(seed)), "{seed} is of a writer that was fenced"),
            Err(error) => assert_eq!(error, ReadError::Damaged),
        }
        let stays = [one.publish(&payload(3)).is_ok(), two.publish(&payload(3)).is_ok()];
        assert!(stays == [true, false] || stays == [false, true]);
        assert_eq!(in_force(&last), Ok(3));
    });
}

#[test]
fn a_table_is_laid_out_whoever_comes_first() {
    prove(Some(3), || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let (first, second, last) = (map.clone(), map.clone(), map.clone());
        both(
            move || drop(writer(&first)),
            move || {
                match Reader::new(second.clone(), KIND) {
                    Ok(reader) => assert_eq!(reader.read(), Ok((0, Snapshot::Absent))),
                    Err(Error::Layout(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                drop(writer(&second));
            },
        );
        assert_eq!(in_force(&reader(&last)), Ok(0));
    });
}
