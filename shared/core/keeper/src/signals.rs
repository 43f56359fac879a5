//! Signals as readiness of a descriptor.
//!
//! SIGINT, SIGHUP and SIGQUIT of a terminal reach the keeper with the rest of its group and must not end it. They get a
//! handler instead of SIG_IGN, because children inherit what is ignored, never a handler.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// Signals since the last look.
pub struct Signals {
    pipe: UnixStream,
    term: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> io::Result<Self> {
        let (pipe, write) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let term = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGTERM, Arc::clone(&term))?;
        for signal in [SIGCHLD, SIGTERM, SIGHUP, SIGINT, SIGQUIT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { pipe, term })
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Empties the descriptor; whether a SIGTERM was among what came.
    pub fn take(&mut self) -> bool {
        let mut bytes = [0; 64];
        while matches!(self.pipe.read(&mut bytes), Ok(count) if count > 0) {}
        self.term.swap(false, Ordering::Relaxed)
    }
}
