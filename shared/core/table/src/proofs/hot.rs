//! Hot words: no step is lost, and of two who take the same step one does.

use std::sync::atomic::{AtomicBool as StdBool, Ordering as StdOrdering};

use loom::thread;

use super::{both, prove};
use crate::hot::{HotWords, Place, SEGMENT_BYTES, State, Streak, Word};
use crate::map::Mapping;

const PLACE: Place = Place { slot: 1, incarnation: 7 };

fn words(map: &Mapping) -> HotWords {
    HotWords::new(map.clone()).expect("hot words")
}

fn fail(words: &HotWords) {
    words.step_streak(PLACE, |streak| Streak { failures: streak.failures + 1, ..streak });
}

#[test]
fn no_failure_is_lost_between_two_who_count() {
    prove(None, || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let (one, other, last) = (words(&map), words(&map), words(&map));
        both(move || (0..2).for_each(|_| fail(&one)), move || (0..2).for_each(|_| fail(&other)));
        assert_eq!(last.streak(PLACE).failures, 4);
    });
}

/// Two want to open, a third looks on.
#[test]
fn of_two_who_take_the_same_step_one_does() {
    static EACH: [StdBool; 2] = [StdBool::new(false), StdBool::new(false)];
    let open = |until_ms| Word { state: State::Open, until_ms };
    prove(None, move || {
        let map = Mapping::fresh(SEGMENT_BYTES);
        let (one, other, onlooker, last) = (words(&map), words(&map), words(&map), words(&map));
        let step = move |words: &HotWords, until| {
            words.change(PLACE, 0, |word| (word == Word::CLOSED).then_some(open(until))).is_some()
        };
        let looking = thread::spawn(move || [onlooker.state(PLACE, 0), onlooker.state(PLACE, 0)]);
        let (won, lost) = both(move || step(&one, 2), move || step(&other, 1));
        assert_ne!(won, lost);
        let until = if won { 2 } else { 1 };
        EACH[usize::from(won)].store(true, StdOrdering::Relaxed);
        assert_eq!(last.state(PLACE, 0), open(until));
        let [first, second] = looking.join().expect("no panic");
        assert!([Word::CLOSED, open(until)].contains(&first) && [first, open(until)].contains(&second));
    });
    assert!(EACH.iter().all(|seen| seen.load(StdOrdering::Relaxed)));
}
