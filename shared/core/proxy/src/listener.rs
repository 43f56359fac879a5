//! Where callers arrive: TCP and Unix listeners as one type.
//!
//! Each worker has a TCP listener of its own, and the kernel deals the callers out. SO_REUSEPORT does not exist for Unix
//! sockets: all workers wait on one, all are woken for each caller, and whoever is first accepts. On a quiet host that is
//! the same worker every time, whose core would then serve everybody. So a worker that has accepted more than the others
//! steps back for a moment before it accepts one more.
//! Refused: EPOLLEXCLUSIVE, which wakes the same worker every time; one worker that accepts and hands on, for which a
//! full worker would have to tell the others.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use std::{io, mem};

use tokio::net::{TcpListener, UnixListener};

use crate::inherited::Socket;
use crate::stream::Stream;

/// So many callers more than another worker, and a worker steps back.
const SLACK: usize = 4;
/// For so long; the others have been woken for the same caller.
const STEP_BACK: Duration = Duration::from_millis(1);

/// A listener in a worker's reactor.
pub enum Listener {
    /// This worker's own member of a SO_REUSEPORT group.
    Tcp(TcpListener),
    /// One that all workers share.
    Unix(UnixListener, Turn),
}

impl Listener {
    /// Has the reactor watch it.
    ///
    /// # Errors
    /// The system's, out of memory for example.
    pub fn new(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(socket) => TcpListener::from_std(socket).map(Listener::Tcp),
            Socket::Unix(socket, turn) => UnixListener::from_std(socket).map(|socket| Listener::Unix(socket, turn)),
        }
    }

    /// The next caller.
    ///
    /// # Errors
    /// The system's: out of descriptors, or a caller that gave up.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener, turn) => accept_unix(listener, turn).await,
        }
    }
}

async fn accept_unix(listener: &UnixListener, turn: &Turn) -> io::Result<Stream> {
    loop {
        if turn.is_ahead() {
            tokio::time::sleep(STEP_BACK).await;
        }
        let mut woken = false;
        let accepted = poll_fn(|context| {
            if mem::replace(&mut woken, true) && turn.is_ahead() {
                return Poll::Ready(None);
            }
            listener.poll_accept(context).map(Some)
        });
        if let Some(accepted) = accepted.await {
            let (stream, _) = accepted?;
            turn.took();
            return Ok(Stream::Unix(stream));
        }
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
