//! Connections to Centrals that are ready before they are needed: a worker's own.

use std::cell::{Cell, RefCell};
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
    since_ms: u64,
}

/// The connections that are ready.
#[derive(Default)]
pub struct Warm {
    ready: RefCell<Vec<Ready>>,
    taken: Notify,
    /// None could be made a moment ago.
    failing: Cell<bool>,
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
            let is_good = now.saturating_sub(ready.since_ms) < most && ready.stream.is_quiet();
            if is_good && worker.mesh.away.has(ready.address) {
                self.taken.notify_one();
                return Some((ready.stream, ready.address));
            }
        }
        self.taken.notify_one();
        if self.failing.get() {
            return None;
        }
        make(worker).await.ok()
    }

    /// Keeps some ready for as long as the worker lives.
    pub async fn keep(worker: Rc<Worker>) {
        let warm = &worker.warm;
        loop {
            let away = &worker.mesh.away;
            // Before anything is looked at, so that no change in between is missed.
            let changed = away.changed.notified();
            let wanted = match (away.targets().is_empty(), away.redirects(), away.is_open()) {
                (true, ..) | (_, true, _) => 0,
                (_, _, false) => CALM,
                (_, _, true) => BUSY,
            };
            let now = clock::monotonic_ms();
            warm.ready.borrow_mut().retain(|ready| {
                now.saturating_sub(ready.since_ms) < OLD_MS && away.has(ready.address) && ready.stream.is_quiet()
            });
            if warm.ready.borrow().len() < wanted && !worker.is_draining() {
                match make(&worker).await {
                    Ok((stream, address)) => {
                        warm.failing.set(false);
                        let since_ms = clock::monotonic_ms();
                        warm.ready.borrow_mut().push(Ready { stream, address, since_ms });
                    }
                    Err(_) => {
                        warm.failing.set(true);
                        pannier_reactor::sleep(PAUSE).await;
                    }
                }
                continue;
            }
            warm.failing.set(false);
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

/// A connection to a Central, by the shares.
async fn make(worker: &Worker) -> Result<(Stream, SocketAddr), String> {
    let settings = worker.mesh.settings().ok_or("there is no Central Mesh")?;
    let unit = worker.random.borrow_mut().unit();
    let address = worker.mesh.away.choose(unit).ok_or("no Central takes anything")?;
    let preface = Preface {
        role: Role::Outbound,
        service: worker.policy().service.to_string(),
        instance: settings.table.instance.clone(),
        revision: worker.mesh.revision(),
        hops: 0,
        // Below the weight: it is welcome until that falls below it.
        draw: worker.random.borrow_mut().unit() * worker.mesh.away.weight(),
    };
    let dialled = tokio::select! {
        biased;
        dialled = dial::tcp(worker, &address) => dialled.map_err(|error| format!("{address}: {error}")),
        () = pannier_reactor::sleep(PATIENCE) => Err(format!("{address} does not answer")),
    }?;
    let introduced = introduce(&settings, dialled, address, &settings.table.service, &preface).await;
    introduced.map(|stream| (stream, address)).map_err(|failed| failed.why)
}
