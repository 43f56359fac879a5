//! Segments as the keeper makes them, payloads that tell whether they are whole, and real child processes.

#![allow(dead_code)] // each test binary uses its part

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pannier_table::map::{Access, Mapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// How long anything that must happen soon may take on a loaded machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A sparse sealed segment.
pub fn segment(bytes: usize) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, bytes as u64).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    fd
}

pub fn writable(fd: impl AsFd, bytes: usize) -> Mapping {
    Mapping::new(fd, bytes, Access::Write).unwrap()
}

pub fn readable(fd: impl AsFd, bytes: usize) -> Mapping {
    Mapping::new(fd, bytes, Access::Read).unwrap()
}

/// A small generator, so that a failure's moment does not depend on the standard library's hasher alone.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn mixed(seed: u64, i: u64) -> u64 {
    (seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// A payload of `words` words and a few bytes, each of which follows from `seed` and its place.
pub fn payload(seed: u64, words: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(words * 8 + 24);
    bytes.extend(seed.to_le_bytes());
    bytes.extend((words as u64).to_le_bytes());
    for i in 0..words as u64 {
        bytes.extend(mixed(seed, i).to_le_bytes());
    }
    bytes.extend(std::iter::repeat_n(seed as u8, (seed % 8) as usize));
    bytes
}

/// The seed of a payload that is whole; panics for any other.
pub fn seed_of(bytes: &[u8]) -> u64 {
    let word = |i: usize| u64::from_le_bytes(bytes[i * 8..][..8].try_into().unwrap());
    let (seed, words) = (word(0), word(1) as usize);
    assert!(bytes == payload(seed, words), "a mix: it begins like snapshot {seed:#x}");
    seed
}

/// Runs the test `child` of this binary in a process of its own; `fd` is reachable there through [`inherited`].
pub fn spawn(role: &str, fd: &OwnedFd) -> Child {
    let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("TEST_ROLE", role)
        .env("TEST_SEGMENT", path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// In a child: what it is to do, and the segment. `None` in the test run itself.
pub fn inherited() -> Option<(String, OwnedFd)> {
    let role = std::env::var("TEST_ROLE").ok()?;
    let path = std::env::var("TEST_SEGMENT").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    Some((role, file.into()))
}

/// In a child: runs `step` until the parent is gone.
pub fn until_orphaned(mut step: impl FnMut()) {
    let parent = std::os::unix::process::parent_id();
    while std::os::unix::process::parent_id() == parent {
        step();
    }
}

/// Gives way to others until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}
