//! One attempt at an upstream: the request goes there, the answer comes back, both stream at the same time if need be.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;

use pannier_decide::retry::Failed;
use pannier_http::body::Relay;
use pannier_http::edits::Changes;
use pannier_http::fields;
use pannier_http::head::HeadScanner;
use pannier_http::refusal::Refusal;
use pannier_http::response::{self, Asked, Toward};
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;
use pannier_table::record::Flag;

use crate::admission::Pass;
use crate::pump::{self, Flow, PumpError};
use crate::replay::Kept;
use crate::retrying::Retrying;
use crate::stream::Stream;
use crate::timers::{Timer, after};
use crate::worker::Worker;

/// Interim answers (1xx) of one request.
const MAX_INTERIM: usize = 16;
/// An upstream that stopped reading the request gets so long to say why.
const LAST_WORDS_MS: u64 = 1_000;

/// What an attempt needs to know.
pub struct Attempt<'a> {
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// The deadline of whoever waits for the answer.
    pub timer: &'a Timer,
    /// Longest pause on either side, milliseconds; 0 = any.
    pub idle_ms: u64,
    /// How long the answer's head may take from the request's last byte, milliseconds; 0 = any time.
    pub attempt_ms: u64,
    /// When all patience ends: milliseconds since boot.
    pub deadline_ms: u64,
    /// The time of an attempt is for its whole answer, as a route's timeouts are; the floor's is for the answer's head.
    pub bounds_answer: bool,
    /// What may be tried again.
    pub retrying: Option<&'a Retrying<'a>>,
    /// Its places: the one for its body is given back when that has been sent.
    pub pass: &'a Pass<'a>,
    /// Keeps what is sent of a body.
    pub kept: Option<&'a Kept>,
    /// What the route and the header policy change in the answer, and what is added to it.
    pub headers: Option<Changes<'a>>,
    #[allow(missing_docs)]
    pub extra: &'a [u8],
    #[allow(missing_docs)]
    pub replaces_cors: bool,
    /// What was asked for.
    pub asked: Asked<'a>,
    /// Minor version of the caller's HTTP/1.
    pub version: u8,
    /// The caller may send another request after this one.
    pub keep_alive: bool,
    /// Leave `x-pannier-*` out of the answer: the upstream is the untrusted side.
    pub strip_ours: bool,
    /// Bytes of the answer written to the caller so far, interim ones left out.
    pub written: Cell<u64>,
    /// The status of the answer that is being written; 0 = none yet.
    pub status: Cell<u16>,
    /// An interim answer is being written.
    pub in_interim: Cell<bool>,
    /// Bytes of the body sent on so far, beyond those that were sent with the head.
    pub uploaded: Cell<u64>,
    /// When the request had been sent to its end (ns since boot); 0 = it has not. An answer before that ends the connection,
    /// must say so in its head, and tells nothing of the upstream's speed.
    pub sent_ns: Cell<u64>,
    /// What was read with the end of a body that was sent whole, by an attempt that failed.
    pub following: RefCell<Vec<u8>>,
}

impl Attempt<'_> {
    /// Whether the caller has been told a part of something: then it is too late for an answer of our own.
    pub fn is_answering(&self) -> bool {
        self.written.get() > 0 || self.in_interim.get()
    }

    fn flow<'a>(&'a self, timer: &'a Timer, written: &'a Cell<u64>, minimum_rate: bool) -> Flow<'a> {
        Flow { timer, idle_ms: self.idle_ms, until_ms: self.deadline_ms, minimum_rate, written, pipes: None }
    }

    fn answer_by(&self) -> u64 {
        after(self.attempt_ms).min(self.deadline_ms)
    }

    /// Whether everything that another attempt needs is there: the request was sent whole, and its body kept.
    pub fn is_replayable(&self) -> bool {
        self.kept.is_none_or(Kept::is_whole) && self.sent_ns.get() != 0 && !self.is_answering()
    }
}

/// A complete answer.
#[derive(Debug, Default)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// From the request's last byte to the answer's head; none if that came first.
    pub latency_ns: Option<u64>,
    /// The upstream's connection may be used again.
    pub upstream_reusable: bool,
    /// The caller's connection may be used again.
    pub caller_reusable: bool,
    /// The protocol was switched; the bytes are what the upstream sent after its head.
    pub upgraded: Option<Vec<u8>>,
    /// What was read with the end of the caller's body and follows it: the next request.
    pub following: Vec<u8>,
}

/// Why there is none.
#[derive(Debug)]
pub enum Failure {
    /// The upstream closed the connection without a byte of an answer.
    Silent,
    /// It answered with something that is tried again.
    Again {
        /// The answer's status.
        status: u16,
        /// See [`Answered::latency_ns`].
        latency_ns: Option<u64>,
        /// How long to wait before that.
        pause_ms: u64,
        /// The upstream's connection may be used again.
        upstream_reusable: bool,
    },
    /// The upstream failed: the flag, the status that the caller should get, and why.
    Upstream(Flag, u16, &'static str),
    /// The caller's body failed: the same.
    Caller(Flag, u16, &'static str),
    /// The caller is gone.
    CallerGone,
}

/// Makes the attempt. `head` is the request as it is sent first; `upload` relays what is still to come of its body.
pub async fn run(
    attempt: &Attempt<'_>,
    upstream: &Stream,
    caller: &Stream,
    head: &[u8],
    upload: Option<&mut Relay>,
) -> Result<Answered, Failure> {
    let head_bytes = Cell::new(0);
    let Some(relay) = upload else {
        if pump::write(&attempt.flow(attempt.timer, &head_bytes, false), upstream, head).await.is_err() {
            return Err(Failure::Silent);
        }
        attempt.sent_ns.set(clock::monotonic_ns());
        let deadline = Cell::new(attempt.answer_by());
        return receive(attempt, &deadline, upstream, caller).await;
    };

    let deadline = Cell::new(attempt.deadline_ms);
    let upload_timer = attempt.worker.timers.register();
    let mut send = pin!(async {
        caller.acknowledge();
        pump::write(&attempt.flow(&upload_timer, &head_bytes, true), upstream, head).await?;
        let (mut input, mut out) = (attempt.worker.buffers.take(), attempt.worker.buffers.take());
        let flow = attempt.flow(&upload_timer, &attempt.uploaded, true);
        let kept = attempt.kept;
        let sent = pump::body(&flow, caller, upstream, &mut input, &mut out, relay, kept).await;
        let following = if input.is_empty() { Vec::new() } else { std::mem::take(&mut input) };
        attempt.worker.buffers.give(input);
        attempt.worker.buffers.give(out);
        sent.map(|()| following)
    });
    let mut answer = pin!(receive(attempt, &deadline, upstream, caller));
    let mut sent: Option<Result<Vec<u8>, PumpError>> = None;
    let mut answered = loop {
        tokio::select! {
            biased;
            done = &mut send, if sent.is_none() => {
                match &done {
                    Ok(_) => {
                        if attempt.kept.is_some_and(|kept| !kept.is_whole()) {
                            attempt.worker.count(Counter::BodiesNotReplayable);
                        }
                        attempt.pass.upload.end();
                        attempt.sent_ns.set(clock::monotonic_ns());
                        deadline.set(attempt.answer_by());
                    }
                    Err(PumpError::WriteClosed | PumpError::WriteTimeout) => deadline.set(after(LAST_WORDS_MS)),
                    Err(PumpError::ReadClosed) => return Err(Failure::CallerGone),
                    Err(PumpError::ReadTimeout) if clock::monotonic_ms() >= attempt.deadline_ms => {
                        return Err(Failure::Upstream(Flag::UT, 504, "the request's time was over before its body was here"));
                    }
                    Err(PumpError::ReadTimeout) => {
                        return Err(Failure::Caller(Flag::DT, 408, "the request's body came too slowly"));
                    }
                    Err(PumpError::Malformed(refusal)) => {
                        return Err(Failure::Caller(Flag::DPE, refusal.status, refusal.reason));
                    }
                }
                sent = Some(done);
            }
            done = &mut answer => match done {
                Ok(answered) => break answered,
                Err(failure) => {
                    if let Some(Ok(following)) = sent {
                        attempt.following.replace(following);
                    }
                    return Err(failure);
                }
            },
        }
    };
    match sent {
        Some(Ok(following)) => answered.following = following,
        // An answer before the end of the request: neither connection is at a place where another message could begin.
        _ => {
            answered.upstream_reusable = false;
            answered.caller_reusable = false;
        }
    }
    Ok(answered)
}

async fn receive(
    attempt: &Attempt<'_>,
    deadline: &Cell<u64>,
    upstream: &Stream,
    caller: &Stream,
) -> Result<Answered, Failure> {
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let answered = receive_with(attempt, deadline, upstream, caller, &mut input, &mut out).await;
    attempt.worker.buffers.give(input);
    attempt.worker.buffers.give(out);
    answered
}

async fn receive_with(
    attempt: &Attempt<'_>,
    deadline: &Cell<u64>,
    upstream: &Stream,
    caller: &Stream,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Answered, Failure> {
    let (mut interim, interim_bytes) = (0, Cell::new(0));
    let mut head = loop {
        let length = read_head(attempt, deadline, upstream, input, interim > 0).await?;
        if out.capacity() == 0 {
            *out = attempt.worker.buffers.take();
        }
        let head = translate(attempt, input.get(..length).unwrap_or(&[]), out)
            .map_err(|refusal| Failure::Upstream(Flag::UPE, 502, refusal.reason))?;
        input.drain(..length);
        if head.status >= 200 || head.status == 101 {
            break head;
        }
        interim += 1;
        if interim > MAX_INTERIM {
            return Err(Failure::Upstream(Flag::UPE, 502, "too many interim answers"));
        }
        if attempt.version == 1 {
            attempt.in_interim.set(true);
            let flow = attempt.flow(attempt.timer, &interim_bytes, false);
            pump::write(&flow, caller, out).await.map_err(|_| Failure::CallerGone)?;
            attempt.in_interim.set(false);
        }
        out.clear();
    };
    let latency_ns = match attempt.sent_ns.get() {
        0 => None,
        sent => Some(clock::recent_ns().saturating_sub(sent)),
    };
    if let Some(pause_ms) = head.again_ms {
        let taken = head.relay.relay(input, out).unwrap_or(0);
        let upstream_reusable = head.upstream_reusable && head.relay.is_done() && taken == input.len();
        return Err(Failure::Again { status: head.status, latency_ns, pause_ms, upstream_reusable });
    }
    attempt.status.set(head.status);
    let mut answered = Answered {
        status: head.status,
        latency_ns,
        upstream_reusable: head.upstream_reusable,
        caller_reusable: head.caller_reusable,
        upgraded: None,
        following: Vec::new(),
    };
    if !head.relay.may_be_whole(input) {
        upstream.acknowledge();
    }
    let until_ms = if attempt.bounds_answer { deadline.get() } else { attempt.deadline_ms };
    let pipes = Some(&attempt.worker.pipes);
    let flow = Flow { until_ms, pipes, ..attempt.flow(attempt.timer, &attempt.written, false) };
    match pump::body(&flow, upstream, caller, input, out, &mut head.relay, None).await {
        Ok(()) => {}
        Err(PumpError::WriteClosed | PumpError::WriteTimeout) => return Err(Failure::CallerGone),
        Err(PumpError::ReadClosed) => {
            return Err(Failure::Upstream(Flag::UC, 502, "the upstream closed the connection within its answer"));
        }
        Err(PumpError::ReadTimeout) => {
            return Err(Failure::Upstream(Flag::UT, 504, "the upstream's answer stalled"));
        }
        Err(PumpError::Malformed(refusal)) => {
            return Err(Failure::Upstream(Flag::UPE, 502, refusal.reason));
        }
    }
    if head.status == 101 {
        answered.upgraded = Some(std::mem::take(input));
    } else if !input.is_empty() {
        answered.upstream_reusable = false;
    }
    Ok(answered)
}

async fn read_head(
    attempt: &Attempt<'_>,
    deadline: &Cell<u64>,
    upstream: &Stream,
    input: &mut Vec<u8>,
    spoke: bool,
) -> Result<usize, Failure> {
    let mut scanner = HeadScanner::default();
    loop {
        if !input.is_empty() {
            match scanner.scan(input) {
                Ok(Some(length)) => return Ok(length),
                Ok(None) => {}
                Err(refusal) => return Err(Failure::Upstream(Flag::UPE, 502, refusal.reason)),
            }
        }
        let more = async {
            match input.is_empty() {
                true => pump::read_first(&attempt.worker.buffers, upstream, input).await,
                false => pump::read(upstream, input).await,
            }
        };
        match attempt.timer.until_moving(|| deadline.get(), more).await {
            Ok(Ok(n)) if n > 0 => {}
            Ok(_) if input.is_empty() && !spoke => return Err(Failure::Silent),
            Ok(_) => {
                return Err(Failure::Upstream(Flag::UC, 502, "the upstream closed the connection within its answer"));
            }
            Err(_) => {
                return Err(Failure::Upstream(Flag::UT, 504, "the upstream did not answer in time"));
            }
        }
    }
}

struct Head {
    status: u16,
    /// It is not passed on: another attempt is made after that time.
    again_ms: Option<u64>,
    relay: Relay,
    upstream_reusable: bool,
    caller_reusable: bool,
}

/// Parses an answer's head and appends it, written for the caller, to `out`.
fn translate(attempt: &Attempt<'_>, head: &[u8], out: &mut Vec<u8>) -> Result<Head, Refusal> {
    let mut room = fields::room();
    let answer = response::parse(head, &mut room, attempt.asked)?;
    let keep_alive = attempt.keep_alive
        && attempt.sent_ns.get() != 0
        && answer.is_delimited(attempt.version)
        && !attempt.worker.is_draining();
    let again_ms = attempt
        .retrying
        .filter(|_| answer.status >= 400 && attempt.is_replayable())
        .and_then(|retrying| retrying.next(Failed::Status(answer.status), answer.field("retry-after")));
    if again_ms.is_none() {
        let is_final = answer.status >= 200;
        answer.write(
            out,
            &Toward {
                headers: attempt.headers.filter(|_| is_final),
                extra: if is_final { attempt.extra } else { &[] },
                replaces_cors: attempt.replaces_cors,
                version: attempt.version,
                keep_alive,
                strip_ours: attempt.strip_ours,
            },
        );
    }
    Ok(Head {
        status: answer.status,
        again_ms,
        relay: Relay::new(answer.framing, answer.coding(attempt.version)),
        upstream_reusable: answer.keep_alive,
        caller_reusable: keep_alive,
    })
}
