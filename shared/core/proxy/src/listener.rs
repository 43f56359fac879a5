//! Where callers arrive: TCP and Unix listeners as one type.
//!
//! Each worker has a TCP listener of its own, and the kernel deals the callers out. SO_REUSEPORT does not exist for Unix
//! sockets: all workers wait on one, all are woken for each caller, and whoever is first accepts. On a quiet host that is
//! the same worker every time, whose core would then serve everybody. So a worker that has accepted more than the others
//! steps back for a moment before it accepts one more.
//! Refused: EPOLLEXCLUSIVE, which wakes the same worker every time; one worker that accepts and hands on, for which a
//! full worker would have to tell the others.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pannier_http::forwarding::Peer;
use pannier_reactor::{Interest, Source, sleep};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, SocketFlags, sockopt};

use crate::inherited::Socket;
use crate::stream::Stream;

/// So many callers more than another worker, and a worker steps back.
const SLACK: usize = 4;
/// For so long; the others have been woken for the same caller.
const STEP_BACK: Duration = Duration::from_millis(1);

/// A listener in a worker's reactor.
pub struct Listener {
    source: Source,
    socket: OwnedFd,
    /// Of one that all workers share.
    turn: Option<Turn>,
    /// For the callers who wait now: those who are left then are nobody else's.
    has_stepped_back: Cell<bool>,
}

impl Listener {
    /// Has the reactor watch it.
    ///
    /// # Errors
    /// The system's, out of memory for example.
    pub fn new(socket: Socket) -> io::Result<Self> {
        let (socket, turn) = match socket {
            Socket::Tcp(socket) => {
                // What is accepted takes it over.
                sockopt::set_tcp_nodelay(&socket, true)?;
                (OwnedFd::from(socket), None)
            }
            Socket::Unix(socket, turn) => (OwnedFd::from(socket), Some(turn)),
        };
        Ok(Listener {
            source: Source::new(&socket, Interest::Read, false)?,
            socket,
            turn,
            has_stepped_back: Cell::new(false),
        })
    }

    /// Whether a caller waits to be accepted.
    pub fn has_caller(&self) -> bool {
        let mut listener = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut listener, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Leaves all further callers to others, who have the socket too.
    pub fn leave(self) {
        self.source.unwatch(&self.socket);
    }

    /// The next caller.
    ///
    /// # Errors
    /// The system's: out of descriptors, or a caller that gave up.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        loop {
            poll_fn(|context| self.source.poll_readable(context)).await;
            if self.turn.as_ref().is_some_and(|turn| turn.is_ahead() && !self.has_stepped_back.get()) {
                sleep(STEP_BACK).await;
                self.has_stepped_back.set(true);
            }
            match net::acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, from)) => return self.welcome(socket, from.and_then(|from| from.try_into().ok())),
                Err(Errno::AGAIN) => {
                    self.has_stepped_back.set(false);
                    self.source.drained();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn welcome(&self, socket: OwnedFd, from: Option<SocketAddr>) -> io::Result<(Stream, Peer)> {
        let stream = match &self.turn {
            None => Stream::tcp(socket, true)?,
            Some(turn) => {
                turn.took();
                Stream::unix(socket)?
            }
        };
        Ok((stream, Peer::new(from.map(|from| from.ip()))))
    }
}

/// How many callers each worker has taken from a socket that they share.
#[derive(Clone, Debug)]
pub struct Turn {
    taken: Arc<[AtomicUsize]>,
    own: usize,
}

impl Turn {
    /// The turns of so many workers.
    pub fn deal(workers: usize) -> Vec<Self> {
        let taken: Arc<[AtomicUsize]> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        (0..workers).map(|own| Turn { taken: taken.clone(), own }).collect()
    }

    fn is_ahead(&self) -> bool {
        let taken = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let least = self.taken.iter().map(taken).min().unwrap_or(0);
        self.taken.get(self.own).map_or(0, taken) >= least + SLACK
    }

    /// Counts a caller, unless nobody else wanted him: who is full, or hangs, has no claim to those that he missed.
    fn took(&self) {
        if let Some(own) = self.taken.get(self.own).filter(|_| !self.is_ahead()) {
            own.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SLACK, Turn};

    #[test]
    fn who_has_taken_more_than_another_steps_back_until_he_has_caught_up() {
        let [one, two] = Turn::deal(2).try_into().unwrap_or_else(|_| unreachable!("two were asked for"));
        for _ in 0..SLACK {
            assert!(!one.is_ahead());
            one.took();
        }
        assert!(one.is_ahead());
        assert!(!two.is_ahead());
        two.took();
        assert!(!one.is_ahead());
    }

    #[test]
    fn what_nobody_else_wanted_is_no_debt() {
        let [one, two] = Turn::deal(2).try_into().unwrap_or_else(|_| unreachable!("two were asked for"));
        for _ in 0..1000 {
            one.took();
        }
        for _ in 0..2 * SLACK {
            assert!(!two.is_ahead());
            two.took();
        }
        assert!(two.is_ahead());
        assert!(!one.is_ahead());
    }

    #[test]
    fn a_worker_alone_never_steps_back() {
        let [alone] = Turn::deal(1).try_into().unwrap_or_else(|_| unreachable!("one was asked for"));
        for _ in 0..1000 {
            alone.took();
            assert!(!alone.is_ahead());
        }
    }
}
