//! The load side of `make bench`: a bare relay to compare with, and a client that verifies every answer.
//!
//! Rules: one thread and one epoll set a process, so that its CPU time reads without sharing it out; no allocation and
//! no formatting a request; an answer that was not checked byte by byte counts as an error, never as a request.
//! Refused: wrk, oha and h2load as the primary generator (none compares the body, and each spends more CPU a request
//! than the relay it would measure).

mod address;
mod arguments;
mod client;
mod fleet;
mod histogram;
mod load;
mod options;
mod relay;
mod report;
mod request;
mod response;
mod schedule;

use std::error::Error;
use std::process::ExitCode;

const USAGE: &str = "\
usage: pannier-bench relay --listen ADDRESS --connect ADDRESS [--reactor epoll|tokio|io_uring]
       pannier-bench load --connect ADDRESS [--connections 64] (--requests N | --seconds S) [--rate R]
                          [--host NAME] [--path /] [--method GET] [--body-bytes N]
                          (--expect-body FILE | --expect-bytes N) [--client plain|standard]
       pannier-bench fleet --connect ADDRESS [--token TOKEN] [--instances 100] [--per-service 50] [--hosts 10]
                          [--follows 20] [--ttl-ms 10000] [--spread 14] [--open-rate 200]
                          [--patience 180] [--xds ADDRESS]
ADDRESS is 127.0.0.1:8080, [::1]:8080 or unix:/path
Exit code 77: the kernel refuses the reactor.";

/// As test suites say that something was skipped.
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let outcome = match words.next().as_deref() {
        Some("relay") => relay_command(words),
        Some("load") => load_command(words),
        Some("fleet") => arguments::Arguments::parse(words).and_then(fleet::run),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pannier-bench: {error}");
            ExitCode::from(if error.is::<relay::Refused>() { SKIPPED } else { 2 })
        }
    }
}

fn relay_command(words: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let mut given = arguments::Arguments::parse(words)?;
    let listen = given.required("listen")?.parse()?;
    let connect = given.required("connect")?.parse()?;
    let reactor = given.value("reactor")?.unwrap_or(relay::Reactor::Epoll);
    given.finish()?;
    relay::serve(reactor, &listen, &connect)
}

fn load_command(words: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let options = options::Options::try_new(arguments::Arguments::parse(words)?)?;
    let report = load::run(&options)?;
    println!("{}", report.to_json());
    Ok(())
}
