//! Waiting for a time. For the few places that want it to the millisecond: a request's deadlines are kept elsewhere.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use pannier_table::clock;

use crate::local::{self, Local};

/// Who sleeps, by the time of waking (ns since boot) and a number.
#[derive(Default)]
pub(crate) struct Sleepers {
    all: BTreeMap<(u64, u64), Waker>,
    made: u64,
}

impl Sleepers {
    /// When the first of them is to be woken.
    pub fn first_ns(&self) -> Option<u64> {
        self.all.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes whoever's time has come.
    pub fn due(&mut self, now_ns: u64) -> Option<Waker> {
        self.all.first_entry().filter(|first| first.key().0 <= now_ns).map(|first| first.remove())
    }
}

struct Sleep(Option<(u64, u64)>);

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            let _ = local::with(|local| local.sleepers.borrow_mut().all.remove(&key));
        }
    }
}

/// Returns after `duration`. On a thread without a reactor: at once.
pub async fn sleep(duration: Duration) {
    let at = clock::monotonic_ns().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let mut sleep = Sleep(None);
    poll_fn(|context| {
        if clock::monotonic_ns() >= at {
            return Poll::Ready(());
        }
        let waker = context.waker();
        let slept = local::with(|local| {
            let mut sleepers = local.sleepers.borrow_mut();
            let key = *sleep.0.get_or_insert_with(|| {
                sleepers.made += 1;
                (at, sleepers.made)
            });
            if !sleepers.all.get(&key).is_some_and(|known| known.will_wake(waker)) {
                sleepers.all.insert(key, waker.clone());
            }
        });
        if slept.is_some() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

/// Returns when all who were ready have been polled. Whoever writes then, writes right after the others: the peer is woken
/// by the first and still awake at the last.
pub async fn after_others() {
    if local::with(Local::has_ready).unwrap_or(false) {
        yield_now().await;
    }
}

/// Lets the others have a turn.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
