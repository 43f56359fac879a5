//! Who is out: endpoint breakers (Linkerd), outlier ejection on failures in a row (Envoy), service breakers (resilience4j).
//!
//! A step is a function of the policy, the hot words, the time and a random number; its result is one compare-and-swap.
//! What a word means depends on the policy in force: an open breaker whose time has passed waits for *one* request that
//! tries it; an ejection whose time has passed is over; without a policy nobody is out.
//!
//! | policy | closed | open, in time | open, time passed | half open |
//! | --- | --- | --- | --- | --- |
//! | breaker | pass | out | probe | out; probe again once its time has passed |
//! | outlier | pass | out | pass | (never) |

use std::cell::Cell;

use pannier_table::hot::{History, HotWords, Place, State, Streak, Word};

use crate::schema::limits::{Breaker, Outlier, ServiceBreaker};

/// How long the request that tries an endpoint keeps others away; after that it is held to be lost.
pub const PROBE_MS: u64 = 10_000;

/// Who takes endpoints of a cluster out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum FailurePolicy {
    /// Nobody.
    #[default]
    None,
    /// A breaker an endpoint.
    Breaker(Breaker),
    /// Ejection.
    Outlier(Outlier),
}

/// Whether an endpoint may have a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Pass,
    /// One: it has to take the probe first.
    Probe,
    /// No.
    Out,
}

/// What a call showed of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It works.
    Success,
    /// 5xx, other than a gateway's.
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// No connection, no answer in time, a broken connection.
    Unanswered,
}

impl Seen {
    /// What an answer shows.
    #[must_use]
    pub fn of_status(status: u16) -> Seen {
        match status {
            502..=504 => Seen::GatewayError,
            500.. => Seen::ServerError,
            _ => Seen::Success,
        }
    }
}

/// Whether an endpoint may have a request at `now_ms`.
#[must_use]
pub fn verdict(policy: &FailurePolicy, words: &HotWords, place: Place, now_ms: u64) -> Verdict {
    if matches!(policy, FailurePolicy::None) || words.is_closed(place.slot) {
        return Verdict::Pass;
    }
    read(policy, words.state(place, now_ms), now_ms)
}

fn read(policy: &FailurePolicy, word: Word, now_ms: u64) -> Verdict {
    match (word.state, policy) {
        (State::Closed, _) => Verdict::Pass,
        _ if word.until_ms > now_ms => Verdict::Out,
        (_, FailurePolicy::Breaker(_)) => Verdict::Probe,
        _ => Verdict::Pass,
    }
}

/// Takes the one request that may try an endpoint; false if somebody else has it.
pub fn take_probe(policy: &FailurePolicy, words: &HotWords, place: Place, now_ms: u64) -> bool {
    let probing = Word { state: State::HalfOpen, until_ms: now_ms + PROBE_MS };
    words.change(place, now_ms, |word| (read(policy, word, now_ms) == Verdict::Probe).then_some(probing)).is_some()
}

/// Gives a probe back that came to nothing (the caller went away): the next request may try.
pub fn return_probe(words: &HotWords, place: Place, now_ms: u64) {
    let waiting = Word { state: State::Open, until_ms: now_ms };
    words.change(place, now_ms, |word| (word.state == State::HalfOpen).then_some(waiting));
}

/// What a step changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that others see.
    None,
    /// A breaker opened, or opened again.
    Opened,
    /// An endpoint was ejected.
    Ejected,
    /// A breaker closed.
    Closed,
}

/// Whether a success changes nothing: there were no failures before it. Most calls end here.
#[must_use]
pub fn is_settled(words: &HotWords, place: Place) -> bool {
    words.streak(place) == Streak::default()
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// When: milliseconds since boot.
    pub now_ms: u64,
    /// What it showed.
    pub seen: Seen,
    /// It was the one that tried.
    pub was_probe: bool,
    /// A number in 0…1, for jitter and enforcement.
    pub random: f64,
}

/// Steps an endpoint's words by a call. `room` says whether one more endpoint of the cluster may be ejected.
pub fn step(
    policy: &FailurePolicy,
    words: &HotWords,
    place: Place,
    call: &Ended,
    room: impl FnOnce() -> bool,
) -> Change {
    match policy {
        FailurePolicy::None => Change::None,
        FailurePolicy::Breaker(breaker) => step_breaker(breaker, words, place, call),
        FailurePolicy::Outlier(outlier) => step_outlier(outlier, words, place, call, room),
    }
}

fn step_breaker(breaker: &Breaker, words: &HotWords, place: Place, call: &Ended) -> Change {
    let Ended { now_ms, seen, was_probe, random } = *call;
    let streak = count(words, place, seen);
    if seen == Seen::Success {
        let close = |word: Word| (word.state == State::HalfOpen).then_some(Word::CLOSED);
        if !was_probe || words.change(place, now_ms, close).is_none() {
            return Change::None;
        }
        words.set_history(place, History::default());
        return Change::Closed;
    }
    let is_over = breaker.consecutive_failures > 0 && streak.failures >= breaker.consecutive_failures;
    if !was_probe && !is_over {
        return Change::None;
    }
    let from = if was_probe { State::HalfOpen } else { State::Closed };
    let times = words.history(place, now_ms).times;
    let until_ms = now_ms + penalty_ms(breaker, times, random);
    let open = Word { state: State::Open, until_ms };
    if words.change(place, now_ms, |word| (word.state == from).then_some(open)).is_none() {
        return Change::None;
    }
    words.set_history(place, History { times: times.saturating_add(1), at_ms: until_ms });
    Change::Opened
}

/// Linkerd's exponential back-off: the minimum doubled for each time before, at most the maximum, then up to `jitter` of
/// itself more.
#[must_use]
pub fn penalty_ms(breaker: &Breaker, times: u8, random: f64) -> u64 {
    let doubled = breaker.penalty_min_ms.saturating_mul(1 << u32::from(times.min(32)));
    let penalty = doubled.min(breaker.penalty_max_ms);
    penalty + (penalty as f64 * breaker.jitter * random) as u64
}

fn step_outlier(
    outlier: &Outlier,
    words: &HotWords,
    place: Place,
    call: &Ended,
    room: impl FnOnce() -> bool,
) -> Change {
    let Ended { now_ms, seen, random, .. } = *call;
    let streak = count(words, place, seen);
    let reached = |count: u16, threshold: u16| threshold > 0 && count >= threshold;
    let detected = [
        (reached(streak.failures, outlier.consecutive_5xx), outlier.enforcing_consecutive_5xx),
        (reached(streak.gateway, outlier.consecutive_gateway_failure), outlier.enforcing_consecutive_gateway_failure),
        (
            reached(streak.local, outlier.consecutive_local_origin_failure),
            outlier.enforcing_consecutive_local_origin_failure,
        ),
    ];
    if seen == Seen::Success || !detected.iter().any(|(reached, _)| *reached) {
        return Change::None;
    }
    let enforced = detected.iter().any(|(reached, percent)| *reached && random * 100.0 < *percent);
    if !enforced || !room() {
        // A detection is one, with consequences or without: the next takes as many failures again.
        let [(failures, _), (gateway, _), (local, _)] = detected;
        words.step_streak(place, |streak| Streak {
            failures: if failures { 0 } else { streak.failures },
            gateway: if gateway { 0 } else { streak.gateway },
            local: if local { 0 } else { streak.local },
        });
        return Change::None;
    }
    let (until_ms, times) = ejection(outlier, words.history(place, now_ms), now_ms);
    let out = Word { state: State::Open, until_ms };
    let may = |word: Word| word.state == State::Closed || word.until_ms <= now_ms;
    if words.change(place, now_ms, |word| may(word).then_some(out)).is_none() {
        return Change::None;
    }
    words.step_streak(place, |_| Streak::default());
    words.set_history(place, History { times, at_ms: until_ms });
    Change::Ejected
}

/// Until when an ejection lasts, and the how-many-eth it is: the base time for each, at most the maximum. Each interval
/// without one takes one back (as Envoy does in its sweep).
#[must_use]
pub fn ejection(outlier: &Outlier, before: History, now_ms: u64) -> (u64, u8) {
    let quiet = now_ms.saturating_sub(before.at_ms) / outlier.interval_ms.max(1);
    let lately = u64::from(before.times).saturating_sub(quiet) as u8;
    let times = lately.saturating_add(1);
    let lasts = outlier.base_ejection_ms.saturating_mul(u64::from(times)).min(outlier.max_ejection_ms);
    (now_ms + lasts, times)
}

/// Whether one more of `all` endpoints may be ejected while `out` are: the percentage, but one if more than one remains.
#[must_use]
pub fn has_room(outlier: &Outlier, all: usize, out: usize) -> bool {
    let share = (all as f64 * outlier.max_ejected_percent / 100.0) as usize;
    let most = if all > 1 { share.max(1) } else { share };
    out < most
}

fn count(words: &HotWords, place: Place, seen: Seen) -> Streak {
    words.step_streak(place, |streak| {
        let next = |on: bool, n: u16| if on { n.saturating_add(1) } else { 0 };
        Streak {
            failures: next(seen != Seen::Success, streak.failures),
            gateway: next(matches!(seen, Seen::GatewayError | Seen::Unanswered), streak.gateway),
            local: next(seen == Seen::Unanswered, streak.local),
        }
    })
}

/// Whether a service's breaker lets nobody through at `now_ms`.
#[must_use]
pub fn is_open(breaker: &ServiceBreaker, words: &HotWords, now_ms: u64) -> bool {
    let word = words.state(Place { slot: breaker.slot, incarnation: breaker.incarnation }, now_ms);
    word.state == State::Open && word.until_ms > now_ms
}

/// Whether a service's breaker lets a call through at `now_ms`. In its half-open state it lets `half_open_calls` through,
/// and is closed again if nobody has judged them in as long as it was open.
pub fn admit(breaker: &ServiceBreaker, words: &HotWords, now_ms: u64) -> bool {
    let place = Place { slot: breaker.slot, incarnation: breaker.incarnation };
    let word = words.state(place, now_ms);
    match word.state {
        State::Closed => return true,
        State::Open if word.until_ms > now_ms => return false,
        State::Open => {
            let trying = Word { state: State::HalfOpen, until_ms: now_ms + breaker.open_ms };
            words.change(place, now_ms, |seen| (seen == word).then_some(trying));
        }
        State::HalfOpen if word.until_ms <= now_ms => return true,
        State::HalfOpen => {}
    }
    // Calls are counted under the end of the half-open time that they belong to: a count of an earlier one begins anew.
    let word = words.state(place, now_ms);
    if word.state != State::HalfOpen {
        return word.state == State::Closed;
    }
    let period = ((word.until_ms >> 16) as u16, word.until_ms as u16);
    let let_through = Cell::new(false);
    words.step_streak(place, |streak| {
        let before = if (streak.gateway, streak.local) == period { streak.failures } else { 0 };
        let_through.set(before < breaker.half_open_calls);
        Streak { failures: before + u16::from(let_through.get()), gateway: period.0, local: period.1 }
    });
    let_through.get()
}
