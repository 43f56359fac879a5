//! `pannierd`: the data path's process.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(command) if command == "proxy" => pannier_proxy::main(arguments),
        _ => {
            let _ = writeln!(io::stderr(), "usage: pannierd proxy --workers N");
            ExitCode::from(2)
        }
    }
}
