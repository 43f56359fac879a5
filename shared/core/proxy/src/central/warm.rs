//! Connections to Centrals that are ready before they are needed: a worker's own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use pannier_table::clock;
use tokio::sync::Notify;

use crate::central::contact::{PATIENCE, introduce};
use crate::central::preface::{Preface, Role};
use crate::dial;
use crate::stream::Stream;
use crate::worker::Worker;

/// Kept while nothing leaves, and while something does.
const CALM: usize = 1;
const BUSY: usize = 8;
/// One that is older is not used: a Central closes its own after a minute.
const OLD_MS: u64 = 30_000;
const FRESH_MS: u64 = 1_000;
/// How long to leave a Central alone to which no connection could be made.
const PAUSE: Duration = Duration::from_millis(500);

struct Ready {
    stream: Stream,
    address: SocketAddr,
    /// Of the policy that its preface names.
    revision: u64,
    since_ms: u64,
}

/// The connections that are ready.
#[derive(Default)]
pub struct Warm {
    ready: RefCell<Vec<Ready>>,
    taken: Notify,
}

impl Warm {
    /// A connection to a Central that takes something; made now if none is ready. None: there is none to be had.
    /// One that has been ready for long may be ended the moment that it is used: only what may be repeated goes there.
    pub async fn take(&self, worker: &Worker, repeatable: bool) -> Option<(Stream, SocketAddr)> {
        let now = clock::recent_ms();
        loop {
            let Some(ready) = self.ready.borrow_mut().pop() else {
                break;
            };
            let most = if repeatable { OLD_MS } else { FRESH_MS };
            if now.saturating_sub(ready.since_ms) < most && ready.is_good(worker) {
                self.taken.notify_one();
                return Some((ready.stream, ready.address));
            }
        }
        self.taken.notify_one();
        make(worker).await.map(|ready| (ready.stream, ready.address))
    }

    /// Keeps some ready for as long as the worker lives.
    pub async fn keep(worker: Rc<Worker>) {
        let warm = &worker.warm;
        loop {
            let away = &worker.mesh.away;
            // Before anything is looked at, so that no change in between is missed.
            let changed = away.changed.notified();
            let wanted = match (away.relays(), away.is_open()) {
                (false, _) => 0,
                (true, false) => CALM,
                (true, true) => BUSY,
            };
            let now = clock::monotonic_ms();
            let is_good = |ready: &Ready| now.saturating_sub(ready.since_ms) < OLD_MS && ready.is_good(&worker);
            warm.ready.borrow_mut().retain(is_good);
            if warm.ready.borrow().len() < wanted && !worker.is_draining() {
                match make(&worker).await {
                    Some(ready) => warm.ready.borrow_mut().push(ready),
                    None => pannier_reactor::sleep(PAUSE).await,
                }
                continue;
            }
            if wanted == 0 {
                changed.await;
                continue;
            }
            tokio::select! {
                () = warm.taken.notified() => {}
                () = changed => {}
                () = pannier_reactor::sleep(Duration::from_millis(OLD_MS / 4)) => {}
            }
        }
    }
}

impl Ready {
    fn is_good(&self, worker: &Worker) -> bool {
        self.revision == worker.mesh.revision() && worker.mesh.away.has(self.address) && self.stream.is_quiet()
    }
}

/// A connection to a Central, by the shares; one that could not be had a moment ago is passed over.
async fn make(worker: &Worker) -> Option<Ready> {
    let settings = worker.mesh.settings()?;
    let unit = worker.random.borrow_mut().unit();
    let address = worker.mesh.away.choose(unit, |address| !worker.unreachable.is_out(address))?;
    let revision = worker.mesh.revision();
    let preface = Preface {
        role: Role::Outbound,
        service: worker.policy().service.to_string(),
        instance: settings.table.instance.clone(),
        revision,
        hops: 0,
        // Below the weight: it is welcome until that falls below it.
        draw: worker.random.borrow_mut().unit() * worker.mesh.away.weight(),
    };
    let dialled = tokio::select! {
        biased;
        dialled = dial::tcp(worker, &address) => dialled.ok(),
        () = pannier_reactor::sleep(PATIENCE) => None,
    };
    let introduced = match dialled {
        Some(stream) => introduce(&settings, stream, address, &settings.table.service, &preface).await.ok(),
        None => None,
    };
    if introduced.is_none() {
        worker.unreachable.note(address);
    }
    introduced.map(|stream| Ready { stream, address, revision, since_ms: clock::monotonic_ms() })
}
