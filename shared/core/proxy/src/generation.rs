//! The soft stop: another process of the proxy serves the same listeners, tables and memory, and takes the callers over.
//!
//! SIGUSR1, as HAProxy has it. From then on this process accepts nobody; who is connected is served to the end of the request
//! under way and told `Connection: close`; who is idle has the time of any drain. It ends by itself when the last has left.
//! Whoever replaces it kills it at the deadline. The listeners are the keeper's: no caller is refused in between.
//!
//! Refused: the base table (both generations read it), SIGTERM (it ends a proxy that has drained already, at once).

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;

use signal_hook::consts::SIGUSR1;

use crate::policy_watch::Watched;

/// Waits for the soft stop, in a thread of its own.
///
/// # Errors
/// One line when the handler or the thread cannot be had.
pub fn watch(watched: &Watched) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot watch for the soft stop: {error}");
    let (mut told, tell) = UnixStream::pair().map_err(failed)?;
    signal_hook::low_level::pipe::register(SIGUSR1, tell).map_err(failed)?;
    let watched = watched.clone();
    thread::Builder::new()
        .name("soft-stop".into())
        .stack_size(64 << 10)
        .spawn(move || {
            if told.read_exact(&mut [0]).is_ok() {
                watched.leave();
            }
        })
        .map_err(failed)?;
    Ok(())
}
