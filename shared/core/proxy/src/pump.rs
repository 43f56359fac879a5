//! Bytes from one connection to another, with backpressure: nothing more is read until what was read is written.

use std::cell::Cell;
use std::io;

use pannier_http::body::Relay;
use pannier_http::refusal::Refusal;
use pannier_table::clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::buffers;
use crate::stream::Stream;
use crate::timers::{Timer, after};

/// A large body is read in pieces of this size.
const LARGE: usize = 64 << 10;
/// What a caller must upload per second, after [`UPLOAD_GRACE_MS`]; else it is held to be attacking us slowly.
const UPLOAD_BYTES_PER_SECOND: u64 = 240;
const UPLOAD_GRACE_MS: u64 = 10_000;

/// Why bytes stopped flowing.
#[derive(Debug)]
pub enum PumpError {
    /// The reading side failed or ended before the body did.
    ReadClosed,
    /// Nothing, or too little, arrived in time.
    ReadTimeout,
    /// The writing side failed.
    WriteClosed,
    /// The writing side took nothing in time.
    WriteTimeout,
    /// The body is malformed.
    Malformed(Refusal),
}

/// How patient a pump is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Longest pause on either side, milliseconds; 0 = any.
    pub idle_ms: u64,
    /// Also ask for [`UPLOAD_BYTES_PER_SECOND`].
    pub minimum_rate: bool,
}

/// Reads more into `input`; 0 = the end.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R, input: &mut Vec<u8>) -> io::Result<usize> {
    if input.len() == input.capacity() {
        input.reserve(if input.capacity() < buffers::SIZE { buffers::SIZE } else { LARGE });
    }
    reader.read_buf(input).await
}

/// Writes all of `bytes`; each pause may last as long as `idle_ms`.
pub async fn write<W: AsyncWrite + Unpin>(
    timer: &Timer,
    idle_ms: u64,
    writer: &mut W,
    mut bytes: &[u8],
) -> Result<(), PumpError> {
    while !bytes.is_empty() {
        match timer.until(after(idle_ms), writer.write(bytes)).await {
            Ok(Ok(written)) if written > 0 => bytes = bytes.get(written..).unwrap_or(&[]),
            Ok(_) => return Err(PumpError::WriteClosed),
            Err(_) => return Err(PumpError::WriteTimeout),
        }
    }
    Ok(())
}

/// Relays a body. `input` holds what was read of it already, `out` what is to be written before it (a head). What is
/// left in `input` afterwards came after the body. Bytes written are added to `written`, also when it fails.
#[allow(clippy::too_many_arguments)] // two ends, two buffers, and what is between them
pub async fn body<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    timer: &Timer,
    patience: Patience,
    reader: &mut R,
    writer: &mut W,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
    relay: &mut Relay,
    written: &Cell<u64>,
) -> Result<(), PumpError> {
    let began_ms = clock::monotonic_ms();
    let mut received = 0_u64;
    loop {
        let plain = if out.is_empty() { relay.plain(input.len()) } else { 0 };
        if plain > 0 {
            write(timer, patience.idle_ms, writer, input.get(..plain).unwrap_or(&[])).await?;
            relay.passed(plain);
            written.set(written.get() + plain as u64);
            input.drain(..plain);
        } else {
            if !relay.is_done() {
                let taken = relay.relay(input, out).map_err(PumpError::Malformed)?;
                input.drain(..taken);
            }
            write(timer, patience.idle_ms, writer, out).await?;
            written.set(written.get() + out.len() as u64);
            out.clear();
        }
        if relay.is_done() {
            return Ok(());
        }
        let mut at_ms = after(patience.idle_ms);
        if patience.minimum_rate {
            at_ms = at_ms.min(began_ms + UPLOAD_GRACE_MS + received * 1_000 / UPLOAD_BYTES_PER_SECOND);
        }
        match timer.until(at_ms, read(reader, input)).await {
            Ok(Ok(n)) if n > 0 => received += n as u64,
            Ok(Ok(_)) if relay.close(out) => {
                write(timer, patience.idle_ms, writer, out).await?;
                written.set(written.get() + out.len() as u64);
                out.clear();
                return Ok(());
            }
            Ok(_) => return Err(PumpError::ReadClosed),
            Err(_) => return Err(PumpError::ReadTimeout),
        }
    }
}

/// Relays bytes both ways until both sides have ended: a connection that was upgraded. Returns (to upstream, to caller).
pub async fn tunnel(caller: &mut Stream, upstream: &mut Stream, to_upstream: &[u8], to_caller: &[u8]) -> (u64, u64) {
    let early = async {
        upstream.write_all(to_upstream).await?;
        caller.write_all(to_caller).await
    };
    if early.await.is_err() {
        return (0, 0);
    }
    let (up, down) = tokio::io::copy_bidirectional(caller, upstream).await.unwrap_or((0, 0));
    (up + to_upstream.len() as u64, down + to_caller.len() as u64)
}
