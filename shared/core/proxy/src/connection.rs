//! One caller's connection: head after head, until either side has had enough.

use std::rc::Rc;

use pannier_http::forwarding::Peer;
use pannier_http::head::{HeadScanner, leading_blank};
use pannier_http::refusal::Refusal;
use pannier_table::clock;
use pannier_table::series::Direction;

use crate::central::gateway::Guest;
use crate::outcome::Next;
use crate::pump;
use crate::stack::{self, Arrived};
use crate::stream::Stream;
use crate::timers::{Timer, after};
use crate::worker::{InForce, Worker};

/// After the last answer, what the caller still sends is read so long, so that it sees the answer and not a reset.
const LINGER_MS: u64 = 1_000;
const LINGER_BYTES: usize = 256 << 10;

/// What holds for all requests of a connection.
pub struct Serving {
    /// The side it came from.
    pub direction: Direction,
    /// The host that it is served for; none for our own.
    pub guest: Option<Guest>,
    /// Where it stands in the order of leaving for a Central, 0…1.
    draw: f64,
}

impl Serving {
    /// Our own app's, or a caller's of it.
    pub fn own(worker: &Worker, direction: Direction) -> Serving {
        let away = &worker.mesh.away;
        let draw = match direction {
            Direction::Outbound => worker.random.borrow_mut().unit(),
            Direction::Inbound => 1.0,
        };
        // What the kernel has let through stays until more is to leave.
        let least = if away.redirects() { away.weight() } else { 0.0 };
        Serving { direction, guest: None, draw: least + draw * (1.0 - least) }
    }

    /// Another host's.
    pub fn guest(guest: Guest, direction: Direction) -> Serving {
        Serving { direction, guest: Some(guest), draw: 1.0 }
    }

    /// The policy in force for it.
    pub fn policy(&self, worker: &Worker) -> Rc<InForce> {
        self.guest.as_ref().map_or_else(|| worker.policy(), Guest::policy)
    }

    /// Where it stands in the order of leaving.
    pub fn draw(&self) -> f64 {
        self.draw
    }
}

/// Why there is no further head.
enum NoHead<'c> {
    /// The caller closed, or was idle for too long: nothing to say.
    Ended,
    /// What came is refused.
    Refused(Refusal, Arrived<'c>),
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: Stream, peer: Peer, serving: Serving, mut input: Vec<u8>) {
    let timer = worker.timers.register();
    loop {
        let next = match next_head(&worker, &stream, &peer, &timer, &mut input).await {
            Ok(arrived) => stack::serve_request(&worker, &stream, &timer, &mut input, arrived, &serving).await,
            Err(NoHead::Ended) => break,
            Err(NoHead::Refused(refusal, arrived)) => {
                stack::refuse(&worker, &stream, &timer, &arrived, &serving, refusal).await
            }
        };
        match next {
            Next::Again => {}
            Next::Close => {
                linger(&timer, &stream, &mut input).await;
                break;
            }
            Next::Gone => break,
        }
    }
    worker.buffers.give(input);
}

/// Waits for a whole head at the beginning of `input`. An idle connection holds no buffer.
async fn next_head<'c>(
    worker: &Rc<Worker>,
    stream: &Stream,
    peer: &'c Peer,
    timer: &Timer,
    input: &mut Vec<u8>,
) -> Result<Arrived<'c>, NoHead<'c>> {
    let timeouts = worker.policy().timeouts;
    if input.is_empty() {
        worker.buffers.give(std::mem::take(input));
        let (since, idle) = (clock::recent_ms(), after(timeouts.idle_ms));
        let read = pump::read_first(&worker.buffers, stream, input);
        if !matches!(timer.until_moving(|| idle.min(worker.idle_until(since)), read).await, Ok(Ok(1..))) {
            return Err(NoHead::Ended);
        }
    }
    let mut arrived = Arrived { peer, head: 0, started_ns: clock::recent_ns(), bytes: 0 };
    let deadline = after(timeouts.header_ms);
    let mut scanner = HeadScanner::default();
    let mut fresh = true;
    loop {
        if fresh && !input.is_empty() && (input.len() >= 2 || !input.starts_with(b"\r")) {
            input.drain(..leading_blank(input));
            fresh = false;
        }
        arrived.bytes = input.len() as u64;
        if !fresh && !input.is_empty() {
            match scanner.scan(input) {
                Ok(Some(head)) => {
                    arrived.head = head;
                    return Ok(arrived);
                }
                Ok(None) => {}
                Err(refusal) => return Err(NoHead::Refused(refusal, arrived)),
            }
        }
        match timer.until(deadline, pump::read(stream, input)).await {
            Ok(Ok(n)) if n > 0 => {}
            Ok(_) => return Err(NoHead::Ended),
            Err(_) if input.is_empty() => return Err(NoHead::Ended),
            Err(_) => {
                return Err(NoHead::Refused(Refusal::with(408, "the request's head came too slowly"), arrived));
            }
        }
    }
}

/// Ends our side, then reads and drops what the caller still sends, within bounds.
async fn linger(timer: &Timer, stream: &Stream, input: &mut Vec<u8>) {
    if stream.shutdown().is_err() {
        return;
    }
    let deadline = after(LINGER_MS);
    let mut dropped = 0;
    while dropped < LINGER_BYTES {
        input.clear();
        match timer.until(deadline, pump::read(stream, input)).await {
            Ok(Ok(n)) if n > 0 => dropped += n,
            _ => return,
        }
    }
}
