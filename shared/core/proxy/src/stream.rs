//! TCP and Unix streams as one type, without a box and without a virtual call.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{self, RecvFlags, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

const PEEK: RecvFlags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);

/// A connection.
pub enum Stream {
    /// TCP, with Nagle's algorithm off.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
}

/// The reading half of a borrowed connection.
pub enum ReadHalf<'a> {
    #[allow(missing_docs)]
    Tcp(tcp::ReadHalf<'a>),
    #[allow(missing_docs)]
    Unix(unix::ReadHalf<'a>),
}

/// The writing half of a borrowed connection.
pub enum WriteHalf<'a> {
    #[allow(missing_docs)]
    Tcp(tcp::WriteHalf<'a>),
    #[allow(missing_docs)]
    Unix(unix::WriteHalf<'a>),
}

impl Stream {
    /// Makes the end of this connection, which follows, a reset: what was sent on it is not whole, and a peer that takes
    /// the end of the connection for the end of the message (HTTP/1.0) must not believe that it is.
    pub fn end_by_reset(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = stream.set_zero_linger();
        }
    }

    /// Has TCP find out within a minute and a half if the peer is gone without a word.
    pub fn probe_peer(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(60));
            let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
            let _ = sockopt::set_tcp_keepcnt(stream, 3);
            let _ = sockopt::set_socket_keepalive(stream, true);
        }
    }

    /// Both halves, for use at the same time.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Stream::Tcp(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Stream::Unix(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    /// Waits until there is something to read, holding no buffer meanwhile.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.ready(Interest::READABLE).await.map(drop),
            Stream::Unix(stream) => stream.ready(Interest::READABLE).await.map(drop),
        }
    }

    /// Returns when the peer has closed the connection. What it has sent stays where it is; behind that its end is not seen.
    pub async fn closed(&self) {
        loop {
            if self.readable().await.is_err() {
                return;
            }
            let mut byte = [0];
            let peeked = match self {
                Stream::Tcp(stream) => net::recv(stream, &mut byte, PEEK),
                Stream::Unix(stream) => net::recv(stream, &mut byte, PEEK),
            };
            match peeked {
                Ok((0, _)) => return,
                Ok(_) => std::future::pending().await,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => tokio::task::yield_now().await,
                Err(_) => return,
            }
        }
    }

    /// Whether an idle connection is still good: nothing has arrived on it, not even its end. Costs no system call while
    /// the reactor has seen nothing.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Stream::Tcp(stream) => stream.try_read(&mut byte),
            Stream::Unix(stream) => stream.try_read(&mut byte),
        };
        matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

impl ReadHalf<'_> {
    /// Acknowledges now what has arrived, where TCP would wait up to 40 ms for something to send along. A peer that writes
    /// a message in two pieces, with Nagle's algorithm on, holds the second one back until then.
    pub fn acknowledge(&self) {
        if let ReadHalf::Tcp(half) = self {
            let _ = sockopt::set_tcp_quickack(half.as_ref(), true);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            ReadHalf::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            ReadHalf::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

macro_rules! write_through {
    ($kind:ty, $name:ident) => {
        impl AsyncWrite for $kind {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match &mut *self {
                    $name::Tcp(inner) => Pin::new(inner).poll_write(cx, buf),
                    $name::Unix(inner) => Pin::new(inner).poll_write(cx, buf),
                }
            }
            fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut *self {
                    $name::Tcp(inner) => Pin::new(inner).poll_shutdown(cx),
                    $name::Unix(inner) => Pin::new(inner).poll_shutdown(cx),
                }
            }
        }
    };
}

write_through!(Stream, Stream);
write_through!(WriteHalf<'_>, WriteHalf);
