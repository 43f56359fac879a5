//! Bytes between two connections whose requests somebody else looks at: of the app's that leaves for a Central, and of a Central's
//! to the app.
//!
//! Whose turn it is follows from the last byte: if that came from the upstream, an answer is over, or goes on, and else one is
//! waited for. So a connection that only waits for its next request can be told from one with a request under way, which is
//! not ended because nothing has passed for a while.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use pannier_table::clock;

use crate::buffers;
use crate::central::contact::say;
use crate::stream::Stream;
use crate::timers::NEVER;
use crate::worker::Worker;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// The upstream has ended it, or nobody needed it any more.
    Ended,
    /// It broke: the caller must not take what he has for whole.
    Broken,
    /// The upstream ended it before a byte of an answer, and nothing but what it left with was sent: it may be served here, if it
    /// does no harm should the other side have begun.
    Unanswered,
}

/// What has passed.
#[derive(Default)]
struct Passed {
    /// Bytes beyond the first, to the upstream; and those that came from there.
    sent: Cell<u64>,
    received: Cell<u64>,
    /// A request is under way.
    is_asked: Cell<bool>,
    at_ms: Cell<u64>,
}

/// Relays until either side ends. `first` is what was read of the caller already; `at` is the Central that may be lost meanwhile.
pub async fn run(
    worker: &Rc<Worker>,
    caller: &Stream,
    upstream: &Stream,
    at: Option<SocketAddr>,
    first: &[u8],
) -> Relayed {
    upstream.probe_peer();
    caller.probe_peer();
    let passed = Passed::default();
    passed.at_ms.set(clock::monotonic_ms());
    let up = async {
        if first.is_empty() || send(first, upstream, &passed, true).await.is_ok() {
            let _ = pass(worker, caller, upstream, &passed, true).await;
            let _ = upstream.shutdown();
            let _ = say(upstream, &[]).await;
        }
        // The end of the caller's side is none of the answer's.
        pending::<()>().await;
    };
    let outcome = tokio::select! {
        biased;
        outcome = pass(worker, upstream, caller, &passed, false) => outcome.is_ok(),
        () = up => false,
        () = lost(worker, at) => false,
        () = drained(worker, &passed) => true,
    };
    match outcome {
        _ if passed.received.get() == 0 && passed.sent.get() == 0 && !first.is_empty() => Relayed::Unanswered,
        true => Relayed::Ended,
        false => Relayed::Broken,
    }
}

/// Copies from one to the other until the reader ends.
async fn pass(worker: &Worker, reader: &Stream, writer: &Stream, passed: &Passed, is_up: bool) -> io::Result<()> {
    let count = if is_up { &passed.sent } else { &passed.received };
    let mut buffer = Vec::new();
    let ended = loop {
        let read = poll_fn(|context| {
            if buffer.capacity() == 0 {
                std::task::ready!(reader.poll_readable(context));
                buffer = worker.buffers.take();
            }
            reader.poll_read(context, &mut buffer)
        });
        match read.await {
            Ok(0) => break Ok(()),
            Ok(read) => count.set(count.get() + read as u64),
            Err(error) => break Err(error),
        }
        if let Err(error) = send(&buffer, writer, passed, is_up).await {
            break Err(error);
        }
        // Who waits for the next request holds no buffer.
        let full = buffer.len() >= buffers::SIZE / 2;
        buffer.clear();
        if !full {
            worker.buffers.give(std::mem::take(&mut buffer));
        }
    };
    worker.buffers.give(buffer);
    ended
}

async fn send(bytes: &[u8], writer: &Stream, passed: &Passed, is_up: bool) -> io::Result<()> {
    passed.is_asked.set(is_up);
    say(writer, bytes).await?;
    passed.at_ms.set(clock::recent_ms());
    Ok(())
}

/// Returns when the Central is lost: what is on its way there will not be answered.
async fn lost(worker: &Worker, at: Option<SocketAddr>) {
    let Some(address) = at else {
        return pending().await;
    };
    loop {
        let changed = worker.mesh.away.changed.notified();
        if worker.mesh.away.has_lost(address) {
            return;
        }
        changed.await;
    }
}

/// Returns when it only waits for a request, and idle connections are to end.
async fn drained(worker: &Worker, passed: &Passed) {
    let timer = worker.timers.register();
    let until = || if passed.is_asked.get() { NEVER } else { worker.idle_until(passed.at_ms.get()) };
    let _ = timer.until_moving(until, pending::<()>()).await;
}
