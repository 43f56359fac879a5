//! The physical limit of a hop: reads, writes, and nothing else. One upstream connection a client connection.
//!
//! The same relay on three reactors, all on one thread, so that what a reactor costs can be read from the difference:
//! a bare epoll set, tokio's reactor and tasks, and an io_uring.

mod epoll;
mod on_io_uring;
mod on_tokio;

use std::error::Error;
use std::str::FromStr;

use crate::address::Address;

/// What wakes the relay up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reactor {
    /// An epoll set, edge-triggered.
    Epoll,
    /// tokio on the current thread.
    Tokio,
    /// An io_uring with multishot receive into provided buffers.
    IoUring,
}

impl FromStr for Reactor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "epoll" => Ok(Self::Epoll),
            "tokio" => Ok(Self::Tokio),
            "io_uring" => Ok(Self::IoUring),
            _ => Err(format!("{text:?} is none of epoll, tokio, io_uring")),
        }
    }
}

/// The kernel does not offer what a reactor stands on, or a sandbox keeps it away.
#[derive(Debug)]
pub struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "refused here: {}", self.0)
    }
}

impl Error for Refused {}

/// Relays until a signal ends the process.
///
/// # Errors
/// The listener cannot be opened, or the kernel refuses the reactor ([`Refused`] where it does not know it at all).
pub fn serve(reactor: Reactor, listen: &Address, connect: &Address) -> Result<(), Box<dyn Error>> {
    match reactor {
        Reactor::Epoll => epoll::serve(listen, connect),
        Reactor::Tokio => on_tokio::serve(listen, connect),
        Reactor::IoUring => on_io_uring::serve(listen, connect),
    }
}
