//! What holds for every trace: any samples, any offers, any clock.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use pannier_central::config::Config;
use pannier_central::controller::{Controller, Offer, State};
use pannier_central::sample::Sample;
use proptest::prelude::*;

fn anything() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        4 => (0.0..120.0_f64).prop_map(Some),
        1 => any::<f64>().prop_map(Some),
        1 => Just(None),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]).prop_map(Some),
    ]
}

fn samples() -> impl Strategy<Value = Sample> {
    (anything(), anything(), anything(), anything(), anything(), anything()).prop_map(
        |(host_pressure, cgroup_pressure, throttled, queue_wait_ms, idle, returning)| Sample {
            host_pressure,
            cgroup_pressure,
            throttled,
            run_delay_ms: idle,
            queue_wait_ms,
            idle: idle.map(|idle| idle / 100.0),
            returning: returning.unwrap_or(0.0) / 100.0,
        },
    )
}

/// Quiet and loud phases of some seconds each, which is what turns the work around.
fn phases() -> impl Strategy<Value = Vec<Sample>> {
    let sample = prop_oneof![
        Just(Sample { host_pressure: Some(70.0), ..Sample::default() }),
        Just(Sample { host_pressure: Some(1.0), ..Sample::default() }),
        samples(),
    ];
    prop::collection::vec((sample, 1..120_usize), 1..14)
        .prop_map(|phases| phases.into_iter().flat_map(|(sample, ticks)| vec![sample; ticks]).collect())
}

fn offers() -> impl Strategy<Value = Offer> {
    let limit = prop_oneof![5 => Just(100.0), 2 => 0.0..150.0_f64, 1 => any::<f64>()];
    let forced = prop_oneof![8 => Just(None), 1 => anything()];
    (prop::bool::weighted(0.9), limit, forced).prop_map(|(usable, limit, forced)| Offer { usable, limit, forced })
}

fn clocks() -> impl Strategy<Value = u64> {
    prop_oneof![6 => Just(250_u64), 3 => 0..2_500_u64, 1 => any::<u64>()]
}

fn configs() -> impl Strategy<Value = Config> {
    (1.0..=100.0_f64, 0.5..=33.0_f64, 0.0..=0.5_f64, 1_000..120_000_u64, 0.1..=0.8_f64)
        .prop_map(|(step_up, step_down, jitter, dwell_ms, share)| {
            let mut config = Config { step_up, step_down, jitter, dwell_ms, ..Config::default() };
            config.leave.share = share;
            config
        })
        .prop_filter("the profile's validation", |config| config.check().is_ok())
}

fn most(offer: &Offer) -> f64 {
    if offer.usable && offer.limit > 0.0 { offer.limit.min(100.0) } else { 0.0 }
}

proptest! {
    #[test]
    fn the_weight_keeps_its_bounds_and_its_pace(
        config in configs(),
        seed in any::<u64>(),
        steps in prop::collection::vec((clocks(), samples(), offers()), 1..400),
    ) {
        let mut controller = Controller::new(config, seed);
        let (mut now, mut before, mut was_forced) = (0_u64, 0.0, false);
        for (ms, sample, offer) in steps {
            now = now.wrapping_add(ms);
            let decision = controller.step(now, &sample, &offer);
            let (weight, limit) = (decision.weight, most(&offer));
            prop_assert!((0.0..=limit).contains(&weight), "{decision:?} {offer:?}");
            let forced = offer.forced.filter(|asked| !asked.is_nan());
            if let Some(asked) = forced {
                prop_assert_eq!(weight, asked.max(0.0).min(limit));
            } else {
                prop_assert!(weight <= before + config.step_up + 1e-9, "{before} {decision:?}");
                let fall = config.step_down * ms.min(1_000) as f64 / 1_000.0;
                prop_assert!(was_forced || weight >= (before - fall).min(limit) - 1e-9, "{before} {decision:?}");
            }
            prop_assert!(weight == 0.0 || decision.state != State::Local);
            (before, was_forced) = (weight, forced.is_some());
        }
    }

    #[test]
    fn work_turns_around_once_a_dwell_at_the_most(
        config in configs(),
        seed in any::<u64>(),
        samples in phases(),
        ticks in prop::collection::vec(0..2_000_u64, 1..50),
        offers in prop::collection::vec(offers(), 1..50),
        steady in prop::bool::weighted(0.7),
    ) {
        let mut controller = Controller::new(config, seed);
        let shortest = (config.dwell_ms as f64 * (1.0 - config.jitter)) as u64;
        let (mut now, mut turned, mut reversals) = (0_u64, None, 0);
        for (at, sample) in samples.iter().enumerate() {
            now += if steady { 250 } else { ticks[at % ticks.len()] };
            let offer = if steady { Offer { usable: true, limit: 100.0, forced: None } } else { offers[at % offers.len()] };
            let decision = controller.step(now, sample, &offer);
            if decision.reversals > reversals {
                prop_assert_eq!(decision.reversals, reversals + 1);
                prop_assert!(turned.is_none_or(|turned| now - turned >= shortest), "{turned:?} {now} {config:?}");
                (turned, reversals) = (Some(now), decision.reversals);
            }
        }
    }

    #[test]
    fn the_same_seed_and_the_same_trace_give_the_same_decisions(seed in any::<u64>(), samples in phases()) {
        let run = || {
            let mut controller = Controller::new(Config::default(), seed);
            let offer = Offer { usable: true, limit: 100.0, forced: None };
            samples.iter().zip(1..).map(|(sample, n)| controller.step(n * 250, sample, &offer)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn no_numbers_of_the_profile_break_it(
        numbers in prop::array::uniform8(any::<f64>()),
        times in prop::array::uniform4(any::<u64>()),
        steps in prop::collection::vec((any::<u64>(), samples(), offers()), 1..50),
    ) {
        let mut config = Config::default();
        config.enter.host_pressure = numbers[0];
        config.enter.cgroup_pressure = numbers[1];
        config.enter.throttled = numbers[2];
        config.enter.queue_wait_ms = numbers[3];
        config.leave.share = numbers[4];
        (config.jitter, config.step_up, config.step_down) = (numbers[5], numbers[6], numbers[7]);
        (config.enter.holds_ms, config.enter.within_ms) = (times[0], times[1]);
        (config.leave.calm_ms, config.dwell_ms) = (times[2], times[3]);
        let _ = config.check();
        let mut controller = Controller::new(config, 1);
        for (now, sample, offer) in steps {
            let weight = controller.step(now, &sample, &offer).weight;
            prop_assert!((0.0..=most(&offer)).contains(&weight));
        }
    }
}
