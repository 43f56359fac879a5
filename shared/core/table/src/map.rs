//! Mapping a descriptor as atomic words: the one place with `unsafe`.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::thread::futex;

use crate::Error;
use crate::atomic::AtomicU64;

/// May this process store into the mapping?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store would fault.
    Read,
    /// Loads and stores.
    Write,
}

/// A shared mapping of a whole descriptor, seen as 64-bit atomic words. Unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
    access: Access,
    fd: OwnedFd,
}

// SAFETY: the mapping is only reachable as `&[AtomicU64]`, which is `Sync`; the pointer itself is never changed.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of `fd`, which must be at least `bytes` long.
    ///
    /// # Errors
    /// `Layout` if the descriptor is shorter; `Os` if the kernel refuses.
    pub fn new(fd: impl AsFd, bytes: usize, access: Access) -> Result<Self, Error> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
        let size = usize::try_from(fstat(&fd)?.st_size).unwrap_or(0);
        if size < bytes || bytes == 0 {
            return Err(Error::Layout(format!("segment has {size} bytes, {bytes} are needed")));
        }
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours. The segment is sealed
        // against shrinking, so the pages stay valid as long as the mapping does.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &fd, 0)? };
        let Some(base) = NonNull::new(base.cast::<AtomicU64>()) else {
            return Err(Error::Layout("the kernel mapped a segment at address 0".into()));
        };
        Ok(Mapping { base, words: bytes / 8, access, fd })
    }

    /// The whole segment.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned, `words * 8` bytes long, mapped until drop; other processes only ever change it, which
        // atomics allow.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// Whether this mapping may be stored to.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Backs `words` words from `from` with memory, so that a later store cannot raise SIGBUS.
    ///
    /// # Errors
    /// `Os` (for example no memory left in the control group).
    pub fn reserve(&self, from: usize, words: usize) -> Result<(), Error> {
        fallocate(&self.fd, FallocateFlags::KEEP_SIZE, (from * 8) as u64, (words.max(1) * 8) as u64)?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; no reference outlives `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}

/// Wakes everybody who waits for a word to change.
pub fn wake(word: &AtomicU64) {
    let _ = futex::wake(low_half(word), futex::Flags::empty(), i32::MAX as u32);
}

/// Sleeps until somebody wakes those who wait for the word, or `timeout` passes; not at all if its low half is not that of
/// `seen` any more. A read-only mapping will do.
pub fn wait(word: &AtomicU64, seen: u64, timeout: Duration) {
    let timeout = futex::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    let _ = futex::wait(low_half(word), futex::Flags::empty(), seen as u32, Some(&timeout));
}

/// The low 32 bits of a word, as the kernel's futex wants them.
fn low_half(word: &AtomicU64) -> &std::sync::atomic::AtomicU32 {
    const { assert!(cfg!(target_endian = "little")) };
    // SAFETY: same address, smaller size, still aligned; on a little-endian host it is the low half. It is only handed
    // to the kernel, which reads it atomically.
    unsafe { &*std::ptr::from_ref(word).cast() }
}
