//! Tokens: what is promised is kept, never too much of it, and shared fairly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use pannier_central::ledger::{ASKS_A_SECOND, Grant, LEASE_MS, Ledger, PASS_MS, Refused};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CAPACITY: f64 = 1_000.0;
const NEARLY: f64 = 1e-6;

fn rate(ledger: &mut Ledger, now_ms: u64, who: u64, want: f64) -> f64 {
    ledger.want(now_ms, who, want).unwrap().rate
}

#[test]
fn who_is_alone_gets_what_he_wants_for_two_seconds() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    let grant = ledger.want(5_000, 1, 300.0).unwrap();
    assert_eq!(grant, Grant { rate: 300.0, until_ms: 7_000, then: 300.0, then_until_ms: 7_000 });
    assert_eq!((ledger.granted(), ledger.headroom(), ledger.hosts()), (300.0, 700.0, 1));
    assert_eq!((grant.at(6_999), grant.at(7_000)), (300.0, 0.0));
    ledger.expire(7_000);
    assert_eq!((ledger.granted(), ledger.headroom(), ledger.hosts()), (0.0, CAPACITY, 0));
}

#[test]
fn a_late_comer_waits_for_a_lease_and_then_has_his_share() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    assert_eq!(rate(&mut ledger, 0, 1, CAPACITY), CAPACITY);
    assert_eq!(rate(&mut ledger, 100, 2, CAPACITY), 0.0, "everything is promised");
    let cut = ledger.want(250, 1, CAPACITY).unwrap();
    assert_eq!((cut.rate, cut.until_ms), (CAPACITY, LEASE_MS), "what is promised stays, and is not renewed");
    assert_eq!((cut.then, cut.then_until_ms), (CAPACITY / 2.0, 250 + LEASE_MS), "and he need not stop in between");
    assert_eq!(rate(&mut ledger, 350, 2, CAPACITY), 0.0);
    assert_eq!(rate(&mut ledger, LEASE_MS, 2, CAPACITY), CAPACITY / 2.0);
    assert_eq!(rate(&mut ledger, LEASE_MS, 1, CAPACITY), CAPACITY / 2.0);
}

#[test]
fn a_cut_told_as_one_rate_leaves_no_gap_between_asks() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    rate(&mut ledger, 0, 1, CAPACITY);
    rate(&mut ledger, 1, 2, CAPACITY);
    let mut seen = vec![];
    for now in (250..6_000).step_by(250) {
        let (rate, until) = ledger.want(now, 1, CAPACITY).unwrap().as_one(now, 300);
        ledger.want(now, 2, CAPACITY).unwrap();
        assert!(rate > 0.0 && until > now + 300, "{rate} until {until} at {now}");
        seen.push(rate);
    }
    assert_eq!((seen.first(), seen.last()), (Some(&CAPACITY), Some(&(CAPACITY / 2.0))));
}

#[test]
fn who_wants_less_than_his_share_is_not_cut() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    for now in (0..10_000).step_by(500) {
        for (who, want) in [(1, 900.0), (2, 900.0), (3, 100.0)] {
            ledger.want(now, who, want).unwrap();
        }
    }
    let told = [(1, 900.0), (2, 900.0), (3, 100.0)].map(|(who, want)| rate(&mut ledger, 10_000, who, want));
    assert_eq!(told, [450.0, 450.0, 100.0]);
}

#[test]
fn who_wants_less_gives_back_at_once_and_who_leaves_gives_back_all() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    rate(&mut ledger, 0, 1, CAPACITY);
    assert_eq!(rate(&mut ledger, 10, 1, 400.0), 400.0);
    assert_eq!(rate(&mut ledger, 20, 2, 600.0), 600.0);
    ledger.leave(1);
    assert_eq!((ledger.granted(), ledger.hosts()), (600.0, 1));
    ledger.leave(1);
    assert_eq!(ledger.granted(), 600.0, "twice is once");
}

#[test]
fn what_is_no_rate_is_clipped() {
    for (want, told) in
        [(f64::NAN, 0.0), (-1.0, 0.0), (f64::NEG_INFINITY, 0.0), (f64::INFINITY, CAPACITY), (1e300, CAPACITY)]
    {
        let mut ledger = Ledger::new(CAPACITY, 10);
        assert_eq!(rate(&mut ledger, 0, 1, want), told, "{want}");
        assert!(ledger.granted().is_finite());
    }
    for capacity in [f64::NAN, -1.0, f64::INFINITY] {
        assert_eq!(rate(&mut Ledger::new(capacity, 10), 0, 1, 5.0), 0.0, "{capacity}");
    }
}

#[test]
fn a_host_too_many_is_turned_away_until_one_has_gone() {
    let mut ledger = Ledger::new(CAPACITY, 2);
    rate(&mut ledger, 0, 1, 1.0);
    rate(&mut ledger, 1_000, 2, 1.0);
    assert_eq!(ledger.want(1_500, 3, 1.0), Err(Refused::Full));
    assert_eq!(rate(&mut ledger, 1_500, 2, 1.0), 1.0, "who is in stays in");
    assert_eq!(rate(&mut ledger, LEASE_MS, 3, 1.0), 1.0);
    assert_eq!((ledger.turned_away(), ledger.hosts()), (1, 2));
}

#[test]
fn a_flood_is_refused_and_takes_nothing_from_others() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    rate(&mut ledger, 0, 2, 100.0);
    let refused = (0..1_000).filter(|now| ledger.want(*now, 1, 50.0 + *now as f64).is_err()).count();
    assert_eq!(refused, 1_000 - ASKS_A_SECOND as usize);
    assert_eq!(ledger.floods(), refused as u64);
    assert_eq!(ledger.want(999, 1, 50.0), Err(Refused::Flood));
    assert_eq!(rate(&mut ledger, 999, 2, 100.0), 100.0);
    assert_eq!(rate(&mut ledger, 1_000, 1, 50.0), 50.0);
}

#[test]
fn pressure_takes_away_once_a_second_and_calm_gives_back_slowly() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    let mut seen = vec![];
    for now in (0..=3_000).step_by(250) {
        ledger.press(now, true);
        seen.push(ledger.in_force());
    }
    assert!((seen[3] - 700.0).abs() < NEARLY && (seen[4] - 490.0).abs() < NEARLY && (seen[12] - 240.1).abs() < NEARLY);
    for now in (3_250..=30_000).step_by(250) {
        ledger.press(now, true);
    }
    assert_eq!(ledger.in_force(), 0.05 * CAPACITY, "never nothing");
    ledger.press(30_250, false);
    assert!((ledger.in_force() - 55.0).abs() < NEARLY);
    ledger.press(3_600_000, false);
    assert!((ledger.in_force() - 75.0).abs() < NEARLY, "a second's worth at the most, however long nobody looked");
    for now in (0..60).map(|s| 3_601_000 + 1_000 * s) {
        ledger.press(now, false);
    }
    assert_eq!(ledger.in_force(), CAPACITY);
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let mut ledger = Ledger::new(CAPACITY, 10);
    let grant = ledger.want(10_000, 1, 100.0).unwrap();
    assert_eq!(ledger.want(3, 1, 100.0), Ok(grant));
    ledger.expire(0);
    ledger.press(0, false);
    assert_eq!(ledger.granted(), 100.0);
}

/// One thing that happens to a ledger, some milliseconds after the one before.
#[derive(Clone, Debug)]
enum Event {
    Want(u64, f64),
    Leave(u64),
    Press(bool),
    Expire,
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let want = prop_oneof![8 => 0.0..2.0 * CAPACITY, 1 => Just(f64::INFINITY), 1 => Just(f64::NAN), 1 => Just(-3.0), 2 => Just(0.0)];
    let event = prop_oneof![
        20 => (0_u64..12, want).prop_map(|(who, want)| Event::Want(who, want)),
        1 => (0_u64..12).prop_map(Event::Leave),
        2 => any::<bool>().prop_map(Event::Press),
        1 => Just(Event::Expire),
    ];
    let later = prop_oneof![6 => 0_u64..120, 1 => 0_u64..3_000];
    prop::collection::vec((later, event), 1..250)
}

/// What the hosts believe: the last that each was told.
#[derive(Default)]
struct Told(BTreeMap<u64, Grant>);

impl Told {
    fn live(&self, now_ms: u64) -> f64 {
        self.0.values().map(|grant| grant.at(now_ms)).sum()
    }
}

/// Asks, and holds against the promises what is answered.
fn ask(ledger: &mut Ledger, told: &mut Told, now: u64, who: u64, want: f64) -> Result<(), TestCaseError> {
    let others = told.live(now);
    let before = told.0.get(&who).copied();
    let held = before.map_or(0.0, |grant| grant.at(now));
    let Ok(grant) = ledger.want(now, who, want) else { return Ok(()) };
    let clipped = if want.is_nan() { 0.0 } else { want.clamp(0.0, CAPACITY) };
    prop_assert!(grant.rate.is_finite() && grant.then.is_finite());
    prop_assert!(0.0 <= grant.then && grant.then <= grant.rate && grant.rate <= clipped);
    prop_assert!(now < grant.then_until_ms && grant.then_until_ms <= now + LEASE_MS);
    if let Some(before) = before {
        for at in [now, before.until_ms.saturating_sub(1)].into_iter().filter(|at| now <= *at && *at < before.until_ms)
        {
            prop_assert!(grant.at(at) >= before.rate.min(clipped) - NEARLY, "cut: {before:?} -> {grant:?} at {now}");
        }
    }
    if grant.rate > held + NEARLY {
        let promised = others - held + grant.rate;
        prop_assert!(promised <= ledger.in_force() + NEARLY, "raised to {promised} of {}", ledger.in_force());
    }
    told.0.insert(who, grant);
    Ok(())
}

fn happen(ledger: &mut Ledger, told: &mut Told, now: u64, event: &Event) -> Result<(), TestCaseError> {
    match *event {
        Event::Want(who, want) => ask(ledger, told, now, who, want)?,
        Event::Leave(who) => {
            ledger.leave(who);
            told.0.remove(&who);
        }
        Event::Press(pressed) => ledger.press(now, pressed),
        Event::Expire => ledger.expire(now),
    }
    Ok(())
}

/// Max-min shares by definition: raise everybody alike until he has what he wants or nothing is left.
fn fair(wants: &[f64], what_there_is: f64) -> Vec<f64> {
    let (mut low, mut high) = (0.0, CAPACITY);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        let sum: f64 = wants.iter().map(|want| want.min(middle)).sum();
        if sum <= what_there_is { low = middle } else { high = middle }
    }
    wants.iter().map(|want| want.min(low)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is asked, in whatever order: live promises never exceed the capacity, and no promise is broken.
    #[test]
    fn never_more_is_promised_than_there_is(events in events()) {
        let (mut ledger, mut told, mut now) = (Ledger::new(CAPACITY, 9), Told::default(), 0);
        for (later, event) in &events {
            now += later;
            happen(&mut ledger, &mut told, now, event)?;
            prop_assert!(told.live(now) <= CAPACITY + NEARLY, "{} at {now}", told.live(now));
            prop_assert!(ledger.granted() >= told.live(now) - NEARLY, "the ledger forgot a promise");
            prop_assert!(ledger.hosts() <= 9);
        }
    }

    /// Once wants stand still, a lease later (and two asks: one that is told the share, one that takes what was freed)
    /// everybody has his max-min share of what is given out, so nothing lies idle that somebody wants.
    #[test]
    fn shares_are_fair_a_lease_later(
        events in events(),
        wants in prop::collection::vec(prop_oneof![4 => 0.0..CAPACITY, 1 => Just(0.0), 1 => 0.0..20.0], 1..9),
        every in 60_u64..1_000,
        pressed in 0_u64..4,
    ) {
        let (mut ledger, mut told, mut now) = (Ledger::new(CAPACITY, 20), Told::default(), 0);
        for (later, event) in &events {
            now += later;
            happen(&mut ledger, &mut told, now, event)?;
        }
        for _ in 0..pressed {
            now += 1_000;
            ledger.press(now, true);
        }
        // Who was there before and asks no more is gone after a lease; a second's asks of his are over by then as well.
        now += 1_000;
        let settled = now + LEASE_MS + 2 * (every + PASS_MS) + LEASE_MS;
        while now < settled {
            for (who, want) in wants.iter().enumerate() {
                ask(&mut ledger, &mut told, now + who as u64, who as u64, *want)?;
            }
            now += every;
        }
        let share = fair(&wants, ledger.in_force());
        for (who, share) in share.iter().enumerate() {
            let has = told.0[&(who as u64)].at(now - every + 20);
            prop_assert!((has - share).abs() < 1e-3, "{who} has {has} of {share}; wants {wants:?}, in force {}", ledger.in_force());
        }
    }
}
