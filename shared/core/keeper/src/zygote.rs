//! The zygote: a process of ours that forks others, so that they start sooner and share its memory.
//!
//! It is spawned like any process, under the name `zygote`, with one end of a SEQPACKET pair. It says `i32 0` once it has
//! loaded what it was told to; then each request, with its descriptors (standard streams first), is answered by the new
//! process itself: `i32 pid`, or by the zygote: `i32 -errno`. A request is
//! `list argv, list env, text cwd, list of u32: the number of each descriptor`; the process leads a group of its own.
//!
//! Rules: whatever goes wrong, the caller executes instead, so a zygote may die, hang or talk nonsense. The keeper waits
//! for an answer for at most `PATIENCE`, and gives up a zygote that takes longer; it never waits for one that loads.
//! A request that was given up cannot run later: the socket is shut for reading first and read out after that, so the
//! process either has said its pid, or finds that it cannot and ends.

use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use rustix::process::Pid;

use crate::wire::Writer;

/// The name of its process, and of the descriptor that it is given.
pub const NAME: &str = "zygote";

const PATIENCE: Duration = Duration::from_millis(500);
/// What one message may carry, by the kernel.
const DESCRIPTORS_MAX: usize = 253;

/// What a process is made of, besides its descriptors.
pub struct Birth<'a> {
    pub argv: &'a [OsString],
    pub env: &'a [OsString],
    pub cwd: &'a OsString,
}

/// What became of a request.
pub enum Forked {
    /// A child of the keeper.
    Child(Pid),
    /// It is for the caller to execute; the zygote is as it was.
    Declined,
    /// It is for the caller to execute, and the zygote is of no use any more.
    Broken,
}

/// The keeper's end of the conversation.
pub struct Zygote {
    control: OwnedFd,
    loaded: bool,
}

impl Zygote {
    /// One that is to be started with the second descriptor.
    pub fn new() -> Result<(Self, OwnedFd), Errno> {
        let (control, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { control, loaded: false }, theirs))
    }

    /// Has a process forked whose descriptors are `given`, to be found under the numbers beside them.
    pub fn fork(&self, birth: &Birth<'_>, given: &[(BorrowedFd<'_>, u32)]) -> Forked {
        if given.len() > DESCRIPTORS_MAX {
            return Forked::Declined;
        }
        if let Err(errno) = self.ask(birth, given) {
            return if errno == Errno::MSGSIZE { Forked::Declined } else { Forked::Broken };
        }
        let answer = if self.is_readable(PATIENCE) { self.receive() } else { self.give_up() };
        match answer {
            Some(pid) if pid > 1 => Pid::from_raw(pid).map_or(Forked::Broken, Forked::Child),
            Some(errno) if errno < 0 => Forked::Declined,
            _ => Forked::Broken,
        }
    }

    /// What becomes readable when it has loaded; None once it has.
    pub fn loading(&self) -> Option<BorrowedFd<'_>> {
        (!self.loaded).then(|| self.control.as_fd())
    }

    /// Takes what it says first; whether that is what it should be.
    pub fn has_loaded(&mut self) -> bool {
        self.loaded = self.receive() == Some(0);
        self.loaded
    }

    fn ask(&self, birth: &Birth<'_>, given: &[(BorrowedFd<'_>, u32)]) -> Result<(), Errno> {
        let message = Writer::default()
            .list(birth.argv, |to, argument| to.os_text(argument))
            .list(birth.env, |to, variable| to.os_text(variable))
            .os_text(birth.cwd)
            .list(given, |to, (_, number)| to.u32(*number))
            .into_bytes();
        let descriptors: Vec<BorrowedFd<'_>> = given.iter().map(|(descriptor, _)| *descriptor).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.control, &[IoSlice::new(&message)], &mut control, flags).map(|_| ())
    }

    /// The answer of somebody who may have said it just now; whoever has not, cannot any more.
    fn give_up(&self) -> Option<i32> {
        let _ = rustix::net::shutdown(&self.control, Shutdown::Read);
        self.receive()
    }

    fn receive(&self) -> Option<i32> {
        let mut bytes = [0; 4];
        match rustix::net::recv(&self.control, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((_, 4)) => Some(i32::from_le_bytes(bytes)),
            _ => None,
        }
    }

    fn is_readable(&self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
            let mut polled = [PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut polled, left.as_ref()) {
                Err(Errno::INTR) => {} // SIGCHLD of anybody
                Ok(1..) => return true,
                _ => return false,
            }
        }
    }
}
