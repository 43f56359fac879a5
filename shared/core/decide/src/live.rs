//! What a process remembers of each service between requests and policies: who is under way, what was spent.
//!
//! It is found by the service's name when a policy is compiled, so a new policy goes on where the one before was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::bucket::Bucket;
use crate::budget::Spent;
use crate::gate::Gate;

/// What is remembered of one service (of inbound, under the empty name), by all workers together.
#[derive(Debug, Default)]
pub struct ServiceLive {
    #[allow(missing_docs)]
    pub name: Box<str>,
    /// Requests under way.
    pub requests: Gate,
    /// Those of them whose body is still to come.
    pub uploads: Gate,
    /// Connections that are open, and who waits for one.
    pub connections: Gate,
    /// Retries under way.
    pub retries: Gate,
    /// Requests in the bulkhead, and who waits for a place.
    pub bulkhead: Gate,
    /// The retry budget.
    pub spent: Spent,
    /// The rate limit.
    pub bucket: Bucket,
}

/// Every service that is remembered.
#[derive(Debug, Default)]
pub struct Live(Mutex<HashMap<Box<str>, Arc<ServiceLive>>>);

impl Live {
    /// What is remembered of `name`; begun if nothing is.
    #[must_use]
    pub fn of(&self, name: &str) -> Arc<ServiceLive> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.into())
            .or_insert_with(|| Arc::new(ServiceLive { name: name.into(), ..ServiceLive::default() }))
            .clone()
    }

    /// Forgets what no policy speaks of any more.
    pub fn retain(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, live| Arc::strong_count(live) > 1);
    }
}
