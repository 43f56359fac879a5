//! What the keeper finds open when it starts: its listening socket as descriptor 3, or what an earlier image of this process
//! left; and nothing else that it would keep.
//!
//! With `renew`, the only `unsafe` of the crate. `pidfd_getfd` would be a safe way to the same descriptor, but container runtimes forbid
//! that system call by default.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

const LISTENER: RawFd = 3;

/// Takes the listening socket; every other inherited descriptor above 2 is kept from children. Call it before anything is
/// opened, once. Errors if descriptor 3 is no socket.
pub fn listener() -> io::Result<OwnedFd> {
    let link = fs::read_link(format!("/proc/self/fd/{LISTENER}"))?;
    if !link.as_os_str().as_encoded_bytes().starts_with(b"socket:") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptor 3 is not a listening socket"));
    }
    keep_from_children()?;
    // SAFETY: it is open, as its link shows, and ours alone: it was handed over at exec for this and nothing has taken it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(LISTENER) })
}

/// Takes descriptors that an earlier image of this process names, each once. Errors for one that is not open, or named twice.
pub fn left(named: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    keep_from_children()?;
    let mut seen = BTreeSet::new();
    let is_open = |number: &RawFd| fs::read_link(format!("/proc/self/fd/{number}")).is_ok();
    if let Some(number) = named.iter().find(|number| **number < LISTENER || !is_open(number) || !seen.insert(**number))
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} was not left to this image"),
        ));
    }
    // SAFETY: each is open and named once (checked above), and nothing in this image has taken it: it only just began.
    Ok(named.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) }).collect())
}

fn keep_from_children() -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= LISTENER)
        .collect();
    for number in open {
        // SAFETY: borrowed for one fcntl only, which answers EBADF for a number that is no longer open (the directory just read).
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(descriptor.as_fd(), FdFlags::CLOEXEC);
    }
    Ok(())
}
