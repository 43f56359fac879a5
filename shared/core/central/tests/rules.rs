//! The controller's rules, one by one, on a virtual clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod host;

use host::{DOWN, Host, OPEN, TICK_MS, calm, forced, hot, pressure, without_jitter};
use pannier_central::config::Config;
use pannier_central::controller::{Offer, Reason, State};
use pannier_central::sample::Sample;

/// A host that has shifted everything, its dwell still running.
fn shifted() -> Host {
    let mut host = Host::new(without_jitter());
    host.tick(&calm(), &OPEN);
    host.until(&hot(), &OPEN, |d| d.weight == 100.0);
    host
}

#[test]
fn work_leaves_once_an_input_was_hot_for_two_seconds_and_all_of_it_within_five() {
    let mut host = Host::new(Config::default());
    host.tick(&calm(), &OPEN);
    let waiting = host.over(1_750, &hot(), &OPEN);
    assert_eq!((waiting.state, waiting.weight, waiting.reason), (State::Local, 0.0, Reason::Holding));
    let first = host.tick(&hot(), &OPEN);
    assert_eq!((first.state, first.weight, first.reason), (State::Shifted, 10.0, Reason::HostPressure));
    assert!(first.starving && first.reversals == 1);
    assert_eq!(host.until(&hot(), &OPEN, |d| d.weight == 100.0), 9 * TICK_MS);
}

#[test]
fn each_input_lets_work_leave_and_is_named() {
    let cases = [
        (Sample { host_pressure: Some(25.0), ..Sample::default() }, Reason::HostPressure),
        (Sample { cgroup_pressure: Some(25.0), ..Sample::default() }, Reason::CgroupPressure),
        (Sample { throttled: Some(10.0), ..Sample::default() }, Reason::Throttled),
        (Sample { queue_wait_ms: Some(20.0), ..Sample::default() }, Reason::QueueWait),
        (Sample { host_pressure: Some(30.0), throttled: Some(90.0), ..Sample::default() }, Reason::Throttled),
    ];
    for (sample, reason) in cases {
        let decision = Host::new(Config::default()).over(3_000, &sample, &OPEN);
        assert_eq!((decision.state, decision.reason), (State::Shifted, reason), "{sample:?}");
    }
}

#[test]
fn just_below_every_threshold_nothing_leaves() {
    let sample = Sample {
        host_pressure: Some(24.9),
        cgroup_pressure: Some(24.9),
        throttled: Some(9.9),
        queue_wait_ms: Some(19.9),
        run_delay_ms: Some(5_000.0),
        ..Sample::default()
    };
    let decision = Host::new(Config::default()).over(60_000, &sample, &OPEN);
    assert_eq!((decision.state, decision.reason, decision.reversals), (State::Local, Reason::Calm, 0));
}

#[test]
fn two_seconds_need_not_be_in_a_row_but_lie_within_three() {
    let two_of_three = [true, true, false];
    let one_of_two = [true, false];
    for (pattern, leaves) in [(&two_of_three[..], true), (&one_of_two[..], false)] {
        let mut host = Host::new(Config::default());
        let enters = (0..240).any(|tick| {
            let sample = if pattern[tick % pattern.len()] { hot() } else { calm() };
            host.tick(&sample, &OPEN).state == State::Shifted
        });
        assert_eq!(enters, leaves, "{pattern:?}");
    }
}

#[test]
fn inputs_that_are_hot_in_turn_do_not_add_up() {
    let other = Sample { throttled: Some(80.0), ..Sample::default() };
    let mut host = Host::new(Config::default());
    for tick in 0..240 {
        let decision = host.tick(&if tick % 2 == 0 { other } else { hot() }, &OPEN);
        assert_eq!(decision.state, State::Local);
    }
}

#[test]
fn late_ticks_count_for_the_time_they_took_but_a_second_at_most() {
    let mut host = Host::new(Config::default());
    host.tick(&calm(), &OPEN);
    assert_eq!(host.after(1_000, &hot(), &OPEN).state, State::Local);
    assert_eq!(host.after(1_000, &hot(), &OPEN).state, State::Shifted);

    let mut host = Host::new(Config::default());
    host.tick(&calm(), &OPEN);
    assert_eq!(host.after(1_900, &hot(), &OPEN).state, State::Local);
    assert_eq!(host.after(900, &hot(), &OPEN).state, State::Local);
    assert_eq!(host.after(250, &hot(), &OPEN).state, State::Shifted);
}

#[test]
fn of_a_tick_that_is_half_too_old_half_counts() {
    let mut host = Host::new(Config::default());
    host.tick(&calm(), &OPEN);
    host.after(1_000, &hot(), &OPEN);
    host.after(1_000, &calm(), &OPEN);
    host.after(750, &calm(), &OPEN);
    assert_eq!(host.after(1_000, &hot(), &OPEN).state, State::Local, "1.25 seconds of the last three");
}

#[test]
fn ticks_at_the_same_moment_count_for_nothing() {
    let mut host = Host::new(Config::default());
    let decision = (0..1_000).map(|_| host.after(0, &hot(), &OPEN)).last().unwrap();
    assert_eq!((decision.state, decision.weight), (State::Local, 0.0));
}

#[test]
fn the_weight_stays_while_neither_hot_nor_calm() {
    let mut host = shifted();
    let decision = host.over(300_000, &pressure(18.0), &OPEN);
    assert_eq!((decision.weight, decision.state, decision.reason), (100.0, State::Shifted, Reason::Holding));
}

#[test]
fn work_comes_back_after_fifteen_calm_seconds_five_points_a_second() {
    let mut host = shifted();
    host.over(60_000, &pressure(18.0), &OPEN);
    let last = host.over(14_750, &calm(), &OPEN);
    assert_eq!((last.weight, last.state), (100.0, State::Shifted));
    let first = host.tick(&calm(), &OPEN);
    assert_eq!((first.weight, first.state, first.reason), (98.75, State::Returning, Reason::Calm));
    assert_eq!(host.until(&calm(), &OPEN, |d| d.state == State::Local), 19_750);
    assert_eq!(host.last.unwrap().weight, 0.0);
    assert_eq!(host.last.unwrap().reversals, 2);
}

#[test]
fn one_tick_that_is_not_calm_begins_the_fifteen_seconds_anew() {
    let mut host = shifted();
    host.over(60_000, &pressure(18.0), &OPEN);
    host.over(14_750, &calm(), &OPEN);
    host.tick(&pressure(12.5), &OPEN);
    assert_eq!(host.over(14_750, &calm(), &OPEN).state, State::Shifted);
    assert_eq!(host.tick(&calm(), &OPEN).state, State::Returning);
}

#[test]
fn what_would_come_back_must_find_room() {
    let calm_with = |idle: Option<f64>, returning: f64, other: Option<f64>| Sample {
        host_pressure: Some(2.0),
        throttled: other,
        queue_wait_ms: other,
        idle,
        returning,
        ..Sample::default()
    };
    let cases = [
        ("it finds idle CPU", calm_with(Some(0.6), 0.5, Some(0.0)), true),
        ("a tenth does not, which is ten points of pressure", calm_with(Some(0.4), 0.5, None), true),
        ("an eighth does not", calm_with(Some(0.4), 0.525, None), false),
        ("none of it does", calm_with(Some(0.0), 0.5, None), false),
        ("a quota and a queue do not grow in proportion", calm_with(Some(0.4), 0.41, Some(0.0)), false),
        ("nobody knows what is idle", calm_with(None, 0.9, Some(0.0)), true),
        (
            "a pressure below nothing is none",
            Sample { host_pressure: Some(-1e3), ..calm_with(Some(0.0), 0.5, None) },
            false,
        ),
        ("idle is no number", calm_with(Some(f64::NAN), 0.9, Some(0.0)), true),
    ];
    for (case, sample, comes_back) in cases {
        let mut host = shifted();
        let decision = host.over(60_000, &sample, &OPEN);
        assert_eq!(decision.state != State::Shifted, comes_back, "{case}: {decision:?}");
    }
}

#[test]
fn a_return_stops_while_the_rest_finds_no_room_and_goes_on_when_it_does() {
    let mut host = shifted();
    host.until(&calm(), &OPEN, |d| d.weight < 60.0);
    let weight = host.last.unwrap().weight;
    let crowded = Sample { idle: Some(0.1), returning: 0.5, ..calm() };
    let held = host.over(10_000, &crowded, &OPEN);
    assert_eq!((held.weight, held.state, held.reason), (weight, State::Returning, Reason::Holding));
    assert!(host.tick(&calm(), &OPEN).weight < weight);
}

#[test]
fn there_is_one_reversal_a_dwell_and_the_first_is_at_once() {
    let mut host = Host::new(without_jitter());
    host.tick(&calm(), &OPEN);
    assert_eq!(host.until(&hot(), &OPEN, |d| d.state == State::Shifted), 2_000);
    let entered = host.now_ms;
    let early = host.over(20_000, &calm(), &OPEN);
    assert_eq!((early.state, early.reason, early.weight), (State::Shifted, Reason::Dwelling, 10.0));
    host.until(&calm(), &OPEN, |d| d.state != State::Shifted);
    assert_eq!(host.now_ms - entered, 30_000);
    let left = host.now_ms;
    let again = host.over(20_000, &hot(), &OPEN);
    assert_eq!(again.reason, Reason::Dwelling);
    assert!(again.starving && again.state != State::Shifted && again.weight <= 10.0);
    host.until(&hot(), &OPEN, |d| d.state == State::Shifted);
    assert_eq!(host.now_ms - left, 30_000);
    assert_eq!(host.last.unwrap().reversals, 3);
}

#[test]
fn work_does_not_turn_back_while_the_enter_rule_still_holds() {
    let mut config = without_jitter();
    (config.enter.holds_ms, config.leave.calm_ms) = (1_000, 1_000);
    assert_eq!(config.check(), Ok(()));
    let mut host = Host::new(config);
    host.over(40_000, &hot(), &OPEN);
    let decision = host.over(1_000, &calm(), &OPEN);
    assert_eq!((decision.state, decision.starving), (State::Shifted, true));
    assert_eq!(host.until(&calm(), &OPEN, |d| d.state == State::Returning), 1_250);
}

#[test]
fn the_dwell_is_drawn_within_its_jitter_and_differs_from_host_to_host() {
    let dwells: Vec<u64> = (0..50)
        .map(|seed| {
            let mut host = Host::new(Config::default());
            host.controller = pannier_central::controller::Controller::new(Config::default(), seed);
            host.until(&hot(), &OPEN, |d| d.state == State::Shifted);
            host.until(&calm(), &OPEN, |d| d.state == State::Returning)
        })
        .collect();
    assert!(dwells.iter().all(|ms| (24_000..=36_250).contains(ms)), "{dwells:?}");
    assert!(dwells.iter().max().unwrap() - dwells.iter().min().unwrap() > 6_000, "{dwells:?}");
}

#[test]
fn tokens_bound_the_weight_and_fewer_of_them_bring_it_down_at_once() {
    let mut host = Host::new(Config::default());
    let few = Offer { limit: 35.0, ..OPEN };
    let decision = host.over(10_000, &hot(), &few);
    assert_eq!((decision.weight, decision.reason), (35.0, Reason::NoTokens));
    assert_eq!(host.tick(&calm(), &Offer { limit: 4.0, ..OPEN }).weight, 4.0);
    assert_eq!(host.tick(&hot(), &Offer { limit: 100.0, ..OPEN }).weight, 14.0);
    let none = host.tick(&hot(), &Offer { limit: 0.0, ..OPEN });
    assert_eq!((none.weight, none.reason, none.reversals), (0.0, Reason::NoTokens, 1));
}

#[test]
fn without_tokens_nothing_starts_and_the_caller_learns_that_the_host_starves() {
    let mut host = Host::new(Config::default());
    let decision = host.over(10_000, &hot(), &Offer { limit: 0.0, ..OPEN });
    assert_eq!((decision.state, decision.reason), (State::Local, Reason::NoTokens));
    assert!(decision.starving && decision.reversals == 0);
    assert_eq!(host.tick(&hot(), &OPEN).weight, 10.0);
}

#[test]
fn a_central_that_goes_takes_the_weight_to_nothing_at_once_and_is_no_reversal() {
    let mut host = shifted();
    let down = host.tick(&hot(), &DOWN);
    assert_eq!((down.weight, down.reason, down.reversals), (0.0, Reason::CentralDown, 1));
    assert!(host.over(5_000, &hot(), &DOWN).starving);
    assert_eq!(host.tick(&hot(), &OPEN).weight, 0.0);
    let waited = host.until(&hot(), &OPEN, |d| d.weight > 0.0);
    assert!((500..=1_250).contains(&waited), "{waited}");
    assert_eq!(host.last.unwrap().weight, 10.0);
    assert_eq!(host.last.unwrap().reversals, 1);
}

#[test]
fn from_nothing_it_takes_the_whole_rule_to_rise_again_and_a_hot_tick_is_not_needed() {
    let mut host = shifted();
    host.over(4_000, &pressure(18.0), &DOWN);
    host.over(4_000, &pressure(18.0), &OPEN);
    assert_eq!(host.over(1_750, &hot(), &OPEN).weight, 0.0);
    assert_eq!(host.tick(&hot(), &OPEN).weight, 10.0);

    let mut host = shifted();
    host.over(4_000, &hot(), &DOWN);
    host.over(250, &hot(), &OPEN);
    let waited = host.until(&pressure(18.0), &OPEN, |d| d.weight > 0.0);
    assert!(waited <= 1_000 && host.last.unwrap().reason == Reason::HostPressure, "{waited}");
}

#[test]
fn a_central_that_comes_and_goes_is_waited_for_longer_and_longer() {
    let mut host = shifted();
    let waits: Vec<u64> = (0..8)
        .map(|_| {
            host.over(1_000, &hot(), &DOWN);
            host.until(&hot(), &OPEN, |d| d.weight > 0.0)
        })
        .collect();
    for (n, ms) in waits.iter().enumerate() {
        let whole = (1_000_u64 << n).min(30_000);
        assert!((whole / 2..=whole + 2 * TICK_MS).contains(ms), "{waits:?}");
    }
    host.over(30_000, &hot(), &OPEN);
    host.over(1_000, &hot(), &DOWN);
    assert!(host.until(&hot(), &OPEN, |d| d.weight > 0.0) <= 1_500, "it was well for half a minute");
}

#[test]
fn a_host_that_begins_to_starve_while_a_central_is_not_trusted_yet_stays_at_home() {
    let mut host = Host::new(Config::default());
    for _ in 0..8 {
        host.tick(&calm(), &OPEN);
        host.tick(&calm(), &DOWN);
    }
    let decision = host.over(5_000, &hot(), &OPEN);
    assert_eq!((decision.state, decision.reason, decision.reversals), (State::Local, Reason::CentralDown, 0));
    assert!(decision.starving);
    assert!(host.until(&hot(), &OPEN, |d| d.weight == 10.0) <= 25_000);
}

#[test]
fn a_central_that_comes_back_to_a_host_that_is_calm_by_then_gets_nothing() {
    let mut host = shifted();
    host.over(40_000, &calm(), &DOWN);
    let decision = host.over(10_000, &calm(), &OPEN);
    assert_eq!((decision.weight, decision.state, decision.reason), (0.0, State::Local, Reason::Calm));
}

#[test]
fn a_host_that_starves_without_a_central_says_so_and_enters_the_moment_there_is_one() {
    let mut host = Host::new(Config::default());
    let decision = host.over(10_000, &hot(), &DOWN);
    assert_eq!((decision.state, decision.reason), (State::Local, Reason::CentralDown));
    assert!(decision.starving);
    assert_eq!(host.tick(&hot(), &OPEN).weight, 10.0);
}

#[test]
fn what_is_forced_is_obeyed_at_once_both_ways_and_ends_at_once_on_a_calm_host() {
    let mut host = Host::new(Config::default());
    for round in 0..100 {
        let there = host.tick(&calm(), &forced(40.0));
        assert_eq!((there.weight, there.state, there.reason), (40.0, State::Shifted, Reason::Forced), "{round}");
        let back = host.tick(&calm(), &OPEN);
        assert_eq!((back.weight, back.state, back.reason), (0.0, State::Local, Reason::Calm), "{round}");
    }
    assert_eq!(host.last.unwrap().reversals, 0);
}

#[test]
fn what_is_forced_stays_within_what_there_is() {
    let cases = [
        (250.0, OPEN, 100.0, Reason::Forced),
        (-3.0, OPEN, 0.0, Reason::Forced),
        (f64::INFINITY, OPEN, 100.0, Reason::Forced),
        (60.0, Offer { limit: 20.0, ..OPEN }, 20.0, Reason::NoTokens),
        (60.0, DOWN, 0.0, Reason::CentralDown),
        (f64::NAN, OPEN, 0.0, Reason::Calm),
    ];
    for (asked, offer, weight, reason) in cases {
        let decision = Host::new(Config::default()).tick(&calm(), &Offer { forced: Some(asked), ..offer });
        assert_eq!((decision.weight, decision.reason), (weight, reason), "{asked} {offer:?}");
    }
}

#[test]
fn on_a_host_that_is_not_calm_the_controller_goes_on_from_what_was_forced() {
    let mut host = Host::new(Config::default());
    host.over(5_000, &hot(), &forced(40.0));
    assert_eq!(host.tick(&hot(), &OPEN).weight, 50.0);

    let mut host = Host::new(Config::default());
    host.tick(&pressure(18.0), &forced(40.0));
    let decision = host.over(5_000, &pressure(18.0), &OPEN);
    assert_eq!((decision.weight, decision.state, decision.reason), (40.0, State::Shifted, Reason::Holding));
}

#[test]
fn one_calm_tick_of_a_starving_host_does_not_take_back_what_was_forced() {
    let mut host = Host::new(Config::default());
    host.over(5_000, &hot(), &forced(40.0));
    let decision = host.tick(&calm(), &OPEN);
    assert_eq!((decision.weight, decision.state, decision.starving), (40.0, State::Shifted, true));
}

#[test]
fn a_starving_host_that_is_forced_to_stay_goes_when_it_may() {
    let mut host = Host::new(Config::default());
    let kept = host.over(10_000, &hot(), &forced(0.0));
    assert_eq!((kept.weight, kept.state, kept.starving), (0.0, State::Local, true));
    assert_eq!(host.tick(&hot(), &OPEN).weight, 10.0);
}

#[test]
fn a_clock_that_jumps_moves_nothing_and_empties_the_windows() {
    for jump in [1 << 40, 2_001_u64, 0_u64.wrapping_sub(2_001), 0_u64.wrapping_sub(900_000)] {
        let mut host = Host::new(Config::default());
        host.tick(&calm(), &OPEN);
        host.over(1_750, &hot(), &OPEN);
        assert!(!host.after(jump, &hot(), &OPEN).starving, "{jump}");
        assert_eq!(host.until(&hot(), &OPEN, |d| d.state == State::Shifted), 2_000, "{jump}");
        let before = host.over(1_000, &hot(), &OPEN).weight;
        assert_eq!(host.after(jump, &hot(), &OPEN).weight, before, "{jump}");
        host.over(50_000, &pressure(18.0), &OPEN);
        host.over(14_000, &calm(), &OPEN);
        host.after(jump, &calm(), &OPEN);
        assert_eq!(host.until(&calm(), &OPEN, |d| d.state == State::Returning), 15_000, "{jump}");
    }
}

#[test]
fn a_clock_that_goes_back_a_little_counts_nothing() {
    let mut host = Host::new(Config::default());
    host.tick(&calm(), &OPEN);
    host.over(1_000, &hot(), &OPEN);
    host.after(0_u64.wrapping_sub(1_000), &hot(), &OPEN);
    assert_eq!(host.until(&hot(), &OPEN, |d| d.state == State::Shifted), 1_000);
}

#[test]
fn a_host_on_which_nothing_can_be_read_stays_at_home_and_says_why() {
    let blind = Sample { idle: Some(0.0), returning: 1.0, ..Sample::default() };
    let decision = Host::new(Config::default()).over(60_000, &blind, &OPEN);
    assert_eq!((decision.weight, decision.state, decision.reason), (0.0, State::Local, Reason::Off));
    let mut host = shifted();
    let decision = host.over(120_000, &blind, &OPEN);
    assert_eq!((decision.weight, decision.state, decision.reason), (0.0, State::Local, Reason::Off));
}

#[test]
fn an_input_that_cannot_be_read_takes_no_part() {
    for bad in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)] {
        let sample = Sample { cgroup_pressure: bad, throttled: bad, queue_wait_ms: bad, ..hot() };
        let decision = Host::new(Config::default()).over(3_000, &sample, &OPEN);
        assert_eq!((decision.state, decision.reason), (State::Shifted, Reason::HostPressure), "{bad:?}");
    }
}

#[test]
fn other_numbers_hold_from_the_next_tick_and_leave_the_weight() {
    let mut host = shifted();
    let mut config = without_jitter();
    config.enter.host_pressure = 80.0;
    config.leave.share = 0.8;
    config.dwell_ms = 10_000;
    host.controller.reconfigure(config);
    assert_eq!(host.over(14_750, &hot(), &OPEN).weight, 100.0);
    assert_eq!(host.tick(&hot(), &OPEN).state, State::Returning);
}

#[test]
fn what_was_hot_or_calm_by_other_numbers_does_not_count() {
    let mut host = Host::new(Config::default());
    host.over(2_000, &hot(), &OPEN);
    host.controller.reconfigure(Config::default());
    assert_eq!(host.until(&hot(), &OPEN, |d| d.state == State::Shifted), 2_000);
    host.over(50_000, &pressure(18.0), &OPEN);
    host.over(14_000, &calm(), &OPEN);
    host.controller.reconfigure(Config::default());
    assert_eq!(host.until(&calm(), &OPEN, |d| d.state == State::Returning), 15_000);
}

#[test]
fn every_reason_has_the_word_of_the_live_state() {
    use Reason::*;
    let reasons = [
        Calm,
        HostPressure,
        CgroupPressure,
        Throttled,
        QueueWait,
        Forced,
        CentralDown,
        CentralSlow,
        NoTokens,
        NoCentral,
        PolicyUnknown,
        Holding,
        Dwelling,
        Off,
    ];
    let words = "calm host-pressure cgroup-pressure throttled queue-wait forced central-down central-slow no-tokens \
                 no-central policy-unknown holding dwelling off";
    assert_eq!(reasons.map(Reason::name).join(" "), words);
    assert_eq!([State::Local, State::Shifted, State::Returning].map(State::name).join(" "), "local shifted returning");
}
