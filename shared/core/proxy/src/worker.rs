//! What the connections of one worker share. Nothing here is shared with another thread, so nothing here is locked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pannier_decide::balance::Loads;
use pannier_decide::policy::Policy;
use pannier_decide::random::Random;
use pannier_decide::schema::Lifecycle;
use pannier_table::clock;
use pannier_table::counters::{Cell as Counter, WorkerCounters};
use pannier_table::hot::HotWords;
use pannier_table::ring::Producer;
use tokio::sync::Notify;

use crate::buffers::Buffers;
use crate::central::Mesh;
use crate::central::detouring::Unreachable;
use crate::central::warm::Warm;
use crate::notify::Beat;
use crate::pool::Pool;
use crate::reserve::Reserve;
use crate::splice::Pipes;
use crate::timers::{self, Timers};

/// Idle connections are kept, and everything that still arrives is served, for so long after draining began: time for a
/// request that was on its way, and for callers to learn from their discovery (which looks twice a second) that we leave.
const DRAIN_IDLE_MS: u64 = 600;
/// The same where another generation has taken over, and only who is idle for long is not told by an answer: there is time,
/// and a request that comes in the instant of the end is lost.
const LEAVE_IDLE_MS: u64 = 5_000;
/// An idle connection is kept for so long while a worker is full and others wait to be let in; that is looked at as often.
const CROWDED_IDLE_MS: u64 = 1_000;

/// A policy that all workers share, counted per worker: a request takes and drops its reference without touching a cache
/// line that another core writes.
pub struct InForce(Arc<Policy>);

impl InForce {
    /// A policy of one connection.
    pub fn new(policy: Arc<Policy>) -> Self {
        InForce(policy)
    }
}

impl std::ops::Deref for InForce {
    type Target = Policy;
    fn deref(&self) -> &Policy {
        &self.0
    }
}

/// What a worker must keep to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Callers' connections at the same time: half of the descriptors that it may open, so that there is one for each
    /// request's upstream. Further callers wait in the listener, and nobody who is connected suffers.
    pub connections: usize,
    /// Descriptors that it may open.
    pub descriptors: usize,
    /// Addresses that a passed-through request must not reach: our own.
    pub own: Vec<std::net::SocketAddr>,
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
    /// Spare buffers.
    pub buffers: Buffers,
    /// For large bodies.
    pub pipes: Pipes,
    /// Copies of requests under way.
    pub mirrors: Cell<usize>,
    /// Descriptors held back.
    pub reserve: Reserve,
    /// What the process knows of its Central Mesh.
    pub mesh: Arc<Mesh>,
    /// Connections to Centrals that are ready.
    pub warm: Warm,
    /// Centrals that could not be reached a moment ago.
    pub unreachable: Unreachable,
    /// Connections to a gateway or a pass-through port that have not said yet what they are.
    pub entering: Cell<usize>,
    begun: Cell<u64>,
    in_flight: Cell<u64>,
    connections: Cell<usize>,
    most_connections: usize,
    /// Until when callers that are idle are made to leave, because others wait.
    crowded_until_ms: Cell<u64>,
    /// When draining began; 0 = it did not.
    draining_since_ms: Cell<u64>,
    leaving: Cell<bool>,
    has_left: Notify,
    beat: Arc<Beat>,
}

impl Worker {
    /// A worker with a policy, and nothing to do yet.
    pub fn new(
        policy: Arc<Policy>,
        counters: WorkerCounters,
        ring: Producer,
        hot: Arc<HotWords>,
        limits: Limits,
        mesh: Arc<Mesh>,
        beat: Arc<Beat>,
    ) -> Self {
        let seed = clock::unix_ns() ^ u64::from(std::process::id()) << 32 ^ std::ptr::from_ref(&*beat) as u64;
        let seed = policy.seed.unwrap_or(seed);
        Worker {
            policy: RefCell::new(Rc::new(InForce(policy))),
            loads: RefCell::default(),
            random: RefCell::new(Random::new(seed)),
            pool: Pool::default(),
            timers: Rc::default(),
            counters: RefCell::new(counters),
            ring: RefCell::new(ring),
            hot,
            own: limits.own,
            buffers: Buffers::default(),
            pipes: Pipes::new(limits.descriptors),
            mirrors: Cell::new(0),
            reserve: Reserve::default(),
            mesh,
            warm: Warm::default(),
            unreachable: Unreachable::default(),
            entering: Cell::new(0),
            begun: Cell::new(0),
            in_flight: Cell::new(0),
            connections: Cell::new(0),
            most_connections: limits.connections,
            crowded_until_ms: Cell::new(0),
            draining_since_ms: Cell::new(0),
            leaving: Cell::new(false),
            has_left: Notify::new(),
            beat,
        }
    }

    /// The policy in force; a request keeps the one that it began with.
    pub fn policy(&self) -> Rc<InForce> {
        self.policy.borrow().clone()
    }

    /// Adds one to a fixed counter.
    pub fn count(&self, cell: Counter) {
        self.counters.borrow().count(cell);
    }

    /// No new request is welcome on a connection once this one is answered.
    pub fn is_draining(&self) -> bool {
        self.draining_since_ms.get() != 0
    }

    /// When a connection that has waited since then is closed because the worker drains (milliseconds since boot). One
    /// that was made during the drain has as much time for its request as any other.
    pub fn idle_until(&self, waiting_since_ms: u64) -> u64 {
        match self.draining_since_ms.get() {
            0 if clock::recent_ms() < self.crowded_until_ms.get() => waiting_since_ms + CROWDED_IDLE_MS,
            0 => timers::NEVER,
            since => since.max(waiting_since_ms) + if self.leaving.get() { LEAVE_IDLE_MS } else { DRAIN_IDLE_MS },
        }
    }

    /// As many callers are connected as may be, or as there are descriptors for.
    pub fn is_full(&self) -> bool {
        self.connections.get() >= self.most_connections || self.reserve.is_needed()
    }

    /// Has callers leave that have been idle for a while: others wait to be let in.
    pub fn make_room(&self) {
        let now = clock::monotonic_ms();
        if now >= self.crowded_until_ms.get() {
            self.crowded_until_ms.set(now + CROWDED_IDLE_MS);
            self.timers.wake_all();
        }
    }

    /// Counts a caller's connection in until the guard is dropped.
    pub fn hold_connection(self: &Rc<Self>) -> Held {
        self.connections.set(self.connections.get() + 1);
        Held(self.clone())
    }

    /// Counts a request in until the guard is dropped.
    pub fn enter(self: &Rc<Self>) -> InFlight {
        self.begun.set(self.begun.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(self.clone())
    }

    /// Puts a policy in force for the requests that begin from now on.
    pub fn adopt(&self, policy: Arc<Policy>) {
        let was = self.is_draining();
        let draining = policy.lifecycle == Lifecycle::Draining || self.leaving.get();
        if let Some(seed) = policy.seed.filter(|seed| self.policy.borrow().seed != Some(*seed)) {
            *self.random.borrow_mut() = Random::new(seed);
        }
        let guests = self.mesh.hosts.policies();
        let clusters = || guests.iter().chain([&policy]).flat_map(|policy| &policy.clusters);
        self.loads.borrow_mut().retain(clusters());
        self.pool.retain(clusters());
        *self.policy.borrow_mut() = Rc::new(InForce(policy));
        match (was, draining) {
            (false, true) => self.drain(),
            (true, false) => self.draining_since_ms.set(0),
            _ => {}
        }
    }

    fn drain(&self) {
        self.draining_since_ms.set(clock::monotonic_ms());
        self.timers.wake_all();
    }

    /// Accepts nobody any more, and drains for good: another generation takes over.
    pub fn leave(&self) {
        if !self.leaving.replace(true) && !self.is_draining() {
            self.drain();
        }
        self.has_left.notify_waiters();
    }

    /// Whether another generation has taken over.
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Returns when another generation takes over.
    pub async fn wait_leaving(&self) {
        while !self.is_leaving() {
            self.has_left.notified().await;
        }
    }

    /// Says that the loop turns, how late it came to that, and whether the worker has drained.
    pub fn turn(&self, late: Duration) {
        let now = clock::monotonic_ms();
        self.beat.at_ms.store(now, Ordering::Relaxed);
        self.beat.lag_us.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
        self.beat.requests.store(self.begun.get(), Ordering::Relaxed);
        let since = self.draining_since_ms.get();
        let drained = if self.is_leaving() {
            self.connections.get() == 0 && self.mirrors.get() == 0
        } else {
            since != 0 && self.in_flight.get() == 0 && now >= self.idle_until(since)
        };
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

/// A caller that is connected.
pub struct Held(Rc<Worker>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get().saturating_sub(1));
    }
}
