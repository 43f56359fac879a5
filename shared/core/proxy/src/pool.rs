//! Idle connections to upstreams, by endpoint, the last used first.
//!
//! An upstream may close an idle connection at any moment. A request that may not be repeated is therefore only sent on a
//! connection that was idle for less than [`FRESH_MS`]: shorter than any common server's keep-alive timeout.

use std::cell::RefCell;

use pannier_decide::cluster::{Cluster, Endpoint};
use pannier_table::clock;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;

use crate::timers::TICK;
use crate::upstream::Upstream;

/// Idle connections kept for one endpoint.
const KEPT: usize = 256;
/// A connection idle for longer is closed.
const IDLE_MS: u64 = 30_000;
/// A connection idle for longer is not used for what must not be sent twice.
const FRESH_MS: u64 = 1_000;

const TICK_MS: u64 = TICK.as_millis() as u64;

/// Rung when somebody begins to wait for a connection: another worker may hold an idle one that takes its place.
pub static WANTED: Notify = Notify::const_new();

struct Idle {
    upstream: Upstream,
    since_ms: u64,
}

/// The idle connections of one worker.
#[derive(Default)]
pub struct Pool(RefCell<FxHashMap<u64, Vec<Idle>>>);

impl Pool {
    /// A connection to the endpoint, if a good one is idle. `repeatable`: losing the attempt would do no harm.
    pub fn take(&self, key: u64, repeatable: bool) -> Option<Upstream> {
        let mut all = self.0.borrow_mut();
        let idle = all.get_mut(&key)?;
        let now = clock::recent_ms();
        while let Some(candidate) = idle.pop() {
            let age = now.saturating_sub(candidate.since_ms);
            if age > IDLE_MS || (!repeatable && age > FRESH_MS) {
                if age > IDLE_MS {
                    idle.clear();
                } else {
                    idle.push(candidate);
                }
                return None;
            }
            if candidate.upstream.stream.is_quiet() {
                return Some(candidate.upstream);
            }
        }
        None
    }

    /// Gives a connection back after a complete exchange.
    pub fn give(&self, key: u64, upstream: Upstream) {
        let mut all = self.0.borrow_mut();
        let idle = all.entry(key).or_default();
        if idle.len() < KEPT {
            upstream.offer();
            idle.push(Idle { upstream, since_ms: clock::recent_ms() });
        }
    }

    /// Closes all idle connections of that key.
    pub fn forget(&self, key: u64) {
        self.0.borrow_mut().remove(&key);
    }

    /// Closes one idle connection of a cluster, to make room for one to another of its endpoints; whether there was one.
    pub fn close_one(&self, cluster: &Cluster) -> bool {
        let mut all = self.0.borrow_mut();
        cluster
            .endpoints
            .iter()
            .flat_map(Endpoint::keys)
            .any(|key| all.get_mut(&key).is_some_and(|idle| idle.pop().is_some()))
    }

    /// Closes one idle connection, whatever it is to; whether there was one.
    pub fn close_any(&self) -> bool {
        self.0.borrow_mut().values_mut().any(|idle| idle.pop().is_some())
    }

    /// Closes one idle connection to each endpoint whose service has somebody waiting for one: who waits may be another
    /// worker, which cannot use ours. One of our own would have taken it within a tick; whether one has to be looked at
    /// again then.
    pub fn make_room(&self, now_ms: u64) -> bool {
        let mut is_young = false;
        for idle in self.0.borrow_mut().values_mut() {
            match idle.first() {
                Some(oldest) if !oldest.upstream.is_wanted() => {}
                Some(oldest) if now_ms.saturating_sub(oldest.since_ms) < TICK_MS => is_young = true,
                Some(_) => drop(idle.remove(0)),
                None => {}
            }
        }
        is_young
    }

    /// Closes what has been idle for too long, or was closed by its upstream.
    pub fn purge(&self, now_ms: u64) {
        self.0.borrow_mut().retain(|_, idle| {
            idle.retain(|i| now_ms.saturating_sub(i.since_ms) <= IDLE_MS && i.upstream.stream.is_quiet());
            !idle.is_empty()
        });
    }

    /// Closes what no cluster has any more.
    pub fn retain<'a>(&self, clusters: impl Iterator<Item = &'a Cluster>) {
        let known: FxHashSet<u64> = clusters.flat_map(|c| &c.endpoints).flat_map(Endpoint::keys).collect();
        self.0.borrow_mut().retain(|key, _| known.contains(key));
    }
}
