//! What comes of a request, and the answers that are our own.

use std::cell::Cell;
use std::rc::Rc;

use pannier_table::counters::Cell as Counter;
use pannier_table::record::Flag;
use pannier_table::series::Direction;

use crate::answer::Answer;
use crate::central::gateway::Guest;
use crate::plan::Plan;
use crate::pump::{self, Flow};
use crate::stream::Stream;
use crate::timers::{NEVER, Timer};
use crate::worker::{InForce, Worker};

/// What holds for a request from its first to its last step.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Who serves it.
    pub worker: &'a Rc<Worker>,
    /// The policy that it began with.
    pub policy: &'a Rc<InForce>,
    /// The deadline of its connection.
    pub timer: &'a Timer,
    /// The side it came from.
    pub direction: Direction,
    /// The host that it is served for.
    pub guest: Option<&'a Guest>,
    /// What was read of it: its head, and what came with that.
    pub input: &'a [u8],
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another request may follow.
    Again,
    /// It ends after the answer.
    Close,
    /// It is of no use any more.
    Gone,
}

/// What came of a request.
pub struct Outcome<'a> {
    /// The status that the caller was given; 0 if none.
    pub status: u16,
    /// Why the proxy answered itself, or how it failed.
    pub flag: Flag,
    /// The endpoint that was tried last.
    pub upstream: &'a str,
    /// It was reached by way of a Central.
    pub by_central: bool,
    /// What becomes of the connection.
    pub next: Next,
    /// Bytes of the request: its head as it came, its body as it was sent on.
    pub request_bytes: u64,
    /// Bytes written to the caller.
    pub response_bytes: u64,
    /// What was read with the end of the body and follows it.
    pub following: Vec<u8>,
}

/// What a request is answered whose time is over.
pub fn too_late(worker: &Worker) -> Answer {
    worker.count(Counter::DeadlinesExceeded);
    Answer::new(504, Flag::UT, "the request's time is over")
}

/// Gives the caller an answer of our own.
pub async fn say(context: Context<'_>, caller: &Stream, plan: &Plan<'_>, answer: &Answer) -> Outcome<'static> {
    let keep_alive = plan.keep_alive && plan.upload.is_none() && !context.worker.is_draining();
    let mut out = context.worker.buffers.take();
    answer.write(&mut out, &plan.answer_fields, plan.head_only, keep_alive);
    let written = Cell::new(0);
    let idle_ms = context.policy.timeouts.idle_ms;
    let flow =
        Flow { timer: context.timer, idle_ms, until_ms: NEVER, minimum_rate: false, written: &written, pipes: None };
    let said = pump::write(&flow, caller, &out).await;
    context.worker.buffers.give(out);
    Outcome {
        status: answer.status,
        flag: answer.flag,
        upstream: "",
        by_central: false,
        next: match said {
            Err(_) => Next::Gone,
            Ok(()) if keep_alive => Next::Again,
            Ok(()) => Next::Close,
        },
        request_bytes: plan.consumed as u64,
        response_bytes: written.get(),
        following: Vec::new(),
    }
}
