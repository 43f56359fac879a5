//! Reaching an instance by way of a Central: whether this request goes that way, and the connection.

use std::cell::RefCell;
use std::net::SocketAddr;

use pannier_central::order;
use pannier_decide::cluster::{Detour, Endpoint};
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;
use rustc_hash::FxHashMap;

use crate::central::away::Class;
use crate::central::contact::{PATIENCE, introduce};
use crate::central::preface::{Preface, Role};
use crate::central::settings::Settings;
use crate::dial::{self, DialError};
use crate::stream::Stream;
use crate::timers::{Timer, after};
use crate::worker::Worker;

/// A Central to which no connection could be made is left alone for so long.
const LEFT_ALONE_MS: u64 = 1_000;

/// Centrals that could not be reached a moment ago, and ways that a Central has refused.
#[derive(Default)]
pub struct Unreachable(RefCell<FxHashMap<(SocketAddr, u64), u64>>);

/// In the place of a way's key: every way by that Central.
const EVERY_WAY: u64 = 0;

impl Unreachable {
    /// Whether nothing goes by that Central for a while.
    pub fn is_out(&self, address: SocketAddr) -> bool {
        let all = self.0.borrow();
        all.get(&(address, EVERY_WAY)).is_some_and(|until_ms| clock::recent_ms() < *until_ms)
    }

    fn has(&self, detour: &Detour) -> bool {
        let all = self.0.borrow();
        let is_out = |key| all.get(&(detour.address, key)).is_some_and(|until_ms| clock::recent_ms() < *until_ms);
        !all.is_empty() && (is_out(EVERY_WAY) || is_out(detour.key))
    }

    /// A Central does not answer: no way by it is taken for a while.
    pub fn note(&self, address: SocketAddr) {
        self.put(address, EVERY_WAY);
    }

    /// It does not know the instance (any more): that way is not taken.
    fn refused(&self, detour: &Detour) {
        self.put(detour.address, detour.key);
    }

    fn put(&self, address: SocketAddr, key: u64) {
        let now = clock::recent_ms();
        let mut all = self.0.borrow_mut();
        all.retain(|_, until_ms| now < *until_ms);
        all.insert((address, key), now + LEFT_ALONE_MS);
    }
}

/// The way by a Central that a request takes, which has drawn `draw`; none: it goes straight. A way that was tried is not tried
/// again.
pub fn choose<'p>(
    worker: &Worker,
    endpoint: &'p Endpoint,
    class: Class,
    draw: f64,
    tried: &[u64],
) -> Option<&'p Detour> {
    if endpoint.detours.is_empty() || worker.mesh.settings().is_none_or(|settings| settings.is_gateway()) {
        return None;
    }
    let whole: f64 = endpoint.detours.iter().map(|detour| detour.share).sum();
    let leaves = order::share(whole, class.criticality, class.repeatable);
    if draw >= leaves {
        return None;
    }
    // What is below the share is uniform again.
    let mut left = draw / leaves * whole;
    let chosen = endpoint.detours.iter().find(|detour| {
        left -= detour.share;
        left < 0.0
    });
    let chosen = chosen.or(endpoint.detours.last())?;
    (!tried.contains(&chosen.key) && !worker.unreachable.has(chosen)).then_some(chosen)
}

/// A connection to a Central, for calls of an instance.
///
/// # Errors
/// When it cannot be had; then the Central is left alone for a while.
pub async fn connect(
    worker: &Worker,
    timer: &Timer,
    detour: &Detour,
    service: &str,
    instance: &str,
    timeout_ms: u64,
) -> Result<Stream, DialError> {
    let settings = worker.mesh.settings().ok_or(DialError::Failed)?;
    let preface = Preface::to(Role::Inbound, service, instance, 0);
    let name = settings.table.service.clone();
    let connected = reach(worker, timer, &settings, detour.address, &name, &preface, timeout_ms).await;
    match connected {
        Err(Unreached::Refused) => worker.unreachable.refused(detour),
        // Who had little time himself has learned nothing.
        Err(Unreached::Broken) if timeout_ms == 0 || timeout_ms >= PATIENCE.as_millis() as u64 => {
            worker.unreachable.note(detour.address);
        }
        _ => {}
    }
    connected.map_err(|_| DialError::Failed)
}

/// Why there is no connection.
#[derive(Clone, Copy)]
enum Unreached {
    Refused,
    Broken,
}

/// A connection from a Central to the app of an instance, through the pass-through port of its proxy.
///
/// # Errors
/// When it cannot be had.
pub async fn pass_through(
    worker: &Worker,
    timer: &Timer,
    address: SocketAddr,
    service: &str,
    instance: &str,
    timeout_ms: u64,
) -> Result<Stream, DialError> {
    let settings = worker.mesh.settings().ok_or(DialError::Failed)?;
    let preface = Preface::to(Role::PassThrough, service, instance, 1);
    let connected = reach(worker, timer, &settings, address, service, &preface, timeout_ms).await;
    connected.map_err(|_| DialError::Failed)
}

async fn reach(
    worker: &Worker,
    timer: &Timer,
    settings: &Settings,
    address: SocketAddr,
    name: &str,
    preface: &Preface,
    timeout_ms: u64,
) -> Result<Stream, Unreached> {
    worker.count(Counter::ConnectsTotal);
    let all = async {
        let stream = dial::tcp(worker, &address).await.map_err(|_| Unreached::Broken)?;
        let introduced = introduce(settings, stream, address, name, preface).await;
        introduced.map_err(|failed| if failed.is_refused { Unreached::Refused } else { Unreached::Broken })
    };
    let connected = timer.until(after(timeout_ms), all).await.unwrap_or(Err(Unreached::Broken));
    if connected.is_err() {
        worker.count(Counter::ConnectsFailed);
    }
    connected
}
