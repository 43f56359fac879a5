//! Who comes in at a gateway or a pass-through port: encrypted or not, with a preface or without one.

use std::net::IpAddr;

use pannier_table::clock;

use crate::central::preface::{MOST, Preface};
use crate::central::settings::Settings;
use crate::pump;
use crate::stream::Stream;
use crate::timers::{Timer, after};
use crate::worker::Worker;

/// Longest wait for a handshake and a preface, milliseconds.
const PATIENCE_MS: u64 = 5_000;
/// The first byte of a TLS record with a handshake.
const HANDSHAKE: u8 = 0x16;

/// Connections of a worker that have not said yet what they are: strangers do not take the places of callers.
const MOST_ENTERING: usize = 256;

struct Entering<'w>(&'w Worker);

impl<'w> Entering<'w> {
    fn take(worker: &'w Worker) -> Option<Self> {
        let entering = worker.entering.get();
        (entering < MOST_ENTERING).then(|| {
            worker.entering.set(entering + 1);
            Entering(worker)
        })
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.0.entering.set(self.0.entering.get().saturating_sub(1));
    }
}

/// A connection that said what it is.
pub struct Entered {
    #[allow(missing_docs)]
    pub stream: Stream,
    /// None: what came looks like a request, from a kernel that redirects.
    pub preface: Option<Preface>,
    /// What was read behind that.
    pub rest: Vec<u8>,
}

/// Reads what a connection says of itself.
///
/// # Errors
/// One line for what it is not.
pub async fn enter(
    worker: &Worker,
    settings: &Settings,
    stream: Stream,
    from: Option<IpAddr>,
    timer: &Timer,
) -> Result<Entered, String> {
    let may_be_plain = from.is_some_and(|ip| settings.may_be_plain(ip));
    if settings.tls.is_none() && !may_be_plain {
        return Err("it cannot be encrypted, from a network where it has to be".into());
    }
    let deadline = after(PATIENCE_MS);
    // The app's own connection, which the kernel has sent here, may be opened long before it is used.
    let is_apps = may_be_plain && from.is_some_and(|ip| worker.mesh.hosts.at(ip).is_some());
    let entering = Entering::take(worker);
    if entering.is_none() && !is_apps {
        return Err("too many others are about to say what they are".into());
    }
    let _entering = entering.filter(|_| !is_apps);
    let patience = if is_apps { after(worker.policy().timeouts.idle_ms) } else { deadline };
    let mut input = Vec::new();
    let since = clock::recent_ms();
    let until = || patience.min(worker.idle_until(since));
    let first = timer.until_moving(until, pump::read_first(&worker.buffers, &stream, &mut input)).await;
    if !matches!(first, Ok(Ok(1..))) {
        return Err("it said nothing".into());
    }
    let stream = if input.first() == Some(&HANDSHAKE) {
        let tls = settings.tls.as_ref().ok_or("it is encrypted, and there is no certificate here")?;
        let accepted = timer.until(deadline, stream.accept_tls(tls, &input)).await;
        input.clear();
        accepted.map_err(|_| "its handshake took too long")?.map_err(|error| error.to_string())?
    } else if may_be_plain {
        stream
    } else {
        return Err("it is not encrypted, from a network where it has to be".into());
    };
    loop {
        if !input.is_empty() {
            if input.first() != Some(&b'\r') {
                return Ok(Entered { stream, preface: None, rest: input });
            }
            match Preface::parse(&input) {
                Ok(Some((preface, length))) => {
                    input.drain(..length);
                    return Ok(Entered { stream, preface: Some(preface), rest: input });
                }
                Ok(None) => {}
                // Some clients begin with a blank line.
                Err(_) if is_apps => return Ok(Entered { stream, preface: None, rest: input }),
                Err(why) => return Err(why.into()),
            }
            if input.len() > MOST {
                return Err("its header is too long".into());
            }
        }
        match timer.until(deadline, pump::read(&stream, &mut input)).await {
            Ok(Ok(1..)) => {}
            _ => return Err("it did not say what it is".into()),
        }
    }
}
