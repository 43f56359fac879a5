//! Coarse deadlines that cost nothing per request: a store when one is set, and one sweep of all every [`TICK`].
//!
//! They are compared with the time that the worker read last, which is never older than a [`TICK`] while there are any.
//!
//! Refused: a timer of the reactor per await. Four of them a request are a tenth of the cost of a hop, for a precision
//! that no timeout here needs.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use pannier_table::clock;
use tokio::sync::Notify;

/// How late a deadline may be noticed.
pub const TICK: Duration = Duration::from_millis(25);
/// No deadline.
pub const NEVER: u64 = u64::MAX;

/// The deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

#[derive(Default)]
struct Entry {
    at_ms: u64,
    waker: Option<Waker>,
}

/// Every deadline of a worker.
#[derive(Default)]
pub struct Timers {
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<usize>>,
    in_use: Cell<usize>,
    first: Notify,
}

impl Timers {
    /// A deadline of one's own, unset.
    pub fn register(self: &Rc<Self>) -> Timer {
        if self.in_use.replace(self.in_use.get() + 1) == 0 {
            self.first.notify_one();
        }
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut entries = self.entries.borrow_mut();
            entries.push(Entry::default());
            entries.len() - 1
        });
        let timer = Timer { timers: self.clone(), index };
        timer.set(NEVER);
        timer
    }

    /// How long [`Timers::wait`] waits at most.
    pub fn next(&self, quiet: Duration) -> Duration {
        if self.in_use.get() == 0 { quiet } else { TICK }
    }

    /// Waits for the next sweep: [`TICK`] while there is any deadline, else until there is, at most `quiet`.
    pub async fn wait(&self, quiet: Duration) {
        if self.in_use.get() == 0 {
            tokio::select! {
                () = pannier_reactor::sleep(quiet) => {}
                () = self.first.notified() => {}
            }
        } else {
            pannier_reactor::sleep(TICK).await;
        }
    }

    /// Wakes everybody: a deadline that all of them share has moved.
    pub fn wake_all(&self) {
        self.sweep(NEVER);
    }

    /// Wakes whoever's deadline has passed at `now_ms`.
    pub fn sweep(&self, now_ms: u64) {
        let due: Vec<Waker> = self
            .entries
            .borrow_mut()
            .iter_mut()
            .filter(|entry| entry.at_ms <= now_ms)
            .filter_map(|entry| entry.waker.take())
            .collect();
        for waker in due {
            waker.wake();
        }
    }
}

/// One deadline, of one task.
pub struct Timer {
    timers: Rc<Timers>,
    index: usize,
}

impl Timer {
    fn set(&self, at_ms: u64) {
        if let Some(entry) = self.timers.entries.borrow_mut().get_mut(self.index) {
            entry.at_ms = at_ms;
        }
    }

    /// Runs a future until it is done or `at_ms` (milliseconds since boot) has passed.
    pub async fn until<F: Future>(&self, at_ms: u64, future: F) -> Result<F::Output, Elapsed> {
        self.until_moving(|| at_ms, future).await
    }

    /// The same with a deadline that may move meanwhile: it is asked for whenever the task is polled, so whoever moves it
    /// to an earlier time wakes the task ([`Timers::wake_all`], or by being part of it).
    pub async fn until_moving<F: Future>(&self, at_ms: impl Fn() -> u64, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            let at_ms = at_ms();
            if at_ms != NEVER && clock::recent_ms() >= at_ms {
                return Poll::Ready(Err(Elapsed));
            }
            if let Some(entry) = self.timers.entries.borrow_mut().get_mut(self.index) {
                entry.at_ms = at_ms;
                if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    entry.waker = Some(context.waker().clone());
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(entry) = self.timers.entries.borrow_mut().get_mut(self.index) {
            *entry = Entry { at_ms: NEVER, waker: None };
        }
        self.timers.in_use.set(self.timers.in_use.get() - 1);
        self.timers.free.borrow_mut().push(self.index);
    }
}

/// `timeout_ms` from now; 0 = never.
pub fn after(timeout_ms: u64) -> u64 {
    if timeout_ms == 0 { NEVER } else { clock::recent_ms().saturating_add(timeout_ms) }
}
