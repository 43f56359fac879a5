//! `pannier-keeper`: the holder's process. A program of its own, since what is not in it can neither fail in it nor take
//! memory in it: with the data path's code behind it, the same keeper is half as large again.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    pannier_keeper::main(env::args_os().skip(1))
}
