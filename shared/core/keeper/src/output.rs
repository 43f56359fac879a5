//! A child's piped output, which never blocks the child.
//!
//! The keeper holds the read side: a dead supervisor gives the app no EPIPE. A supervisor that is dead or stopped gives it
//! no full pipe either: a quarter of a second after something is in a pipe, and again while it is, one more than half full is
//! read down to a quarter and what was read is discarded and counted. A supervisor that is awake is left to read at its own
//! pace, as in any pipeline. Both readers may race for the same bytes (a supervisor that wakes), so the read side is
//! non-blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::PipeFlags;

const CAPACITY: usize = 1 << 20;

/// The read side of one stream.
pub struct Output {
    descriptor: OwnedFd,
    /// Bytes that no supervisor saw.
    pub discarded: u64,
}

impl Output {
    /// A pipe: what stays here, and the write side for the child.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        // The user's quota of pipe memory may be spent; the kernel's default works as well.
        let _ = rustix::pipe::fcntl_setpipe_size(&read, CAPACITY);
        Ok((Self { descriptor: read, discarded: 0 }, write))
    }

    /// One that another image of this process made.
    pub fn taken_over(descriptor: OwnedFd, discarded: u64) -> Self {
        Self { descriptor, discarded }
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Makes room if the pipe is more than half full; whether anything was discarded.
    pub fn relieve(&mut self, scratch: &mut [u8]) -> bool {
        let Ok(capacity) = rustix::pipe::fcntl_getpipe_size(&self.descriptor) else {
            return false;
        };
        let filled = rustix::io::ioctl_fionread(&self.descriptor).unwrap_or(0);
        let filled = usize::try_from(filled).unwrap_or(0);
        if filled <= capacity / 2 {
            return false;
        }
        let before = self.discarded;
        let mut excess = filled - capacity / 4;
        while excess > 0 {
            let size = excess.min(scratch.len());
            match rustix::io::read(&self.descriptor, scratch.get_mut(..size).unwrap_or_default()) {
                Ok(count) if count > 0 => {
                    excess = excess.saturating_sub(count);
                    self.discarded = self.discarded.saturating_add(u64::try_from(count).unwrap_or(0));
                }
                _ => break,
            }
        }
        self.discarded > before
    }
}
