//! A connection of the app that leaves: from here on its bytes go to a Central and come from there, and nobody here looks at
//! them. It leaves with a head that has been read and not been served.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use pannier_table::clock;

use crate::buffers;
use crate::central::contact::say;
use crate::stream::Stream;
use crate::worker::Worker;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// It has ended, on both sides.
    Ended,
    /// The Central ended it before a byte of an answer, and nothing but what it left with was sent: it may be served here, if it
    /// does no harm should the Central have begun.
    Unanswered,
}

/// Relays until either side ends. `first` is what was read of the app's request.
pub async fn run(worker: &Rc<Worker>, caller: &Stream, central: &Stream, at: SocketAddr, first: &[u8]) -> Relayed {
    central.probe_peer();
    caller.probe_peer();
    let (sent, received, moved_ms) = (Cell::new(0_u64), Cell::new(0_u64), Cell::new(clock::monotonic_ms()));
    let up = async {
        if copy(first, central, &moved_ms).await.is_ok() {
            let _ = pass(worker, caller, central, &sent, &moved_ms).await;
            let _ = central.shutdown();
            let _ = say(central, &[]).await;
        }
        // The end of the caller's side is none of the answer's.
        std::future::pending::<()>().await;
    };
    let down = pass(worker, central, caller, &received, &moved_ms);
    let outcome = tokio::select! {
        biased;
        outcome = down => Some(outcome),
        () = up => None,
        () = lost(worker, at) => None,
        () = drained(worker, &moved_ms) => None,
    };
    match outcome {
        _ if received.get() == 0 && sent.get() == 0 => return Relayed::Unanswered,
        Some(Ok(())) => drop(caller.shutdown()),
        _ => caller.end_by_reset(),
    }
    Relayed::Ended
}

/// Copies from one to the other until the reader ends.
async fn pass(
    worker: &Worker,
    reader: &Stream,
    writer: &Stream,
    moved: &Cell<u64>,
    moved_ms: &Cell<u64>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    let passed = loop {
        let read = poll_fn(|context| {
            if buffer.capacity() == 0 {
                std::task::ready!(reader.poll_readable(context));
                buffer = worker.buffers.take();
            }
            reader.poll_read(context, &mut buffer)
        });
        match read.await {
            Ok(0) => break Ok(()),
            Ok(read) => moved.set(moved.get() + read as u64),
            Err(error) => break Err(error),
        }
        if let Err(error) = copy(&buffer, writer, moved_ms).await {
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
    passed
}

async fn copy(bytes: &[u8], writer: &Stream, moved_ms: &Cell<u64>) -> io::Result<()> {
    say(writer, bytes).await?;
    moved_ms.set(clock::recent_ms());
    Ok(())
}

/// Returns when the Central is lost: what is on its way there will not be answered.
async fn lost(worker: &Worker, address: SocketAddr) {
    loop {
        let changed = worker.mesh.away.changed.notified();
        if worker.mesh.away.has_lost(address) {
            return;
        }
        changed.await;
    }
}

/// Returns when this process drains and nothing has passed for as long as an idle connection is kept then.
async fn drained(worker: &Worker, moved_ms: &Cell<u64>) {
    let timer = worker.timers.register();
    let _ = timer.until_moving(|| worker.idle_until(moved_ms.get()), std::future::pending::<()>()).await;
}
