//! The relay on tokio: what its reactor, its tasks and its wake-ups cost beyond a bare epoll set.
//!
//! One task a pair. What is read goes into the thread's one buffer and is written on in the same poll, so that nothing
//! is allocated for it unless the other side is full. tokio knows from a short read that a socket is empty, as the bare
//! relay does; and it looks for events when no task is left to run, as the bare relay waits after each batch.

use std::cell::RefCell;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::address::Address;

const BUFFER: usize = 64 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Relays until a signal ends the process.
///
/// # Errors
/// As [`super::serve`].
pub fn serve(listen: &Address, connect: &Address) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().event_interval(u32::MAX).build()?;
    runtime.block_on(accept(listen, connect))
}

async fn accept(at: &Address, connect: &Address) -> Result<(), Box<dyn Error>> {
    let listener = at.listen()?;
    match at {
        Address::Tcp(_) => {
            let listener = TcpListener::from_std(listener.into())?;
            loop {
                let (client, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                begin(client, connect)?;
            }
        }
        Address::Unix(_) => {
            let listener = UnixListener::from_std(listener.into())?;
            loop {
                begin(listener.accept().await?.0, connect)?;
            }
        }
    }
}

fn begin(client: impl Stream, connect: &Address) -> io::Result<()> {
    match (connect.connect(), connect) {
        (Ok(upstream), Address::Tcp(_)) => spawn(client, TcpStream::from_std(upstream.into())?),
        (Ok(upstream), Address::Unix(_)) => spawn(client, UnixStream::from_std(upstream.into())?),
        (Err(error), _) => eprintln!("pannier-bench: {connect}: {error}"),
    }
    Ok(())
}

fn spawn(mut client: impl Stream, mut upstream: impl Stream) {
    let (mut request, mut answer) = (Direction::default(), Direction::default());
    tokio::spawn(poll_fn(move |context| {
        let one = request.advance(context, &mut client, &mut upstream);
        let other = answer.advance(context, &mut upstream, &mut client);
        match (one, other) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }));
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

#[derive(Default)]
struct Direction {
    /// What one side sent and the other has not taken yet.
    held: Vec<u8>,
    /// `from` has ended.
    ending: bool,
    /// `to` was told so.
    ended: bool,
}

impl Direction {
    /// Passes on all that there is; ready at the end of `from`.
    fn advance(
        &mut self,
        context: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
    ) -> Poll<io::Result<()>> {
        while !self.ended {
            while !self.held.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(context, &self.held))?;
                self.held.drain(..written);
            }
            if self.ending {
                ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                self.ended = true;
            } else {
                ready!(self.read(context, from, to))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn read(
        &mut self,
        context: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
    ) -> Poll<io::Result<()>> {
        SHARED.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            ready!(Pin::new(from).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.ending = true;
                return Poll::Ready(Ok(()));
            }
            let written = match Pin::new(to).poll_write(context, bytes) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.held.extend_from_slice(bytes.get(written..).unwrap_or_default());
            Poll::Ready(Ok(()))
        })
    }
}
