//! One thread a worker, with a reactor of its own: it accepts, ticks and adopts policies.

use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pannier_table::clock;
use pannier_table::counters::{Cell as Counter, WorkerCounters};
use pannier_table::hot::HotWords;
use pannier_table::ring::Producer;
use pannier_table::series::Direction;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::connection;
use crate::inherited::{Listeners, Segments};
use crate::notify::Beat;
use crate::policy_watch::Policies;
use crate::stream::Stream;
use crate::timers;
use crate::worker::Worker;

/// Starts a thread a worker; returns their heartbeats.
///
/// # Errors
/// One line when a thread or its segments cannot be had.
pub fn start(
    listeners: Vec<Listeners>,
    segments: &Segments,
    policies: Vec<Arc<Policies>>,
) -> Result<Vec<Arc<Beat>>, String> {
    let mut beats = Vec::new();
    for (index, (listeners, policies)) in listeners.into_iter().zip(policies).enumerate() {
        let beat = Arc::new(Beat::default());
        let counters = WorkerCounters::new(segments.enrolment.clone(), index);
        let ring =
            Producer::new(segments.rings.clone(), segments.enrolment.index(), index).map_err(|e| e.to_string())?;
        let (hot, its_beat) = (segments.hot.clone(), beat.clone());
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let _end = EndProcess;
                run(listeners, counters, ring, hot, &policies, its_beat);
            })
            .map_err(|e| format!("cannot start a worker: {e}"))?;
        beats.push(beat);
    }
    Ok(beats)
}

/// A worker that ends, by whatever means, takes the process with it: the supervisor starts a new one at once, while half
/// a proxy would leave connections waiting in a socket that nobody accepts on.
struct EndProcess;

impl Drop for EndProcess {
    fn drop(&mut self) {
        eprintln!("a worker ended; ending the process so that it is started anew");
        std::process::exit(70);
    }
}

fn run(
    listeners: Listeners,
    counters: WorkerCounters,
    ring: Producer,
    hot: Arc<HotWords>,
    policies: &Policies,
    beat: Arc<Beat>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(e) => return eprintln!("no reactor: {e}"),
    };
    let worker = Rc::new(Worker::new(policies.adopt(), counters, ring, hot, listeners.own, beat));
    LocalSet::new().block_on(&runtime, async {
        for (direction, socket) in listeners.sockets {
            match TcpListener::from_std(socket) {
                Ok(listener) => drop(tokio::task::spawn_local(accept(worker.clone(), listener, direction))),
                Err(e) => return eprintln!("cannot accept: {e}"),
            }
        }
        tokio::task::spawn_local(tick(worker.clone()));
        loop {
            worker.adopt(policies.adopt());
            policies.changed.notified().await;
        }
    });
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, direction: Direction) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                worker.count(Counter::ConnectionsAccepted);
                tokio::task::spawn_local(connection::serve(worker.clone(), Stream::Tcp(stream), direction));
            }
            Err(e) => {
                worker.count(Counter::AcceptErrors);
                if e.raw_os_error() != Some(rustix::io::Errno::CONNABORTED.raw_os_error()) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Sweeps deadlines while there are any; else only says, twice a second, that the loop turns.
async fn tick(worker: Rc<Worker>) {
    let mut purge_at = 0;
    loop {
        let now = clock::monotonic_ms();
        worker.turn();
        worker.timers.sweep(now);
        if now >= purge_at {
            worker.pool.purge(now);
            purge_at = now + 1_000;
        }
        worker.timers.wait(if worker.is_draining() { timers::TICK } else { Duration::from_millis(500) }).await;
    }
}
