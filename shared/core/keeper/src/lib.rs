//! The keeper: it holds and reaps, and decides nothing.
//!
//! It owns what must outlive the supervisor of a service: processes, listening sockets, table memory, piped output, and
//! notes on the run. A supervisor is its one *controller*, over a SEQPACKET socket; when it dies, the next one reads the
//! list and goes on. When none comes within the orphan grace, the keeper ends everything under it and leaves no file.
//!
//! Rules: one thread, no runtime, no policy. Nothing that a controller sends or does ends the keeper or makes it wait.
//! What a child inherits is said in `processes`, the protocol in `protocol`.
//!
//! Refused: PR_SET_PDEATHSIG (it follows the thread that forked, and a dead supervisor must not kill the app); a pid file (the
//! listening socket itself tells whether a keeper lives).

mod ending;
mod files;
mod grace;
mod handover;
mod held;
mod inherited;
mod output;
mod peers;
mod processes;
mod protocol;
mod renew;
mod serve;
mod signals;
mod socket_file;
mod sweep;
mod wire;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use serve::Keeper;
use signals::Signals;

/// How to call it.
pub const USAGE: &str =
    "pannier-keeper --dir DIR --orphan-grace-ms N   (N below 0: never; the listening socket is descriptor 3)";

struct Options {
    directory: PathBuf,
    orphan_grace_ms: i64,
    /// Where an earlier image of this process wrote down what it left.
    left: Option<RawFd>,
    /// Whether that is only to be looked at.
    check: bool,
}

/// Runs `pannier-keeper` with its arguments. 0 after an orderly end, 1 if it cannot start, 2 for wrong usage.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(problem) => {
            complain(&format!("{problem}\nusage: {USAGE}"));
            return ExitCode::from(2);
        }
    };
    if let Some(left) = options.left.filter(|_| options.check) {
        return match read(left) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::FAILURE
            }
        };
    }
    match start(options) {
        Ok(keeper) => {
            keeper.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> io::Result<Keeper> {
    if let Some(left) = options.left {
        return go_on(options.directory, left);
    }
    let listener = inherited::listener()?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let signals = Signals::install()?;
    Ok(Keeper::new(options.directory, options.orphan_grace_ms, listener, signals))
}

/// A keeper in place of an earlier image of this process, whose children it has.
fn go_on(directory: PathBuf, memory: RawFd) -> io::Result<Keeper> {
    let left = read(memory)?;
    let mut named = left.descriptors();
    named.push(memory);
    let owned = inherited::left(&named)?;
    let mut descriptors: BTreeMap<RawFd, _> = named.into_iter().zip(owned).collect();
    descriptors.remove(&memory);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let signals = Signals::install()?;
    renew::unblock_signals();
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor was not left");
    Keeper::taken_over(directory, left, |number| descriptors.remove(&number), signals).ok_or_else(missing)
}

fn read(left: RawFd) -> io::Result<handover::Left> {
    let refused = |wire::Malformed(reason)| io::Error::new(io::ErrorKind::InvalidData, reason);
    handover::decode(&renew::read(left)?).map_err(refused)
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut directory = None;
    let mut orphan_grace_ms = None;
    let (mut left, mut check) = (None, false);
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{} needs a value", option.display()));
        match option.to_str() {
            Some("--dir") => directory = Some(PathBuf::from(value()?)),
            Some("--orphan-grace-ms") => {
                let text = value()?;
                let number = text.to_str().and_then(|text| text.parse().ok());
                orphan_grace_ms = Some(number.ok_or_else(|| format!("{} is no whole number", text.display()))?);
            }
            Some(option @ (renew::LEFT | renew::CHECK)) => {
                check = option == renew::CHECK;
                let text = value()?;
                let number = text.to_str().and_then(|text| text.parse().ok());
                left = Some(number.ok_or_else(|| format!("{} is no descriptor", text.display()))?);
            }
            _ => return Err(format!("unknown argument {}", option.display())),
        }
    }
    Ok(Options {
        directory: directory.ok_or("--dir is missing")?,
        orphan_grace_ms: orphan_grace_ms.ok_or("--orphan-grace-ms is missing")?,
        left,
        check,
    })
}

/// Writes to standard error, which may be closed.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "pannier-keeper: {message}");
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn parsed(arguments: &[&str]) -> Result<(String, i64), String> {
        let options = parse(arguments.iter().map(Into::into))?;
        Ok((options.directory.display().to_string(), options.orphan_grace_ms))
    }

    #[test]
    fn both_options_are_needed_and_no_other_is_known() {
        assert_eq!(parsed(&["--dir", "/run/x", "--orphan-grace-ms", "-1"]), Ok(("/run/x".into(), -1)));
        for wrong in [
            &[][..],
            &["--dir", "/run/x"],
            &["--orphan-grace-ms", "0"],
            &["--dir", "/run/x", "--orphan-grace-ms"],
            &["--dir", "/run/x", "--orphan-grace-ms", "soon"],
            &["--verbose"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
