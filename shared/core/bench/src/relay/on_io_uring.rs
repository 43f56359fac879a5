//! The relay on an io_uring: what arrives is received into buffers that the kernel picks, and is sent on from there.
//!
//! One `io_uring_enter` a batch submits what the batch before came to and waits for the next. A socket's receive is
//! armed once and completes again and again (multishot). Of a socket's sends one is in flight at a time, since two
//! might be partial in either order. When the buffers are used up receives stop, and are armed anew as sends give
//! buffers back: a caller who never reads can so hold up the others, which a benchmark may and a proxy must not.
//! Deferred task work needs Linux 6.1, and so everything else that is used here is there, too.

use std::collections::VecDeque;
use std::error::Error;
use std::os::fd::AsRawFd;

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SendFlags, Shutdown, shutdown};

use self::buffers::Buffers;
use super::Refused;
use crate::address::Address;

mod buffers;

const ENTRIES: u32 = 1024;
const COMPLETIONS: u32 = 8192;
const POLL_IN: u32 = 1;

/// What completed, in the low bits of `user_data`; the rest is the side's token.
const LISTENER: u64 = 0;
const RECEIVED: u64 = 1;
const SENT: u64 = 2;

/// Relays until a signal ends the process.
///
/// # Errors
/// As [`super::serve`].
pub fn serve(listen: &Address, connect: &Address) -> Result<(), Box<dyn Error>> {
    let mut relay = Relay::open(listen)?;
    relay.watch_listener()?;
    let mut batch = Vec::with_capacity(COMPLETIONS as usize);
    loop {
        match relay.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::BUSY | Errno::AGAIN)) => {}
            Err(error) => return Err(error.into()),
        }
        batch.extend(relay.ring.completion().map(|done| (done.user_data(), done.result(), done.flags())));
        for (data, result, flags) in batch.drain(..) {
            let (token, what) = (data >> 2, data & 3);
            match what {
                LISTENER => {
                    while let Some(client) = listen.accept(&relay.listener)? {
                        match connect.connect() {
                            Ok(upstream) => relay.begin(client, upstream)?,
                            Err(error) => eprintln!("pannier-bench: {connect}: {error}"),
                        }
                    }
                    if !cqueue::more(flags) {
                        relay.watch_listener()?;
                    }
                }
                RECEIVED => relay.received(token, result, flags)?,
                _ => relay.sent(token, result)?,
            }
        }
        relay.arm_starved()?;
    }
}

struct Relay {
    // Before the buffers: the kernel writes into them until the ring is gone.
    ring: IoUring,
    buffers: Buffers,
    listener: OwnedFd,
    slots: Vec<Option<Pair>>,
    free: Vec<usize>,
    /// Sides whose receive ended because there was no buffer.
    starved: Vec<u64>,
}

struct Pair {
    client: Side,
    upstream: Side,
    /// Operations that the kernel will still complete; the slot is not given anew before.
    outstanding: u32,
    broken: bool,
}

struct Side {
    socket: OwnedFd,
    /// What the other side sent, in order; the first is in flight while `sending`.
    queue: VecDeque<Piece>,
    sending: bool,
    /// The other side has ended: end here once `queue` is empty.
    ending: bool,
    ended: bool,
}

struct Piece {
    buffer: u16,
    start: usize,
    end: usize,
}

impl Side {
    fn new(socket: OwnedFd) -> Result<Self, Errno> {
        // On a non-blocking socket an operation that has to wait would fail instead.
        ioctl_fionbio(&socket, false)?;
        Ok(Self { socket, queue: VecDeque::new(), sending: false, ending: false, ended: false })
    }
}

impl Pair {
    /// This side and the other one.
    fn sides(&mut self, token: u64) -> (&mut Side, &mut Side) {
        if token.is_multiple_of(2) {
            (&mut self.client, &mut self.upstream)
        } else {
            (&mut self.upstream, &mut self.client)
        }
    }

    /// Makes everything outstanding complete.
    fn break_off(&mut self) {
        if !self.broken {
            self.broken = true;
            let _ = shutdown(&self.client.socket, Shutdown::Both);
            let _ = shutdown(&self.upstream.socket, Shutdown::Both);
        }
    }
}

impl Relay {
    fn open(listen: &Address) -> Result<Self, Box<dyn Error>> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)
            .map_err(|error| Refused(format!("io_uring (needs Linux 6.1): {error}")))?;
        let buffers = Buffers::register(&ring)?;
        // Last: nobody shall connect to what is refused.
        let listener = listen.listen()?;
        Ok(Self { ring, buffers, listener, slots: Vec::new(), free: Vec::new(), starved: Vec::new() })
    }

    fn watch_listener(&mut self) -> Result<(), Box<dyn Error>> {
        let poll = opcode::PollAdd::new(Fd(self.listener.as_raw_fd()), POLL_IN).multi(true).build();
        push(&mut self.ring, &poll.user_data(LISTENER))
    }

    fn begin(&mut self, client: OwnedFd, upstream: OwnedFd) -> Result<(), Box<dyn Error>> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let (client, upstream) = (Side::new(client)?, Side::new(upstream)?);
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Pair { client, upstream, outstanding: 0, broken: false });
        }
        let token = slot as u64 * 2;
        self.arm(token)?;
        self.arm(token + 1)
    }

    fn arm(&mut self, token: u64) -> Result<(), Box<dyn Error>> {
        let Some(Some(pair)) = self.slots.get_mut((token / 2) as usize) else {
            return Ok(());
        };
        pair.outstanding += 1;
        let fd = Fd(pair.sides(token).0.socket.as_raw_fd());
        let receive = opcode::RecvMulti::new(fd, buffers::GROUP).build().user_data(token << 2 | RECEIVED);
        push(&mut self.ring, &receive)
    }

    fn arm_starved(&mut self) -> Result<(), Box<dyn Error>> {
        while self.buffers.any_free() {
            let Some(token) = self.starved.pop() else {
                break;
            };
            self.arm(token)?;
        }
        Ok(())
    }

    /// One completion of a side's receive.
    fn received(&mut self, token: u64, result: i32, flags: u32) -> Result<(), Box<dyn Error>> {
        let buffer = cqueue::buffer_select(flags).inspect(|_| self.buffers.taken());
        let Some(Some(pair)) = self.slots.get_mut((token / 2) as usize) else {
            return Ok(());
        };
        let ended = !cqueue::more(flags);
        pair.outstanding -= u32::from(ended);
        let mut rearm = false;
        match (usize::try_from(result), buffer) {
            (Ok(size), Some(buffer)) if size > 0 && !pair.broken => {
                pair.sides(token).1.queue.push_back(Piece { buffer, start: 0, end: size });
                rearm = ended;
            }
            (Ok(_), unused) => {
                if let Some(buffer) = unused {
                    self.buffers.give_back(buffer);
                }
                pair.sides(token).1.ending = true;
            }
            (Err(_), _) if result == -Errno::NOBUFS.raw_os_error() && !pair.broken => self.starved.push(token),
            (Err(_), _) => pair.break_off(),
        }
        if rearm {
            self.arm(token)?;
        }
        self.go_on(token ^ 1)
    }

    /// One completion of a side's send.
    fn sent(&mut self, token: u64, result: i32) -> Result<(), Box<dyn Error>> {
        let Some(Some(pair)) = self.slots.get_mut((token / 2) as usize) else {
            return Ok(());
        };
        pair.outstanding -= 1;
        let this = pair.sides(token).0;
        this.sending = false;
        match (usize::try_from(result), this.queue.front_mut()) {
            (Ok(size), Some(piece)) => {
                piece.start += size;
                if piece.start >= piece.end {
                    self.buffers.give_back(piece.buffer);
                    this.queue.pop_front();
                }
            }
            _ => pair.break_off(),
        }
        self.go_on(token)
    }

    /// Sends what waits for this side, ends it if it is to end, and frees the pair when nothing is left to complete.
    fn go_on(&mut self, token: u64) -> Result<(), Box<dyn Error>> {
        let slot = (token / 2) as usize;
        let Some(place) = self.slots.get_mut(slot) else {
            return Ok(());
        };
        let Some(pair) = place.as_mut() else {
            return Ok(());
        };
        let broken = pair.broken;
        let this = pair.sides(token).0;
        if !broken && !this.sending {
            if let Some(piece) = this.queue.front() {
                this.sending = true;
                let size = (piece.end - piece.start) as u32;
                let from = self.buffers.at(piece.buffer, piece.start);
                let flags = SendFlags::NOSIGNAL.bits().cast_signed();
                let send = opcode::Send::new(Fd(this.socket.as_raw_fd()), from, size).flags(flags).build();
                pair.outstanding += 1;
                return push(&mut self.ring, &send.user_data(token << 2 | SENT));
            }
            if this.ending && !this.ended {
                this.ended = true;
                let _ = shutdown(&this.socket, Shutdown::Write);
            }
        }
        if pair.outstanding == 0 && (pair.broken || pair.client.ended && pair.upstream.ended) {
            for piece in pair.client.queue.drain(..).chain(pair.upstream.queue.drain(..)) {
                self.buffers.give_back(piece.buffer);
            }
            *place = None;
            self.free.push(slot);
            self.starved.retain(|starved| starved / 2 != slot as u64);
        }
        Ok(())
    }
}

fn push(ring: &mut IoUring, entry: &Entry) -> Result<(), Box<dyn Error>> {
    loop {
        // SAFETY: the descriptor and the buffer that an entry names outlive it: a pair stays in its slot until all its
        // operations have completed, a piece of a buffer is given back only after its send, and `Relay` drops the ring
        // before the buffers.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        ring.submit()?;
    }
}
