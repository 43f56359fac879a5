//! Saying that the proxy serves, lives and has drained, in systemd's `sd_notify` format on `NOTIFY_SOCKET`.
//!
//! By path and datagram: it works across restarts of the supervisor, and a dead one costs an error. A socket that is
//! another one is a successor's: he is told at the next look, and not only by the next sign of life, that all is ready.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pannier_table::clock;
use pannier_table::counters::Enrolment;

use crate::policy_watch::Watched;

/// A worker that did not turn its loop for so long has hung.
const HUNG_MS: u64 = 3_000;
/// From one sign of life to the next, as `BEAT_SECONDS` of the sidecars (`shared/ticks.py`).
const BEAT: Duration = Duration::from_secs(2);
/// How often what a supervisor waits for is looked at.
const TICK: Duration = Duration::from_millis(50);

/// What a worker says of itself.
#[derive(Debug, Default)]
pub struct Beat {
    /// When the worker's loop turned last.
    pub at_ms: AtomicU64,
    /// 1 = it was told to drain, and nothing is in flight any more.
    pub drained: AtomicU64,
    /// Requests that have begun so far.
    pub requests: AtomicU64,
    /// How late the loop came to what was due, µs: the worst since somebody took it.
    pub lag_us: AtomicU64,
}

/// Says it for as long as the process lives; falls silent when a worker hangs, so that the watchdog ends the process.
///
/// # Errors
/// When a watcher or a worker has ended, which must end the process.
pub fn say_alive(
    enrolment: &Enrolment,
    beats: &[Arc<Beat>],
    watched: &Watched,
) -> Result<std::convert::Infallible, String> {
    let target = std::env::var_os("NOTIFY_SOCKET");
    let socket = UnixDatagram::unbound().map_err(|e| format!("notify socket: {e}"))?;
    // A supervisor that is stopped does not read: its queue is full, and what is said is lost, not waited with.
    socket.set_nonblocking(true).map_err(|e| format!("notify socket: {e}"))?;
    let say = |text: &str| target.as_ref().is_some_and(|path| socket.send_to(text.as_bytes(), path).is_ok());
    let listener = || {
        let found = target.as_ref().and_then(|path| std::fs::metadata(path).ok())?;
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
    };
    let mut told = None;
    let mut next = Instant::now();
    let mut was_drained = false;
    loop {
        if watched.has_ended() {
            return Err("a watcher of the tables ended".into());
        }
        let alive =
            |beat: &Arc<Beat>| clock::monotonic_ms().saturating_sub(beat.at_ms.load(Ordering::Relaxed)) < HUNG_MS;
        let drained = beats.iter().all(|beat| beat.drained.load(Ordering::Relaxed) == 1);
        let hears = listener();
        if (Instant::now() >= next || hears != told) && beats.iter().all(alive) && watched.has_base() {
            enrolment.heartbeat();
            if say(if drained { "READY=1\nWATCHDOG=1\nPANNIER_DRAINED=1\n" } else { "READY=1\nWATCHDOG=1\n" }) {
                told = hears;
            }
            next = Instant::now() + BEAT;
        }
        if drained && !was_drained {
            say("PANNIER_DRAINED=1\n");
        }
        if drained && watched.is_leaving() {
            std::process::exit(0);
        }
        was_drained = drained;
        let starting = beats.iter().any(|beat| beat.at_ms.load(Ordering::Relaxed) == 0) || !watched.has_base();
        if !starting {
            watched.write_gauges();
        }
        std::thread::sleep(if starting { Duration::from_millis(2) } else { watched.tick(TICK) });
    }
}
