//! Numbers that are refused, and the reason that is given.
#![allow(missing_docs, clippy::type_complexity)]

use pannier_central::config::Config;

#[test]
fn the_defaults_are_accepted() {
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn what_would_flap_or_makes_no_sense_is_refused_with_the_reason() {
    let cases: [(fn(&mut Config), &str); 26] = [
        (|c| c.enter.host_pressure = 0.0, "enter.host_pressure = 0: percent"),
        (|c| c.enter.host_pressure = -5.0, "enter.host_pressure = -5: percent"),
        (|c| c.enter.host_pressure = f64::NAN, "enter.host_pressure = NaN: percent"),
        (|c| c.enter.cgroup_pressure = 100.1, "enter.cgroup_pressure = 100.1: percent"),
        (|c| c.enter.throttled = f64::INFINITY, "enter.throttled = inf: percent"),
        (|c| c.enter.queue_wait_ms = 0.0, "enter.queue_wait = 0ms: must be above 0"),
        (|c| c.enter.queue_wait_ms = f64::NAN, "enter.queue_wait = NaNms"),
        (|c| c.leave.share = 0.0, "leave.share = 0: above 0"),
        (|c| c.leave.share = 0.81, "leave.share = 0.81: above 0"),
        (|c| c.leave.share = f64::NAN, "leave.share = NaN"),
        (|c| c.enter.holds_ms = 0, "enter.holds = 0ms: shorter than a tick"),
        (|c| c.enter.within_ms = 1_999, "enter.within = 1999ms is shorter than enter.holds = 2000ms"),
        (|c| c.leave.calm_ms = 1_999, "leave.calm = 1999ms is shorter than enter.holds = 2000ms"),
        (|c| c.jitter = -0.1, "jitter = -0.1"),
        (|c| c.jitter = 0.6, "jitter = 0.6"),
        (|c| c.jitter = f64::NAN, "jitter = NaN"),
        (|c| c.step_up = 0.0, "step_up = 0"),
        (|c| c.step_up = 101.0, "step_up = 101"),
        (|c| c.step_up = f64::NAN, "step_up = NaN"),
        (
            |c| c.step_up = 0.5,
            "dwell = 30000ms, less its jitter, is shorter than a whole ramp up and enter.within, 53000ms",
        ),
        (
            |c| c.dwell_ms = 6_500,
            "dwell = 6500ms, less its jitter, is shorter than a whole ramp up and enter.within, 5500ms",
        ),
        (|c| c.dwell_ms = 0, "dwell = 0ms"),
        (|c| c.step_down = 0.0, "step_down = 0"),
        (|c| c.step_down = f64::NAN, "step_down = NaN"),
        (|c| c.step_down = 34.0, "step_down = 34: all work would be back after 2941ms, before enter.within = 3000ms"),
        (
            |c| (c.step_up, c.step_down) = (2.0, 9.0),
            "step_down = 9 points a second is faster than step_up = 2 points a tick (8 a second)",
        ),
    ];
    for (spoil, reason) in cases {
        let mut config = Config::default();
        spoil(&mut config);
        let refused = config.check().err().unwrap_or_default();
        assert!(refused.starts_with(reason), "{reason}: {refused:?}");
        assert!(!refused.contains('\n'));
    }
}

#[test]
fn the_edges_are_accepted() {
    let cases: [fn(&mut Config); 6] = [
        |c| c.leave.share = 0.8,
        |c| c.enter.host_pressure = 100.0,
        |c| c.jitter = 0.5,
        |c| c.dwell_ms = 6_900,
        |c| c.step_up = 100.0,
        |c| c.enter.within_ms = c.enter.holds_ms,
    ];
    for edge in cases {
        let mut config = Config::default();
        edge(&mut config);
        assert_eq!(config.check(), Ok(()));
    }
}
