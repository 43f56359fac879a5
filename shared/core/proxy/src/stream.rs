//! A connection, TCP or Unix, encrypted or not: bytes in, bytes out, and whether there is anything to wait for.

use std::cell::RefCell;
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

use crate::tls::{Session, Tls, Wire};

const PEEK: RecvFlags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);

/// A connection.
pub struct Stream {
    // Before the descriptor, so that nobody else can have its number while it is still watched.
    source: Source,
    socket: OwnedFd,
    is_tcp: bool,
    tls: Option<Box<RefCell<Session>>>,
}

impl Stream {
    /// A TCP connection that is made, or being made.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn tcp(socket: OwnedFd, connected: bool) -> io::Result<Stream> {
        Ok(Stream { source: Source::new(&socket, Interest::Both, connected)?, socket, is_tcp: true, tls: None })
    }

    /// A connected Unix stream socket.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn unix(socket: OwnedFd) -> io::Result<Stream> {
        Ok(Stream { source: Source::new(&socket, Interest::Read, true)?, socket, is_tcp: false, tls: None })
    }

    /// Returns when the connection is made.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn connected(&self) -> io::Result<()> {
        poll_fn(|context| self.source.poll_writable(context)).await;
        sockopt::socket_error(&self.socket)?.map_err(Into::into)
    }

    /// Encrypts a fresh connection, whose peer must have a certificate of our authority with the DNS name `name`. That the peer
    /// accepts us in turn is known when it says something: the first read fails if it does not.
    ///
    /// # Errors
    /// Why there is no such connection: `InvalidData` if the peer is another or speaks no TLS 1.3, `UnexpectedEof` if it
    /// ended, `InvalidInput` if that is no name. It takes as long as the peer does: put a deadline around it.
    pub async fn dial_tls(self, tls: &Tls, name: &str) -> io::Result<Stream> {
        let session = Session::client(tls, name)?;
        self.encrypted(session).await
    }

    /// Encrypts a connection that was accepted, and from which `first` was read already. The peer must have a certificate of
    /// our authority: who it is, [`Self::peer_is`] tells.
    ///
    /// # Errors
    /// As for [`Self::dial_tls`]; put a deadline around it.
    pub async fn accept_tls(self, tls: &Tls, first: &[u8]) -> io::Result<Stream> {
        let session = Session::server(tls, first)?;
        self.encrypted(session).await
    }

    async fn encrypted(mut self, session: Session) -> io::Result<Stream> {
        let session = Box::new(RefCell::new(session));
        poll_fn(|context| session.borrow_mut().poll_handshake(self.wire(), context)).await?;
        self.tls = Some(session);
        Ok(self)
    }

    fn wire(&self) -> Wire<'_> {
        Wire { source: &self.source, socket: &self.socket }
    }

    /// Whether the peer has shown a certificate of our authority with that DNS name. Some microseconds: ask once a connection.
    pub fn peer_is(&self, name: &str) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().peer_is(name))
    }

    /// Whether what passes is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether its bytes can go through a pipe: not if this process has to encrypt them.
    pub fn can_splice(&self) -> bool {
        self.tls.is_none()
    }

    /// Ready when there may be something to read, or the end.
    pub fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().poll_readable(self.wire(), context);
        }
        self.source.poll_readable(context)
    }

    /// Reads into the room that `input` has; 0 = the end.
    pub fn poll_read(&self, context: &Context<'_>, input: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().poll_read(self.wire(), context, input);
        }
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

    /// Writes what there is room for of `first` and then `second`. Who has written everything calls [`Self::poll_flush`].
    pub fn poll_write(&self, context: &Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().poll_write(self.wire(), context, first, second);
        }
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

    /// Ready when all that was written is with the kernel: a record of an encrypted connection is sent whole or not at all, so
    /// more of it may have been taken than there was room for.
    pub fn poll_flush(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            Some(tls) => tls.borrow_mut().poll_flush(self.wire(), context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Moves what there is, at most `most` bytes, into an empty pipe; 0 = the end. Only if it [`Self::can_splice`].
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

    /// Moves what there is room for of the `held` bytes in a pipe. Only if it [`Self::can_splice`].
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
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().shutdown(self.wire());
        }
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
        if let Some(tls) = &self.tls {
            return poll_fn(|context| tls.borrow_mut().poll_closed(self.wire(), context)).await;
        }
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
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().is_quiet(self.wire());
        }
        if !self.source.is_readable() {
            return true;
        }
        let is_quiet = matches!(net::recv(&self.socket, &mut [0], PEEK), Err(Errno::AGAIN));
        if is_quiet {
            self.source.drained();
        }
        is_quiet
    }

    /// Writes past the session, as a forger would.
    #[cfg(test)]
    pub fn write_unencrypted(&self, bytes: &[u8]) -> bool {
        net::send(&self.socket, bytes, SendFlags::NOSIGNAL).is_ok()
    }
}
