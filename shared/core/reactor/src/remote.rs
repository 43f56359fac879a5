//! The way in for other threads: a queue for each reactor, and an eventfd that ends its sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
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
    bell: OwnedFd,
}

impl Remote {
    /// The next reactor's number and its queue.
    pub fn new() -> io::Result<(u8, &'static Remote)> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let place = ALL.get(number).ok_or_else(|| io::Error::other("256 reactors are enough for one process"))?;
        let remote = place.get_or_init(|| Remote { woken: Mutex::default(), bell });
        Ok((number as u8, remote))
    }

    /// The tasks that were woken since the last call.
    pub fn take(&self) -> Vec<TaskId> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
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
    if woken.len() == 1 {
        // The only error is a counter that is full: then the bell is ringing.
        let _ = rustix::io::write(&remote.bell, &1_u64.to_ne_bytes());
    }
}
