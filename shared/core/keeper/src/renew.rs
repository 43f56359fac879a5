//! Another program in place of this one: the process, its children and the descriptors that it leaves stay as they are.
//!
//! What is left travels in memory that has no name. The new program is asked first, in a process of its own, whether it can
//! read that: one that cannot must never become the keeper. Signals are blocked from here until the new image has its
//! handlers, so that none is lost and none ends it in between; `std`'s own exec would unblock them.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

/// The new image's option for what was left, and that for a mere look at it.
pub const LEFT: &str = "--left";
pub const CHECK: &str = "--check-left";

/// How long the new program may look at it; it takes a few milliseconds.
const CHECK_PATIENCE: Duration = Duration::from_secs(2);

/// Memory with these bytes.
pub fn write(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut memory = fs::File::from(rustix::fs::memfd_create("left", MemfdFlags::CLOEXEC)?);
    memory.write_all(bytes)?;
    Ok(memory.into())
}

/// The bytes of such memory.
pub fn read(memory: RawFd) -> io::Result<Vec<u8>> {
    fs::read(format!("/proc/self/fd/{memory}"))
}

/// Asks the program whether it can go on with what was left. Errors with what it said.
pub fn check(program: &Path, arguments: &[OsString], left: &OwnedFd) -> Result<(), String> {
    let number = left.as_raw_fd().to_string();
    let mut command = Command::new(program);
    command.args(arguments).args([CHECK, &number]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let told = |error: io::Error| format!("{}: {error}", program.display());
    rustix::io::fcntl_setfd(left, FdFlags::empty()).map_err(|errno| errno.to_string())?;
    let spawned = command.spawn();
    rustix::io::fcntl_setfd(left, FdFlags::CLOEXEC).map_err(|errno| errno.to_string())?;
    let mut child = spawned.map_err(told)?;
    let deadline = Instant::now() + CHECK_PATIENCE;
    let status = loop {
        match child.try_wait().map_err(told)? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            None => {
                let _ = child.kill();
                break child.wait().map_err(told)?;
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let said = child.stderr.and_then(|stderr| io::read_to_string(stderr).ok()).unwrap_or_default();
    Err(format!("{} cannot take over ({status}): {}", program.display(), said.trim()))
}

/// Becomes the program; `leave` are the descriptors that it gets. Returns only if that fails, and then all is as before.
pub fn exec(program: &Path, arguments: &[OsString], leave: &[RawFd]) -> io::Error {
    let words = [program.as_os_str()].into_iter().chain(arguments.iter().map(OsString::as_os_str));
    let Ok(words) = words.map(|word: &OsStr| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let Some(path) = words.first() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    set_flags(leave, 0);
    let before = block_signals();
    // SAFETY: `path` and all of `pointers` but the last, which is null, are strings that end in NUL and live in `words`.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
    let error = io::Error::last_os_error();
    set_mask(&before);
    set_flags(leave, libc::FD_CLOEXEC);
    error
}

/// Lets the signals through that an earlier image of this process held back.
pub fn unblock_signals() {
    set_mask(&no_signals());
}

fn set_flags(descriptors: &[RawFd], flags: libc::c_int) {
    for descriptor in descriptors {
        // SAFETY: it takes plain numbers; one that is not open is an error that changes nothing.
        unsafe { libc::fcntl(*descriptor, libc::F_SETFD, flags) };
    }
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: a signal set is plain memory, which `sigemptyset` fills.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}

fn block_signals() -> libc::sigset_t {
    let (mut all, mut before) = (no_signals(), no_signals());
    // SAFETY: both sets live here; this process has one thread.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    before
}

fn set_mask(mask: &libc::sigset_t) {
    // SAFETY: the set is valid, and the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}
