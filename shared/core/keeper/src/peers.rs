//! Connections: whole messages in, whole messages out, never blocking.
//!
//! A peer that does not read its replies is not read either, so its queue holds one reply and at most an event for each
//! process that ended meanwhile.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, sockopt};

/// What one attempt to read gave.
pub enum Received {
    /// A message of this length; longer than the buffer if it was cut.
    Message(usize),
    Nothing,
    Gone,
}

struct Outgoing {
    message: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// One connection.
pub struct Peer {
    socket: OwnedFd,
    queue: VecDeque<Outgoing>,
    /// The pid it gave in its HELLO, once that was accepted.
    pub controller: Option<u32>,
}

impl Peer {
    /// Accepts a connection of this user; `None` if there is none, or a foreign one, which is closed.
    ///
    /// Errors when one waits that cannot be taken now (descriptors, memory); it keeps waiting.
    pub fn accept(listener: &OwnedFd) -> Result<Option<Self>, Errno> {
        let socket = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let own = rustix::process::geteuid();
        let is_own = sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own);
        Ok(is_own.then(|| Self { socket, queue: VecDeque::new(), controller: None }))
    }

    /// One that greeted an earlier image of this process.
    pub fn taken_over(socket: OwnedFd, controller: u32) -> Self {
        Self { socket, queue: VecDeque::new(), controller: Some(controller) }
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits to be written.
    pub fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Reads one message. Descriptors that came with it are dropped by the kernel.
    pub fn receive(&self, buffer: &mut [u8]) -> Received {
        match rustix::net::recv(&self.socket, buffer, RecvFlags::TRUNC) {
            Ok((_, 0)) => Received::Gone,
            Ok((_, length)) => Received::Message(length),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_) => Received::Gone,
        }
    }

    /// Queues a message and writes what can be written; `false` if the peer is gone.
    pub fn send(&mut self, message: Vec<u8>, descriptor: Option<OwnedFd>) -> bool {
        self.queue.push_back(Outgoing { message, descriptor });
        self.flush()
    }

    /// Writes what can be written; `false` if the peer is gone.
    pub fn flush(&mut self) -> bool {
        while let Some(next) = self.queue.front() {
            match write(&self.socket, next) {
                Ok(_) => {
                    self.queue.pop_front();
                }
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

fn write(socket: &OwnedFd, outgoing: &Outgoing) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = outgoing.descriptor.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&outgoing.message)], &mut control, SendFlags::NOSIGNAL)
}
