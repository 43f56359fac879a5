//! Bytes from one connection to another, with backpressure: nothing more is read until what was read is written.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::task::ready;

use pannier_http::body::Relay;
use pannier_http::refusal::Refusal;
use pannier_table::clock;

use crate::buffers::{self, Buffers};
use crate::replay::Kept;
use crate::splice::{self, Pipes};
use crate::stream::Stream;
use crate::timers::{Timer, after};

/// From so many bytes on, a body that came with its head is written beside it; a smaller one is copied behind it: a vectored
/// write costs as much as copying a kilobyte.
const WORTH_A_PIECE: usize = 1 << 10;
/// Pieces of an upload after which its answer is looked for.
const PIECES: u32 = 16;
/// A body that fills a buffer is read in pieces of this size from then on.
const LARGE: usize = 64 << 10;
/// What a caller must upload per second, after [`UPLOAD_GRACE_MS`]; else it is held to be attacking us slowly.
const UPLOAD_BYTES_PER_SECOND: u64 = 240;
const UPLOAD_GRACE_MS: u64 = 10_000;
/// A tunnel through which nothing passes for so long is closed. Long, since its protocol is none of our business; a peer
/// that vanished is found by TCP's own probes.
const TUNNEL_IDLE_MS: u64 = 3_600_000;

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

/// How bytes flow: whose deadline it is, how patient it is, and how many were written so far, whatever becomes of the rest.
pub struct Flow<'a> {
    /// Its deadline.
    pub timer: &'a Timer,
    /// Longest pause on either side, milliseconds; 0 = any.
    pub idle_ms: u64,
    /// When all patience ends: milliseconds since boot.
    pub until_ms: u64,
    /// Also ask for [`UPLOAD_BYTES_PER_SECOND`].
    pub minimum_rate: bool,
    /// Bytes written.
    pub written: &'a Cell<u64>,
    /// Large bodies go through one of these.
    pub pipes: Option<&'a Pipes>,
}

/// Reads more into `input`; 0 = the end.
pub async fn read(reader: &Stream, input: &mut Vec<u8>) -> io::Result<usize> {
    if input.len() == input.capacity() {
        input.reserve(if input.capacity() < buffers::SIZE { buffers::SIZE } else { LARGE });
    }
    poll_fn(|context| reader.poll_read(context, input)).await
}

/// The same, with a buffer that is taken when there is something to read and not before: who waits holds none.
pub async fn read_first(buffers: &Buffers, reader: &Stream, input: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|context| {
        if input.capacity() == 0 {
            ready!(reader.poll_readable(context));
            *input = buffers.take();
        }
        let read = reader.poll_read(context, input);
        if read.is_pending() && input.is_empty() {
            buffers.give(std::mem::take(input));
        }
        read
    })
    .await
}

/// Writes all of `bytes`.
pub async fn write(flow: &Flow<'_>, writer: &Stream, bytes: &[u8]) -> Result<(), PumpError> {
    write_both(flow, writer, bytes, &[]).await
}

/// Writes all of `first` and then of `second`, together where there is room.
async fn write_both(flow: &Flow<'_>, writer: &Stream, mut first: &[u8], mut second: &[u8]) -> Result<(), PumpError> {
    pannier_reactor::after_others().await;
    while !first.is_empty() || !second.is_empty() {
        let some = poll_fn(|context| writer.poll_write(context, first, second));
        match flow.timer.until(after(flow.idle_ms).min(flow.until_ms), some).await {
            Ok(Ok(written)) if written > 0 => {
                flow.written.set(flow.written.get() + written as u64);
                let of_second = written.saturating_sub(first.len());
                first = first.get(written..).unwrap_or(&[]);
                second = second.get(of_second..).unwrap_or(&[]);
            }
            Ok(_) => return Err(PumpError::WriteClosed),
            Err(_) => return Err(PumpError::WriteTimeout),
        }
    }
    if !writer.is_encrypted() {
        return Ok(());
    }
    let flushed = poll_fn(|context| writer.poll_flush(context));
    match flow.timer.until(after(flow.idle_ms).min(flow.until_ms), flushed).await {
        Ok(done) => done.map_err(|_| PumpError::WriteClosed),
        Err(_) => Err(PumpError::WriteTimeout),
    }
}

/// Relays a body. `input` holds what was read of it already, `out` what is to be written before it (a head). What is
/// left in `input` afterwards came after the body. What is sent is kept in `kept`.
pub async fn body(
    flow: &Flow<'_>,
    reader: &Stream,
    writer: &Stream,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
    relay: &mut Relay,
    kept: Option<&Kept>,
) -> Result<(), PumpError> {
    let keep = |sent: &[u8]| {
        if let Some(kept) = kept {
            kept.keep(sent);
        }
    };
    let began_ms = clock::recent_ms();
    let mut received = 0_u64;
    let mut piece = 0_u32;
    loop {
        piece = piece.wrapping_add(1);
        if flow.minimum_rate && piece.is_multiple_of(PIECES) {
            // The answer may have come: who only sends would use up the share of a turn that reading it takes.
            pannier_reactor::yield_now().await;
        }
        let was_full = input.len() == input.capacity();
        let plain = relay.plain(input.len());
        if plain > 0 && (out.is_empty() || plain >= WORTH_A_PIECE) {
            let sent = input.get(..plain).unwrap_or(&[]);
            keep(out);
            keep(sent);
            write_both(flow, writer, out, sent).await?;
            out.clear();
            relay.passed(plain);
            input.drain(..plain);
        } else {
            if !relay.is_done() {
                let taken = relay.relay(input, out).map_err(PumpError::Malformed)?;
                input.drain(..taken);
            }
            keep(out);
            write(flow, writer, out).await?;
            out.clear();
        }
        if relay.is_done() {
            return Ok(());
        }
        let can_splice = input.is_empty() && reader.can_splice() && writer.can_splice();
        if let Some(pipes) = flow.pipes.filter(|_| can_splice && splice::is_worth_it(relay))
            && splice::body(pipes, flow, reader, writer, relay).await?
        {
            return Ok(());
        }
        if was_full && input.capacity() < LARGE {
            input.reserve(LARGE - input.len());
        }
        let mut at_ms = after(flow.idle_ms).min(flow.until_ms);
        if flow.minimum_rate {
            at_ms = at_ms.min(began_ms + UPLOAD_GRACE_MS + received * 1_000 / UPLOAD_BYTES_PER_SECOND);
        }
        match flow.timer.until(at_ms, read(reader, input)).await {
            Ok(Ok(n)) if n > 0 => received += n as u64,
            Ok(Ok(_)) if relay.close(out) => {
                write(flow, writer, out).await?;
                out.clear();
                return Ok(());
            }
            Ok(_) => return Err(PumpError::ReadClosed),
            Err(_) => return Err(PumpError::ReadTimeout),
        }
    }
}

/// Relays bytes both ways until both sides have ended, one has failed, or nothing passed for long: a connection that was
/// upgraded. The slices are what was read already. Returns the bytes (to upstream, to caller).
pub async fn tunnel(
    timer: &Timer,
    caller: &Stream,
    upstream: &Stream,
    to_upstream: &[u8],
    to_caller: &[u8],
) -> (u64, u64) {
    caller.probe_peer();
    upstream.probe_peer();
    let (up, down, moved_ms) = (Cell::new(0), Cell::new(0), Cell::new(clock::monotonic_ms()));
    let both = async {
        tokio::try_join!(
            one_way(caller, upstream, to_upstream, &up, &moved_ms),
            one_way(upstream, caller, to_caller, &down, &moved_ms),
        )
    };
    let _ = timer.until_moving(|| moved_ms.get() + TUNNEL_IDLE_MS, both).await;
    (up.get(), down.get())
}

async fn one_way(
    reader: &Stream,
    writer: &Stream,
    early: &[u8],
    moved: &Cell<u64>,
    moved_ms: &Cell<u64>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(buffers::SIZE);
    buffer.extend_from_slice(early);
    loop {
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let written = poll_fn(|context| writer.poll_write(context, rest, &[])).await?;
            moved.set(moved.get() + written as u64);
            moved_ms.set(clock::monotonic_ms());
            rest = rest.get(written..).unwrap_or(&[]);
        }
        poll_fn(|context| writer.poll_flush(context)).await?;
        buffer.clear();
        if poll_fn(|context| reader.poll_read(context, &mut buffer)).await? == 0 {
            writer.shutdown()?;
            return poll_fn(|context| writer.poll_flush(context)).await;
        }
    }
}
