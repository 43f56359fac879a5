//! Breakers and ejections over a real segment: each step against a plain model of it, and races that exactly one wins.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../table/tests/memory/mod.rs"]
mod memory;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use memory::{segment, writable};
use pannier_decide::breaker::{
    Change, Ended, FailurePolicy, PROBE_MS, Seen, Verdict, admit, ejection, has_room, penalty_ms, return_probe, step,
    take_probe, verdict,
};
use pannier_decide::schema::limits::{Breaker, Outlier, ServiceBreaker};
use pannier_table::hot::{History, HotWords, Place, SEGMENT_BYTES, State, Streak, Word};
use proptest::prelude::*;

const HERE: Place = Place { slot: 9, incarnation: 3 };
const NOW: u64 = 1_000_000;
const BREAKER: Breaker =
    Breaker { consecutive_failures: 7, penalty_min_ms: 1_000, penalty_max_ms: 60_000, jitter: 0.5 };
const OUTLIER: Outlier = Outlier {
    consecutive_5xx: 5,
    consecutive_gateway_failure: 5,
    consecutive_local_origin_failure: 5,
    enforcing_consecutive_5xx: 100.0,
    enforcing_consecutive_gateway_failure: 0.0,
    enforcing_consecutive_local_origin_failure: 100.0,
    base_ejection_ms: 30_000,
    max_ejection_ms: 300_000,
    interval_ms: 10_000,
    max_ejected_percent: 10.0,
};
const CIRCUIT: ServiceBreaker =
    ServiceBreaker { slot: HERE.slot, incarnation: HERE.incarnation, open_ms: 60_000, half_open_calls: 10 };

fn words(fd: &OwnedFd) -> HotWords {
    HotWords::new(writable(fd, SEGMENT_BYTES)).unwrap()
}

fn fresh() -> HotWords {
    words(&segment(SEGMENT_BYTES))
}

fn set(words: &HotWords, state: State, until_ms: u64) {
    words.change(HERE, NOW, |_| Some(Word { state, until_ms })).unwrap();
}

fn ended(now_ms: u64, seen: Seen) -> Ended {
    Ended { now_ms, seen, was_probe: false, random: 0.0 }
}

fn probed(now_ms: u64, seen: Seen) -> Ended {
    Ended { was_probe: true, ..ended(now_ms, seen) }
}

fn no_room() -> bool {
    panic!("a breaker asks for no room")
}

#[test]
fn what_a_word_means_depends_on_the_policy() {
    use Verdict::{Out, Pass, Probe};
    let (breaker, outlier) = (FailurePolicy::Breaker(BREAKER), FailurePolicy::Outlier(OUTLIER));
    let table = [
        (State::Closed, 0, [Pass, Pass, Pass]),
        (State::Open, NOW + 1, [Pass, Out, Out]),
        (State::Open, NOW, [Pass, Probe, Pass]),
        (State::Open, 0, [Pass, Probe, Pass]),
        (State::HalfOpen, NOW + 1, [Pass, Out, Out]),
        (State::HalfOpen, NOW, [Pass, Probe, Pass]),
    ];
    let words = fresh();
    for (state, until_ms, expected) in table {
        set(&words, state, until_ms);
        let found = [&FailurePolicy::None, &breaker, &outlier].map(|policy| verdict(policy, &words, HERE, NOW));
        assert_eq!(found, expected, "{state:?} until {until_ms}");
        let another = Place { incarnation: HERE.incarnation + 1, ..HERE };
        assert_eq!(verdict(&breaker, &words, another, NOW), Pass);
    }
}

#[test]
fn what_an_answer_shows() {
    for (statuses, seen) in [
        (&[100, 200, 204, 301, 404, 429, 499][..], Seen::Success),
        (&[500, 501, 505, 599], Seen::ServerError),
        (&[502, 503, 504], Seen::GatewayError),
    ] {
        assert!(statuses.iter().all(|status| Seen::of_status(*status) == seen), "{seen:?}");
    }
}

#[test]
fn the_seventh_failure_in_a_row_opens() {
    let (words, policy) = (fresh(), FailurePolicy::Breaker(BREAKER));
    for seen in [Seen::ServerError, Seen::GatewayError, Seen::Unanswered] {
        for _ in 0..6 {
            assert_eq!(step(&policy, &words, HERE, &ended(NOW, seen), no_room), Change::None);
        }
        assert_eq!(step(&policy, &words, HERE, &ended(NOW, Seen::Success), no_room), Change::None);
    }
    for _ in 0..6 {
        assert_eq!(step(&policy, &words, HERE, &ended(NOW, Seen::ServerError), no_room), Change::None);
    }
    assert_eq!(step(&policy, &words, HERE, &ended(NOW, Seen::Unanswered), no_room), Change::Opened);
    assert_eq!(words.state(HERE, NOW), Word { state: State::Open, until_ms: NOW + 1_000 });
    assert_eq!(step(&policy, &words, HERE, &ended(NOW, Seen::Unanswered), no_room), Change::None, "it is open already");
    assert_eq!(words.history(HERE, NOW), History { times: 1, at_ms: NOW + 1_000 });
}

#[test]
fn the_penalty_doubles_to_its_bound_and_no_further() {
    let expected = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000];
    for (times, penalty) in expected.into_iter().enumerate() {
        assert_eq!(penalty_ms(&BREAKER, times as u8, 0.0), penalty);
        assert_eq!(penalty_ms(&BREAKER, times as u8, 1.0), penalty * 3 / 2);
    }
    assert_eq!(penalty_ms(&BREAKER, u8::MAX, 0.0), 60_000);
    let long = Breaker { penalty_min_ms: 1 << 40, penalty_max_ms: 1 << 41, ..BREAKER };
    assert_eq!(penalty_ms(&long, u8::MAX, 0.0), 1 << 41);
}

#[test]
fn a_probe_that_is_lost_makes_way_for_another() {
    let (words, policy) = (fresh(), FailurePolicy::Breaker(BREAKER));
    set(&words, State::Open, NOW);
    assert!(take_probe(&policy, &words, HERE, NOW));
    assert!(!take_probe(&policy, &words, HERE, NOW + PROBE_MS - 1));
    assert!(take_probe(&policy, &words, HERE, NOW + PROBE_MS));
    assert_eq!(step(&policy, &words, HERE, &probed(NOW + PROBE_MS, Seen::Success), no_room), Change::Closed);
    assert_eq!(step(&policy, &words, HERE, &probed(NOW + PROBE_MS, Seen::ServerError), no_room), Change::None);
    assert_eq!(words.state(HERE, NOW + PROBE_MS), Word::CLOSED, "what the lost one finds out late is one failure");
}

#[test]
fn only_a_probe_is_given_back() {
    let words = fresh();
    return_probe(&words, HERE, NOW);
    assert_eq!(words.state(HERE, NOW), Word::CLOSED);
    set(&words, State::Open, NOW + 5);
    return_probe(&words, HERE, NOW);
    assert_eq!(words.state(HERE, NOW).until_ms, NOW + 5);
    set(&words, State::HalfOpen, NOW + 5);
    return_probe(&words, HERE, NOW);
    assert_eq!(words.state(HERE, NOW), Word { state: State::Open, until_ms: NOW });
}

#[test]
fn nothing_is_taken_where_nobody_waits_to_be_tried() {
    let (words, outlier) = (fresh(), FailurePolicy::Outlier(OUTLIER));
    assert!(!take_probe(&FailurePolicy::Breaker(BREAKER), &words, HERE, NOW));
    set(&words, State::Open, NOW);
    assert!(!take_probe(&outlier, &words, HERE, NOW) && !take_probe(&FailurePolicy::None, &words, HERE, NOW));
    set(&words, State::Open, NOW + 1);
    assert!(!take_probe(&FailurePolicy::Breaker(BREAKER), &words, HERE, NOW));
}

#[test]
fn each_ejection_lasts_longer_and_quiet_intervals_are_forgiven() {
    let before = |times, at_ms| History { times, at_ms };
    for (history, lasts, times) in [
        (History::default(), 30_000, 1),
        (before(1, NOW), 60_000, 2),
        (before(1, NOW - 9_999), 60_000, 2),
        (before(1, NOW - 10_000), 30_000, 1),
        (before(5, NOW - 20_000), 120_000, 4),
        (before(2, NOW - 500_000), 30_000, 1),
        (before(9, NOW), 300_000, 10),
        (before(200, NOW), 300_000, 201),
        (before(u8::MAX, NOW), 300_000, u8::MAX),
    ] {
        assert_eq!(ejection(&OUTLIER, history, NOW), (NOW + lasts, times), "{history:?}");
    }
}

#[test]
fn there_is_room_for_a_share_but_for_one_if_more_than_one_remains() {
    for (percent, all, most) in [(10.0, 1, 0), (10.0, 2, 1), (10.0, 19, 1), (10.0, 20, 2), (0.0, 5, 1), (29.0, 100, 29)]
    {
        let outlier = Outlier { max_ejected_percent: percent, ..OUTLIER };
        let out = (0..=all).take_while(|out| has_room(&outlier, all, *out)).count();
        assert_eq!(out, most, "{percent} % of {all}");
    }
}

#[test]
fn a_service_breaker_lets_so_many_calls_through_while_it_is_half_open() {
    let words = fresh();
    assert!((0..100).all(|_| admit(&CIRCUIT, &words, NOW)));
    let mut over = NOW;
    for round in 0..3 {
        over = NOW + 100 + round;
        set(&words, State::Open, over);
        assert!(!admit(&CIRCUIT, &words, over - 1));
        let through = (0..50).filter(|_| admit(&CIRCUIT, &words, over)).count();
        assert_eq!(through, 10, "round {round}");
        assert_eq!(words.state(HERE, over).state, State::HalfOpen);
    }
    assert!(!admit(&CIRCUIT, &words, over + CIRCUIT.open_ms - 1));
    assert!(admit(&CIRCUIT, &words, over + CIRCUIT.open_ms), "nobody has judged them");
}

/// Runs `race` in two threads, each with a mapping of its own, after `prepare`, for so many rounds; the sums of a round.
/// They spin, so that both begin within the same instant: a barrier of the kernel lets one go first.
fn races(rounds: usize, prepare: impl Fn(&HotWords) + Sync, race: impl Fn(&HotWords) -> usize + Sync) -> Vec<usize> {
    let fd = segment(SEGMENT_BYTES);
    words(&fd);
    let arrived = AtomicUsize::new(0);
    let meet = |count: usize| {
        arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while arrived.load(Ordering::Acquire) < count {
            spins += 1;
            if spins.is_multiple_of(1_000) { thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    let sums: Vec<_> = (0..rounds).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for is_first in [true, false] {
            let (meet, sums, prepare, race, fd) = (&meet, &sums, &prepare, &race, &fd);
            scope.spawn(move || {
                let words = words(fd);
                for (round, sum) in sums.iter().enumerate() {
                    meet(4 * round + 2);
                    if is_first {
                        prepare(&words);
                    }
                    meet(4 * round + 4);
                    sum.fetch_add(race(&words), Ordering::Relaxed);
                }
            });
        }
    });
    sums.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn of_many_who_would_try_one_does() {
    let policy = FailurePolicy::Breaker(BREAKER);
    let prepare = |words: &HotWords| set(words, State::Open, NOW);
    let taken = races(20_000, prepare, |words| take_probe(&policy, words, HERE, NOW).into());
    assert!(taken.iter().all(|taken| *taken == 1));
}

#[test]
fn of_many_failures_at_once_one_opens() {
    let policy = FailurePolicy::Breaker(Breaker { consecutive_failures: 2, ..BREAKER });
    let prepare = |words: &HotWords| {
        set(words, State::Closed, 0);
        words.step_streak(HERE, |_| Streak::default());
        words.set_history(HERE, History::default());
    };
    let fail = |words: &HotWords| {
        usize::from(step(&policy, words, HERE, &ended(NOW, Seen::ServerError), no_room) == Change::Opened)
    };
    assert!(races(20_000, prepare, fail).iter().all(|opened| *opened == 1));
}

#[test]
fn of_many_failures_at_once_one_ejects() {
    let policy = FailurePolicy::Outlier(Outlier { consecutive_5xx: 1, ..OUTLIER });
    let prepare = |words: &HotWords| {
        set(words, State::Closed, 0);
        words.set_history(HERE, History::default());
    };
    let fail = |words: &HotWords| {
        usize::from(step(&policy, words, HERE, &ended(NOW, Seen::ServerError), || true) == Change::Ejected)
    };
    assert!(races(20_000, prepare, fail).iter().all(|ejected| *ejected == 1));
}

#[test]
fn of_many_calls_at_once_half_open_lets_exactly_so_many_through() {
    let prepare = |words: &HotWords| {
        words.step_streak(HERE, |_| Streak::default());
        set(words, State::Open, NOW);
    };
    let call = |words: &HotWords| (0..20).filter(|_| admit(&CIRCUIT, words, NOW)).count();
    let through = races(50_000, prepare, call);
    let wrong: Vec<_> = through.iter().filter(|count| **count != 10).collect();
    assert!(wrong.is_empty(), "{} rounds let another number through: {:?}", wrong.len(), &wrong[..wrong.len().min(9)]);
}

fn any_seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        2 => Just(Seen::Success),
        1 => Just(Seen::ServerError),
        1 => Just(Seen::GatewayError),
        1 => Just(Seen::Unanswered),
    ]
}

/// What happens next: so many milliseconds pass; then a call is made and shows something, or its caller leaves.
fn any_event() -> impl Strategy<Value = (u64, Option<Seen>, f64)> {
    let pause = prop_oneof![4 => 0..50_u64, 1 => 0..200_000_u64];
    (pause, prop_oneof![9 => any_seen().prop_map(Some), 1 => Just(None)], 0.0..1.0_f64)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_breaker_does_what_its_model_does(
        threshold in 0..5_u16,
        penalty_min_ms in 1..3_000_u64,
        more_ms in 0..30_000_u64,
        jitter in 0.0..=1.0_f64,
        events in prop::collection::vec(any_event(), 1..200),
    ) {
        let penalty_max_ms = penalty_min_ms + more_ms;
        let breaker = Breaker { consecutive_failures: threshold, penalty_min_ms, penalty_max_ms, jitter };
        let (words, policy) = (fresh(), FailurePolicy::Breaker(breaker));
        let (mut now, mut in_a_row, mut times, mut open) = (NOW, 0_u16, 0_u32, None);
        for (pause, seen, random) in events {
            now += pause;
            let expected = match open {
                None => Verdict::Pass,
                Some(until) if now < until => Verdict::Out,
                Some(_) => Verdict::Probe,
            };
            prop_assert_eq!(verdict(&policy, &words, HERE, now), expected);
            let was_probe = expected == Verdict::Probe;
            prop_assert_eq!(take_probe(&policy, &words, HERE, now), was_probe);
            if was_probe {
                prop_assert_eq!(verdict(&policy, &words, HERE, now), Verdict::Out);
                prop_assert!(!take_probe(&policy, &words, HERE, now));
            }
            let Some(seen) = seen else {
                if was_probe {
                    return_probe(&words, HERE, now);
                    open = Some(now);
                }
                continue;
            };
            // Where it is out, this is the end of a call that began before.
            let change = step(&policy, &words, HERE, &Ended { now_ms: now, seen, was_probe, random }, no_room);
            in_a_row = if seen == Seen::Success { 0 } else { in_a_row + 1 };
            let opens = match (seen, expected) {
                (Seen::Success, _) | (_, Verdict::Out) => false,
                (_, Verdict::Probe) => true,
                (_, Verdict::Pass) => threshold > 0 && in_a_row >= threshold,
            };
            if opens {
                let shortest = (u128::from(penalty_min_ms) << times.min(64)).min(u128::from(penalty_max_ms)) as u64;
                let until = words.state(HERE, now).until_ms;
                prop_assert!((shortest..=shortest + (shortest as f64 * jitter) as u64).contains(&(until - now)));
                open = Some(until);
                times += 1;
                prop_assert_eq!(change, Change::Opened);
            } else if was_probe {
                (open, times) = (None, 0);
                prop_assert_eq!(change, Change::Closed);
            } else {
                prop_assert_eq!(change, Change::None);
            }
            prop_assert_eq!(words.streak(HERE).failures, in_a_row);
            prop_assert_eq!(u32::from(words.history(HERE, now).times), times);
        }
    }

    #[test]
    fn an_ejection_does_what_its_model_does(
        thresholds in prop::array::uniform3(0..4_u16),
        enforcing in prop::array::uniform3(prop_oneof![Just(0.0), Just(100.0)]),
        (base_ejection_ms, max_ejection_ms, interval_ms) in (1..5_000_u64, 1..20_000_u64, 1..10_000_u64),
        events in prop::collection::vec((any_event(), any::<bool>()), 1..200),
    ) {
        let outlier = Outlier {
            consecutive_5xx: thresholds[0],
            consecutive_gateway_failure: thresholds[1],
            consecutive_local_origin_failure: thresholds[2],
            enforcing_consecutive_5xx: enforcing[0],
            enforcing_consecutive_gateway_failure: enforcing[1],
            enforcing_consecutive_local_origin_failure: enforcing[2],
            base_ejection_ms,
            max_ejection_ms,
            interval_ms,
            max_ejected_percent: 100.0,
        };
        let (words, policy) = (fresh(), FailurePolicy::Outlier(outlier));
        // How many of each kind since the last ejection, and since the last that was no failure of the kind.
        let (mut now, mut in_a_row, mut times, mut until) = (NOW, [0_u16; 3], 0_u64, 0);
        for ((pause, seen, random), room) in events {
            now += pause;
            let out = now < until;
            prop_assert_eq!(verdict(&policy, &words, HERE, now), if out { Verdict::Out } else { Verdict::Pass });
            let Some(seen) = seen else { continue };
            let kinds =
                [seen != Seen::Success, !matches!(seen, Seen::Success | Seen::ServerError), seen == Seen::Unanswered];
            let change = step(&policy, &words, HERE, &Ended { now_ms: now, seen, was_probe: false, random }, || room);
            let (mut ejects, mut detected) = (false, [false; 3]);
            for kind in 0..3 {
                in_a_row[kind] = if kinds[kind] { in_a_row[kind] + 1 } else { 0 };
                detected[kind] = thresholds[kind] > 0 && in_a_row[kind] >= thresholds[kind];
                ejects |= detected[kind] && enforcing[kind] > 0.0;
            }
            if ejects && room && !out {
                let quiet = if until == 0 { 0 } else { (now - until) / interval_ms };
                times = times.saturating_sub(quiet) + 1;
                until = now + (base_ejection_ms * times).min(max_ejection_ms);
                in_a_row = [0; 3];
                prop_assert_eq!(change, Change::Ejected);
                prop_assert_eq!(words.state(HERE, now), Word { state: State::Open, until_ms: until });
                prop_assert_eq!(words.history(HERE, now), History { times: times as u8, at_ms: until });
            } else {
                prop_assert_eq!(change, Change::None);
                if !(ejects && room) {
                    // A detection without consequence is one: the next takes as many failures again.
                    (0..3).filter(|kind| detected[*kind]).for_each(|kind| in_a_row[kind] = 0);
                }
            }
        }
    }

    #[test]
    fn without_a_policy_no_word_changes(events in prop::collection::vec(any_event(), 1..50), until_ms in any::<u32>()) {
        let words = fresh();
        set(&words, State::Open, u64::from(until_ms));
        let before = (words.state(HERE, NOW), words.streak(HERE), words.history(HERE, NOW));
        for (_, seen, random) in events {
            prop_assert_eq!(verdict(&FailurePolicy::None, &words, HERE, NOW), Verdict::Pass);
            prop_assert!(!take_probe(&FailurePolicy::None, &words, HERE, NOW));
            let Some(seen) = seen else { continue };
            let call = Ended { now_ms: NOW, seen, was_probe: false, random };
            prop_assert_eq!(step(&FailurePolicy::None, &words, HERE, &call, || true), Change::None);
        }
        prop_assert_eq!((words.state(HERE, NOW), words.streak(HERE), words.history(HERE, NOW)), before);
    }

    #[test]
    fn a_step_touches_no_other_place(breaks in any::<bool>(), events in prop::collection::vec(any_seen(), 1..30)) {
        let policy = if breaks { FailurePolicy::Breaker(BREAKER) } else { FailurePolicy::Outlier(OUTLIER) };
        let words = fresh();
        for seen in events {
            step(&policy, &words, HERE, &ended(NOW, seen), || true);
        }
        for slot in [HERE.slot - 1, HERE.slot + 1] {
            let beside = Place { slot, ..HERE };
            prop_assert_eq!(words.state(beside, NOW), Word::CLOSED);
            prop_assert_eq!(words.streak(beside), Streak::default());
            prop_assert_eq!(words.history(beside, NOW), History::default());
        }
    }
}
