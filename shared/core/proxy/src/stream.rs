//! A connection, TCP or Unix: bytes in, bytes out, and whether there is anything to wait for.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pannier_reactor::{Interest, Source, yield_now};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, Shutdown, sockopt};
use rustix::pipe::{SpliceFlags, splice};

const PEEK: RecvFlags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);

/// A connection.
pub struct Stream {
    // Before the descriptor, so that nobody else can have its number while it is still watched.
    source: Source,
    socket: OwnedFd,
    is_tcp: bool,
}

impl Stream {
    /// A TCP connection that is made, or being made.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn tcp(socket: OwnedFd, connected: bool) -> io::Result<Stream> {
        Ok(Stream { source: Source::new(&socket, Interest::Both, connected)?, socket, is_tcp: true })
    }

    /// A connected Unix stream socket.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn unix(socket: OwnedFd) -> io::Result<Stream> {
        Ok(Stream { source: Source::new(&socket, Interest::Read, true)?, socket, is_tcp: false })
    }

    /// Returns when the connection is made.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn connected(&self) -> io::Result<()> {
        poll_fn(|context| self.source.poll_writable(context)).await;
        sockopt::socket_error(&self.socket)?.map_err(Into::into)
    }

    /// Ready when there may be something to read, or the end.
    pub fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        self.source.poll_readable(context)
    }

    /// Reads into the room that `input` has; 0 = the end.
    pub fn poll_read(&self, context: &Context<'_>, input: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.source.poll_readable(context));
            let room = input.capacity() - input.len();
            match net::recv(&self.socket, spare_capacity(input), RecvFlags::empty()) {
                Ok((_, read)) => {
                    if read < room {
                        self.source.drained();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(Errno::AGAIN) => self.source.drained(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes what there is room for of `first` and then `second`.
    pub fn poll_write(&self, context: &Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.source.poll_writable(context));
            let sent = match (first.is_empty(), second.is_empty()) {
                (_, true) => net::send(&self.socket, first, SendFlags::NOSIGNAL),
                (true, _) => net::send(&self.socket, second, SendFlags::NOSIGNAL),
                // A broken pipe is an error here as well: this process ignores the signal.
                _ => rustix::io::writev(&self.socket, &[IoSlice::new(first), IoSlice::new(second)]),
            };
            match sent {
                Ok(sent) => {
                    self.source.wrote(&self.socket)?;
                    return Poll::Ready(Ok(sent));
                }
                Err(Errno::AGAIN) => self.source.filled(&self.socket)?,
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves what there is, at most `most` bytes, into an empty pipe; 0 = the end.
    pub fn poll_splice_out(&self, context: &Context<'_>, pipe: &OwnedFd, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.source.poll_readable(context));
            match splice(&self.socket, None, pipe, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(Errno::AGAIN) => self.source.drained(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves what there is room for of the `held` bytes in a pipe.
    pub fn poll_splice_in(&self, context: &Context<'_>, pipe: &OwnedFd, held: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.source.poll_writable(context));
            match splice(pipe, None, &self.socket, None, held, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
                Ok(moved) => {
                    self.source.wrote(&self.socket)?;
                    return Poll::Ready(Ok(moved));
                }
                Err(Errno::AGAIN) => self.source.filled(&self.socket)?,
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Ends our side.
    pub fn shutdown(&self) -> io::Result<()> {
        Ok(net::shutdown(&self.socket, Shutdown::Write)?)
    }

    /// Makes the end of this connection, which follows, a reset: what was sent on it is not whole, and a peer that takes
    /// the end of the connection for the end of the message (HTTP/1.0) must not believe that it is.
    pub fn end_by_reset(&self) {
        if self.is_tcp {
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }

    /// Has TCP find out within a minute and a half if the peer is gone without a word.
    pub fn probe_peer(&self) {
        if self.is_tcp {
            let _ = sockopt::set_tcp_keepidle(&self.socket, Duration::from_secs(60));
            let _ = sockopt::set_tcp_keepintvl(&self.socket, Duration::from_secs(10));
            let _ = sockopt::set_tcp_keepcnt(&self.socket, 3);
            let _ = sockopt::set_socket_keepalive(&self.socket, true);
        }
    }

    /// Acknowledges now what has arrived, where TCP would wait up to 40 ms for something to send along. A peer that writes
    /// a message in two pieces, with Nagle's algorithm on, holds the second one back until then.
    pub fn acknowledge(&self) {
        if self.is_tcp {
            let _ = sockopt::set_tcp_quickack(&self.socket, true);
        }
    }

    /// Returns when the peer has closed the connection. What it has sent stays where it is; behind that its end is not seen.
    pub async fn closed(&self) {
        loop {
            poll_fn(|context| self.source.poll_readable(context)).await;
            match net::recv(&self.socket, &mut [0], PEEK) {
                Ok((_, 0)) => return,
                Ok(_) => std::future::pending().await,
                Err(Errno::AGAIN) => self.source.drained(),
                Err(Errno::INTR) => yield_now().await,
                Err(_) => return,
            }
        }
    }

    /// Whether an idle connection is still good: nothing has arrived on it, not even its end. Costs no system call while
    /// the reactor has seen nothing.
    pub fn is_quiet(&self) -> bool {
        if !self.source.is_readable() {
            return true;
        }
        let is_quiet = matches!(net::recv(&self.socket, &mut [0], PEEK), Err(Errno::AGAIN));
        if is_quiet {
            self.source.drained();
        }
        is_quiet
    }
}
