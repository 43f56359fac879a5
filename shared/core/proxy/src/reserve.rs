//! Descriptors held back for those who are served already: when there are no more, new callers wait, and the calls of those
//! who are here go on.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;

use pannier_table::clock;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

/// Descriptors of a worker that stand for nothing until they are needed.
const HELD: usize = 16;
/// For how long nobody new is let in after there was none left.
const NEEDED_MS: u64 = 1_000;

/// The descriptors that a worker holds back.
#[derive(Default)]
pub struct Reserve {
    held: RefCell<Vec<OwnedFd>>,
    needed_until_ms: Cell<u64>,
}

impl Reserve {
    /// Whether an error says that there are no more descriptors; then new callers wait.
    pub fn is_told(&self, error: Option<Errno>) -> bool {
        let is_short = matches!(error, Some(Errno::MFILE | Errno::NFILE));
        if is_short {
            self.needed_until_ms.set(clock::monotonic_ms() + NEEDED_MS);
        }
        is_short
    }

    /// Frees one for a call; whether there was one.
    pub fn free_one(&self) -> bool {
        self.held.borrow_mut().pop().is_some()
    }

    /// Whether there were no others a moment ago.
    pub fn is_needed(&self) -> bool {
        clock::recent_ms() < self.needed_until_ms.get()
    }

    /// Takes back what was freed, while there is enough.
    pub fn refill(&self) {
        let mut held = self.held.borrow_mut();
        while held.len() < HELD && !self.is_needed() {
            match open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(descriptor) => held.push(descriptor),
                Err(_) => return,
            }
        }
    }
}
