//! The data path: the only process that touches a request.
//!
//! `main` inherits listeners and segments, enrols, starts the watchers of the tables and one reactor a worker, and then
//! only says that it lives. Workers share nothing that changes: each has its own connections, pools, loads and counters,
//! and a policy that is swapped in whole.
//!
//! | file | what |
//! | --- | --- |
//! | `inherited` | what the keeper handed over |
//! | `policy_watch` | tables → policy → workers |
//! | `generation` | the soft stop: another process of the proxy takes the callers over |
//! | `threads` | a thread and a reactor a worker: accepting, ticking, adopting policies |
//! | `listener` | TCP and Unix listeners as one type |
//! | `worker` | what the connections of one worker share |
//! | `connection` | one caller: head after head |
//! | `stack` | one request: the order of everything that happens to it |
//! | `plan`, `admission`, `attempts`, `outcome` | its parts: before anything is waited for, limits, upstreams, what came of it |
//! | `call`, `retrying`, `replay` | one attempt and what it teaches; whether there is another; the body kept for it |
//! | `mirror` | copies of requests |
//! | `exchange` | one attempt at an upstream: request there, answer back |
//! | `pump`, `splice` | bodies and tunnels; large bodies without a copy |
//! | `pool`, `dial`, `upstream`, `reserve` | connections to upstreams, and descriptors held back for them |
//! | `answer` | what the proxy says itself |
//! | `account` | counters and records of a finished request |
//! | `timers` | coarse deadlines that cost nothing per request |

use std::ffi::OsString;
use std::process::ExitCode;

mod account;
mod admission;
mod answer;
mod attempts;
mod buffers;
mod call;
mod central;
mod connection;
mod dial;
mod exchange;
mod generation;
mod inherited;
mod listener;
mod mirror;
mod notify;
mod outcome;
mod plan;
mod policy_watch;
mod pool;
mod pump;
mod replay;
mod reserve;
mod retrying;
mod splice;
mod stack;
mod stream;
mod threads;
mod timers;
mod upstream;
mod worker;

/// `pannierd proxy --workers N`: serves until it is killed. The service's draining is ordered through the base table; SIGUSR1
/// is the soft stop of this process alone.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(never) => match never {},
        Err(message) => {
            eprintln!("pannierd proxy: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible, String> {
    let workers = worker_count(args)?;
    let inherited = inherited::take()?;
    let segments = inherited::Segments::map(&inherited, workers).map_err(|e| e.to_string())?;
    let (policies, watched) = policy_watch::start(&inherited, &segments, workers)?;
    let listeners = inherited::listeners(inherited, workers)?;
    let beats = threads::start(listeners, &segments, policies)?;
    generation::watch(&watched)?;
    notify::say_alive(&segments.enrolment, &beats, &watched)
}

fn worker_count(args: impl Iterator<Item = OsString>) -> Result<usize, String> {
    let usage = || format!("usage: pannierd proxy --workers N (1…{})", pannier_table::layout::MAX_WORKERS);
    let args: Vec<_> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    match args.as_slice() {
        [flag, count] if flag == "--workers" => {
            count.parse().ok().filter(|n| (1..=pannier_table::layout::MAX_WORKERS).contains(n)).ok_or_else(usage)
        }
        _ => Err(usage()),
    }
}
