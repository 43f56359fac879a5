//! One binary for what must be native: each subcommand is a crate of its own.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let command = arguments.next();
    match command.as_deref().and_then(|command| command.to_str()) {
        Some("keep") => pannier_keeper::main(arguments),
        Some("proxy") => pannier_proxy::main(arguments),
        _ => {
            let _ = writeln!(io::stderr(), "usage: {}\n       pannierd proxy --workers N", pannier_keeper::USAGE);
            ExitCode::from(2)
        }
    }
}
