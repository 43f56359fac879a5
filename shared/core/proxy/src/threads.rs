//! One thread a worker, with a reactor of its own: it accepts, ticks and adopts policies.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pannier_http::forwarding::Peer;
use pannier_reactor::{Seat, sleep};
use pannier_table::clock;
use pannier_table::counters::{Cell as Counter, WorkerCounters};
use pannier_table::hot::HotWords;
use pannier_table::ring::Producer;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::central::warm::Warm;
use crate::central::{Mesh, detours, gateway, passthrough, shift};
use crate::connection::{self, Serving};
use crate::inherited::{Door, Listeners, Segments};
use crate::listener::Listener;
use crate::notify::Beat;
use crate::policy_watch::{Policies, Watched};
use crate::pool::WANTED;
use crate::stream::Stream;
use crate::timers;
use crate::worker::{Limits, Worker};

/// Descriptors of a worker for everything but connections, and the pipes, which take a thirty-second.
const RESERVED: usize = 64;
/// How often a worker that holds as many connections as it may looks again.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// How long a worker that could not accept leaves it.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Starts a thread a worker; returns their heartbeats.
///
/// # Errors
/// One line when a thread or its segments cannot be had.
pub fn start(
    listeners: Vec<Listeners>,
    segments: &Segments,
    policies: Vec<Arc<Policies>>,
    watched: &Watched,
) -> Result<Vec<Arc<Beat>>, String> {
    let mut beats = Vec::new();
    let descriptors = Descriptors { of_process: descriptors(), workers: listeners.len().max(1) };
    // All of them before the first thread runs.
    let seats =
        listeners.iter().map(|_| Seat::new()).collect::<Result<Vec<_>, _>>().map_err(|e| format!("no reactor: {e}"))?;
    let controllers = Seat::new().map_err(|e| format!("no reactor: {e}"))?;
    for (index, ((listeners, policies), seat)) in listeners.into_iter().zip(policies).zip(seats).enumerate() {
        let beat = Arc::new(Beat::default());
        let counters = WorkerCounters::new(segments.enrolment.clone(), index);
        let ring =
            Producer::new(segments.rings.clone(), segments.enrolment.index(), index).map_err(|e| e.to_string())?;
        let (hot, mesh, its_beat) = (segments.hot.clone(), watched.mesh(), beat.clone());
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let _end = EndProcess;
                run(seat, listeners, descriptors, counters, ring, hot, policies, mesh, its_beat);
            })
            .map_err(|e| format!("cannot start a worker: {e}"))?;
        beats.push(beat);
    }
    shift::start(controllers, watched.clone(), beats.clone(), segments.enrolment.clone())?;
    detours::start(watched.mesh())?;
    Ok(beats)
}

/// A worker that ends, by whatever means, takes the process with it: the supervisor starts a new one at once, while half
/// a proxy would leave connections waiting in a socket that nobody accepts on.
struct EndProcess;

impl Drop for EndProcess {
    fn drop(&mut self) {
        eprintln!("a worker ended; ending the process so that it is started anew");
        std::process::exit(70);
    }
}

/// What there is of descriptors.
#[derive(Clone, Copy)]
struct Descriptors {
    of_process: usize,
    workers: usize,
}

impl Descriptors {
    /// What the worker of this thread must keep to: the limit is for each table of descriptors.
    fn limits(self, own: Vec<SocketAddr>) -> Limits {
        let tables = if pannier_reactor::owns_descriptors() { 1 } else { self.workers };
        let descriptors = self.of_process / tables;
        let connections = descriptors.saturating_sub(RESERVED + descriptors / 32) / 2;
        Limits { connections, descriptors, own }
    }
}

/// How many descriptors this process may open, after asking for as many as it can get.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok()).unwrap_or(1 << 20)
}

#[allow(clippy::too_many_arguments)] // what one thread takes over, each once
fn run(
    seat: Seat,
    listeners: Listeners,
    descriptors: Descriptors,
    counters: WorkerCounters,
    ring: Producer,
    hot: Arc<HotWords>,
    policies: Arc<Policies>,
    mesh: Arc<Mesh>,
    beat: Arc<Beat>,
) {
    let ended = pannier_reactor::run(seat, async move {
        let limits = descriptors.limits(listeners.own);
        let worker = Rc::new(Worker::new(policies.adopt(), counters, ring, hot, limits, mesh, beat));
        for (door, socket) in listeners.sockets {
            match Listener::new(socket) {
                Ok(listener) => pannier_reactor::spawn(accept(worker.clone(), listener, door)),
                Err(e) => return eprintln!("cannot accept: {e}"),
            }
        }
        pannier_reactor::spawn(tick(worker.clone()));
        pannier_reactor::spawn(Warm::keep(worker.clone()));
        loop {
            worker.adopt(policies.adopt());
            if policies.is_leaving() {
                worker.leave();
            }
            policies.changed.notified().await;
        }
    });
    if let Err(e) = ended {
        eprintln!("no reactor: {e}");
    }
}

async fn accept(worker: Rc<Worker>, listener: Listener, door: Door) {
    let end = EndProcess;
    while !worker.is_leaving() {
        if worker.is_full() {
            if listener.has_caller() {
                worker.make_room();
            }
            sleep(FULL_PAUSE).await;
            continue;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.wait_leaving() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                worker.count(Counter::ConnectionsAccepted);
                let (worker, held) = (worker.clone(), worker.hold_connection());
                pannier_reactor::spawn(async move {
                    welcome(worker.clone(), stream, peer, door).await;
                    worker.count(Counter::ConnectionsClosed);
                    drop(held);
                });
            }
            Err(e) => {
                worker.count(Counter::AcceptErrors);
                let errno = Errno::from_io_error(&e);
                if !worker.reserve.is_told(errno) && errno != Some(Errno::CONNABORTED) {
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
    listener.leave();
    std::mem::forget(end);
}

/// Serves a connection to its end, by the door that it came in.
async fn welcome(worker: Rc<Worker>, stream: Stream, peer: Peer, door: Door) {
    let from = || peer.address().parse().ok();
    match door {
        Door::Side(direction) => {
            let serving = Serving::own(&worker, direction);
            connection::serve(worker, stream, peer, serving, Vec::new()).await;
        }
        Door::Gateway => {
            let from = from();
            gateway::serve(worker, stream, peer, from).await;
        }
        Door::PassThrough => passthrough::serve(worker, stream, from()).await,
    }
}

/// Sweeps deadlines while there are any; else only says, twice a second, that the loop turns.
async fn tick(worker: Rc<Worker>) {
    let _end = EndProcess;
    let (mut purge_at, mut late) = (0, Duration::ZERO);
    loop {
        let now = clock::monotonic_ms();
        worker.turn(late);
        worker.timers.sweep(now);
        let is_wanted = worker.pool.make_room(now);
        if now >= purge_at {
            worker.pool.purge(now);
            worker.reserve.refill();
            purge_at = now + 1_000;
        }
        let quiet = if worker.is_draining() || is_wanted { timers::TICK } else { Duration::from_millis(500) };
        let (before_ns, wait) = (clock::monotonic_ns(), worker.timers.next(quiet));
        tokio::select! {
            () = worker.timers.wait(quiet) => {}
            () = WANTED.notified() => {}
        }
        late = Duration::from_nanos(clock::monotonic_ns().saturating_sub(before_ns)).saturating_sub(wait);
    }
}
