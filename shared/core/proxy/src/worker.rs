//! One reactor: it accepts, ticks, adopts policies, and holds what its connections share. Nothing here is shared with
//! another thread, so nothing here is locked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use pannier_decide::balance::Loads;
use pannier_decide::policy::Policy;
use pannier_decide::random::Random;
use pannier_decide::schema::Lifecycle;
use pannier_table::clock;
use pannier_table::counters::{Cell as Counter, Direction, WorkerCounters};
use pannier_table::hot::HotWords;
use pannier_table::ring::Producer;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::connection;
use crate::inherited::{Listeners, Segments};
use crate::notify::Beat;
use crate::policy_watch::Policies;
use crate::pool::Pool;
use crate::stream::Stream;
use crate::timers::{self, Timers};

/// Buffers begin so large: a head and a small body.
pub const BUFFER: usize = 16 << 10;
/// Buffers kept for reuse.
const SPARE_BUFFERS: usize = 128;
/// Idle connections are kept, and everything that still arrives is served, for so long after draining began: time for a
/// request that was on its way, and for callers to learn from their discovery (which looks twice a second) that we leave.
const DRAIN_IDLE_MS: u64 = 600;

/// A policy that all workers share, counted per worker: a request takes and drops its reference without touching a cache
/// line that another core writes.
pub struct InForce(Arc<Policy>);

impl std::ops::Deref for InForce {
    type Target = Policy;
    fn deref(&self) -> &Policy {
        &self.0
    }
}

/// What the connections of one worker share.
pub struct Worker {
    policy: RefCell<Rc<InForce>>,
    /// Latencies of endpoints.
    pub loads: RefCell<Loads>,
    /// For balancing and ids.
    pub random: RefCell<Random>,
    /// Idle connections to upstreams.
    pub pool: Pool,
    /// Deadlines.
    pub timers: Rc<Timers>,
    /// Its counters.
    pub counters: RefCell<WorkerCounters>,
    /// Its ring.
    pub ring: RefCell<Producer>,
    /// Hot words of endpoints.
    pub hot: Arc<HotWords>,
    /// Addresses that a passed-through request must not reach: our own.
    pub own: Vec<std::net::SocketAddr>,
    buffers: RefCell<Vec<Vec<u8>>>,
    in_flight: Cell<u64>,
    /// When draining began; 0 = it did not.
    draining_since_ms: Cell<u64>,
    beat: Arc<Beat>,
}

impl Worker {
    /// The policy in force; a request keeps the one that it began with.
    pub fn policy(&self) -> Rc<InForce> {
        self.policy.borrow().clone()
    }

    /// Adds one to a fixed counter.
    pub fn count(&self, cell: Counter) {
        self.counters.borrow().count(cell);
    }

    /// An empty buffer.
    pub fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER))
    }

    /// Gives a buffer back; one that grew is let go.
    pub fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut spare = self.buffers.borrow_mut();
        if buffer.capacity() == BUFFER && spare.len() < SPARE_BUFFERS {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// No new request is welcome on a connection once this one is answered.
    pub fn is_draining(&self) -> bool {
        self.draining_since_ms.get() != 0
    }

    /// When a connection that has waited since then is closed because the worker drains (milliseconds since boot). One
    /// that was made during the drain has as much time for its request as any other.
    pub fn idle_until(&self, waiting_since_ms: u64) -> u64 {
        match self.draining_since_ms.get() {
            0 => timers::NEVER,
            since => since.max(waiting_since_ms) + DRAIN_IDLE_MS,
        }
    }

    /// Counts a request in until the guard is dropped.
    pub fn enter(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(self.clone())
    }

    fn adopt(&self, policy: Arc<Policy>) {
        let was = self.is_draining();
        let draining = policy.lifecycle == Lifecycle::Draining;
        self.loads.borrow_mut().retain(&policy.clusters);
        self.pool.retain(&policy.clusters);
        *self.policy.borrow_mut() = Rc::new(InForce(policy));
        match (was, draining) {
            (false, true) => {
                self.draining_since_ms.set(clock::monotonic_ms());
                self.timers.wake_all();
            }
            (true, false) => self.draining_since_ms.set(0),
            _ => {}
        }
    }

    fn turn(&self) {
        let now = clock::monotonic_ms();
        self.beat.at_ms.store(now, Ordering::Relaxed);
        self.beat.in_flight.store(self.in_flight.get(), Ordering::Relaxed);
        let since = self.draining_since_ms.get();
        let drained = since != 0 && self.in_flight.get() == 0 && now >= self.idle_until(since);
        self.beat.drained.store(u64::from(drained), Ordering::Relaxed);
    }
}

/// A request that is being served.
pub struct InFlight(Rc<Worker>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

/// Starts a thread a worker; returns their heartbeats.
///
/// # Errors
/// One line when a thread or its segments cannot be had.
pub fn start(
    listeners: Vec<Listeners>,
    segments: &Segments,
    policies: Vec<Arc<Policies>>,
) -> Result<Vec<Arc<Beat>>, String> {
    let mut beats = Vec::new();
    for (index, (listeners, policies)) in listeners.into_iter().zip(policies).enumerate() {
        let beat = Arc::new(Beat::default());
        let counters = WorkerCounters::new(segments.enrolment.clone(), index);
        let ring =
            Producer::new(segments.rings.clone(), segments.enrolment.index(), index).map_err(|e| e.to_string())?;
        let (hot, its_beat) = (segments.hot.clone(), beat.clone());
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let _end = EndProcess;
                run(listeners, counters, ring, hot, &policies, its_beat);
            })
            .map_err(|e| format!("cannot start a worker: {e}"))?;
        beats.push(beat);
    }
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

fn run(
    listeners: Listeners,
    counters: WorkerCounters,
    ring: Producer,
    hot: Arc<HotWords>,
    policies: &Policies,
    beat: Arc<Beat>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(e) => return eprintln!("no reactor: {e}"),
    };
    let seed = clock::unix_ns() ^ u64::from(std::process::id()) << 32 ^ std::ptr::from_ref(&*beat) as u64;
    let worker = Rc::new(Worker {
        policy: RefCell::new(Rc::new(InForce(policies.adopt()))),
        loads: RefCell::default(),
        random: RefCell::new(Random::new(seed)),
        pool: Pool::default(),
        timers: Rc::default(),
        counters: RefCell::new(counters),
        ring: RefCell::new(ring),
        hot,
        own: listeners.own,
        buffers: RefCell::default(),
        in_flight: Cell::new(0),
        draining_since_ms: Cell::new(0),
        beat,
    });
    LocalSet::new().block_on(&runtime, async {
        for (direction, socket) in listeners.sockets {
            match TcpListener::from_std(socket) {
                Ok(listener) => drop(tokio::task::spawn_local(accept(worker.clone(), listener, direction))),
                Err(e) => return eprintln!("cannot accept: {e}"),
            }
        }
        tokio::task::spawn_local(tick(worker.clone()));
        loop {
            worker.adopt(policies.adopt());
            policies.changed.notified().await;
        }
    });
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, direction: Direction) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                worker.count(Counter::ConnectionsAccepted);
                tokio::task::spawn_local(connection::serve(worker.clone(), Stream::Tcp(stream), direction));
            }
            Err(e) => {
                worker.count(Counter::AcceptErrors);
                if e.raw_os_error() != Some(rustix::io::Errno::CONNABORTED.raw_os_error()) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Sweeps deadlines while there are any; else only says, twice a second, that the loop turns.
async fn tick(worker: Rc<Worker>) {
    let mut turns = 0_u32;
    loop {
        worker.turn();
        worker.timers.sweep(clock::monotonic_ms());
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(40) {
            worker.pool.purge(clock::monotonic_ms());
        }
        let busy = !worker.timers.is_empty() || worker.is_draining();
        tokio::time::sleep(if busy { timers::TICK } else { Duration::from_millis(500) }).await;
    }
}
