//! The way in for other threads: a queue for each reactor, and an eventfd that ends its sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::waker::TaskId;

/// Reactors of one process, those that have ended included.
const MOST: usize = 256;

static ALL: [OnceLock<Remote>; MOST] = [const { OnceLock::new() }; MOST];
static MADE: AtomicUsize = AtomicUsize::new(0);

/// What other threads know of a reactor.
pub(crate) struct Remote {
    woken: Mutex<Vec<TaskId>>,
    is_rung: AtomicBool,
    bell: OwnedFd,
}

/// A place for a reactor, which others can ring at before it runs. Make those of all threads before the first of them runs: a
/// reactor leaves the table of descriptors that it shares with others, and knows the bells that were there.
pub struct Seat {
    pub(crate) number: u8,
    pub(crate) remote: &'static Remote,
}

impl Seat {
    /// The next reactor's place.
    ///
    /// # Errors
    /// When there is no descriptor left; `Other` for the 257th of a process.
    pub fn new() -> io::Result<Seat> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let place = ALL.get(number).ok_or_else(|| io::Error::other("256 reactors are enough for one process"))?;
        Ok(Seat {
            number: number as u8,
            remote: place.get_or_init(|| Remote { woken: Mutex::default(), is_rung: AtomicBool::new(false), bell }),
        })
    }
}

impl Remote {
    /// The tasks that were woken since the last call.
    pub fn take(&self) -> Vec<TaskId> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.is_rung.store(false, Ordering::Release);
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Remote {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Wakes a task of another thread's reactor.
pub(crate) fn schedule(task: TaskId) {
    let Some(remote) = ALL.get(usize::from(task.reactor())).and_then(OnceLock::get) else {
        return;
    };
    let mut woken = remote.woken.lock().unwrap_or_else(PoisonError::into_inner);
    woken.push(task);
    // One ring is enough for all who were woken since it was heard; one that failed is made up for by the next.
    if !remote.is_rung.swap(true, Ordering::AcqRel) && rustix::io::write(&remote.bell, &1_u64.to_ne_bytes()).is_err() {
        remote.is_rung.store(false, Ordering::Release);
    }
}
