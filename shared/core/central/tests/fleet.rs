//! The simulated fleet, small: what must come out whatever the figures are.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use pannier_central::fleet::{Outcome, Parameters, Peaks, run};

/// Fifty hosts in the hour of everybody's peak, and a Central that can do a quarter of what they would send it.
fn evening(tokens: bool) -> Parameters {
    let mut parameters = Parameters { hosts: 50, from_h: 19.5, hours: 1.0, ..Parameters::default() };
    parameters.central.cores = 10.0;
    parameters.central.tokens = tokens;
    parameters
}

fn day(peaks: Peaks) -> Parameters {
    let mut parameters = Parameters { hosts: 50, ..Parameters::default() };
    parameters.central.cores = 10.0;
    parameters.load.peaks = peaks;
    parameters
}

fn ran(parameters: &Parameters) -> Outcome {
    run(parameters).unwrap()
}

#[test]
fn with_tokens_a_central_is_never_sent_more_than_it_can_do() {
    let outcome = ran(&evening(true));
    let central = outcome.central;
    assert!(central.most_offered > 0.75 * central.can, "it is used: {central:?}");
    assert!(central.most_offered <= central.can, "{central:?}");
    assert!(central.failed == 0.0 && central.broken_s == 0.0 && central.worst_minute > 0.999, "{central:?}");
    assert!(outcome.here.starving_s < outcome.alone.starving_s, "and hosts are better off");
}

#[test]
fn without_tokens_it_breaks_down_at_the_peak_that_is_everybodys() {
    let mut parameters = evening(false);
    parameters.central.slow_ms = 1e6; // nobody takes his work back because it is slow
    let central = ran(&parameters).central;
    assert!(central.most_offered > 2.0 * central.can, "{central:?}");
    assert!(central.worst_minute < 0.01 && central.broken_s > 1_800.0, "{central:?}");
    assert!(central.failed > 0.9 * central.offered, "{central:?}");
}

#[test]
fn without_tokens_hosts_that_flee_a_slow_central_come_and_go() {
    let (with, without) = (ran(&evening(true)), ran(&evening(false)));
    assert!(without.bouts > 10 * with.bouts, "{} and {}", without.bouts, with.bouts);
    assert!(without.central.longest_wait_ms > 500.0 && with.central.longest_wait_ms < 1.0);
}

#[test]
fn a_central_that_claims_twice_what_it_can_do_is_saved_by_its_own_pressure() {
    let mut parameters = evening(true);
    parameters.central.granted = 2.0;
    let central = ran(&parameters).central;
    assert!(central.most_offered > central.can, "it was sent too much: {central:?}");
    assert!(central.broken_s < 60.0 && central.failed < 0.01 * central.offered, "{central:?}");
}

#[test]
fn several_share_what_one_would_do() {
    let one = ran(&evening(true));
    let mut parameters = evening(true);
    (parameters.central.count, parameters.central.cores) = (4, 2.5);
    let four = ran(&parameters);
    assert!((four.central.can - one.central.can).abs() < 1.0);
    assert!((four.central.served / one.central.served - 1.0).abs() < 0.02, "{:?} {:?}", four.central, one.central);
    assert!(four.central.most_offered <= four.central.can && four.central.failed == 0.0);
}

#[test]
fn peaks_that_do_not_coincide_share_a_central() {
    let (together, apart) = (ran(&day(Peaks::Correlated)), ran(&day(Peaks::Spread)));
    assert!(apart.relieved > together.relieved + 0.1, "{} and {}", apart.relieved, together.relieved);
    assert!(apart.saved_each > 2.0 * apart.saved.most, "what they need together is less than what each needs alone");
}

#[test]
fn tokens_that_calm_hosts_hold_are_missing_where_they_are_needed() {
    let mut parameters = day(Peaks::Spread);
    parameters.central.cores = 5.0;
    let needed = ran(&parameters);
    (parameters.central.warm, parameters.central.standby) = (1.25, 0.1);
    let held = ran(&parameters);
    assert!(held.relieved < 0.9 * needed.relieved, "{} and {}", held.relieved, needed.relieved);
    assert!(held.central.served < 0.9 * needed.central.served && held.central.failed == 0.0);
}

#[test]
fn no_host_turns_around_twice_within_a_dwell() {
    let outcome = ran(&evening(true));
    assert!(outcome.reversals >= 25, "many have left: {}", outcome.reversals);
    assert!(outcome.most_reversals <= 3_600 / 24 + 1, "{}", outcome.most_reversals);
}

#[test]
fn the_same_seed_is_the_same_day() {
    let text = |seed| format!("{:?}", ran(&Parameters { seed, hours: 0.2, ..evening(true) }));
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn requests_are_counted_once_whatever_becomes_of_them() {
    let outcome = ran(&evening(true));
    let sum = |r: pannier_central::fleet::Requests| r.served + r.late + r.shed;
    assert!((sum(outcome.here) / sum(outcome.alone) - 1.0).abs() < 1e-9);
    let mut parameters = evening(false);
    parameters.central.slow_ms = 1e6;
    let central = ran(&parameters).central;
    assert!((central.served + central.failed) / central.offered > 0.99, "{central:?}");
    assert!((central.served + central.failed) / central.offered < 1.001, "{central:?}");
}

#[test]
fn numbers_that_no_fleet_has_are_refused() {
    type Change = fn(&mut Parameters);
    let cases: [(&str, Change); 6] = [
        ("hosts = 0", |p| p.hosts = 0),
        ("hours = inf", |p| p.hours = f64::INFINITY),
        ("load.night = NaN", |p| p.load.night = f64::NAN),
        ("host.app_us = 0", |p| p.host.app_us = 0.0),
        ("central.cores = -1", |p| p.central.cores = -1.0),
        ("controller: leave.share = 2", |p| p.controller.leave.share = 2.0),
    ];
    for (said, change) in cases {
        let mut parameters = Parameters::default();
        change(&mut parameters);
        let why = run(&parameters).unwrap_err();
        assert!(why.starts_with(said), "{why}");
    }
}
