//! The relay on a bare epoll set.
//!
//! Edge-triggered, so that a request costs one read and one write a side and no `epoll_ctl`: a read that does not fill
//! the buffer has emptied the socket. Writability is asked for only while a write is held up (a Unix socket wakes a
//! writer at every read of its peer).

use std::error::Error;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};

use crate::address::Address;

const LISTENER: u64 = u64::MAX;
const BUFFER: usize = 64 * 1024;

const READABLE: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// Relays until a signal ends the process.
///
/// # Errors
/// The listener cannot be opened, or the kernel refuses an epoll set.
pub fn serve(listen: &Address, connect: &Address) -> Result<(), Box<dyn Error>> {
    let listener = listen.listen()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut pairs = Pairs { epoll, slots: Vec::new(), free: Vec::new() };
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(256);
    loop {
        match epoll::wait(&pairs.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ended = Vec::new();
        for event in events.drain(..) {
            let flags = event.flags;
            match event.data.u64() {
                LISTENER => accept_all(listen, &listener, connect, &mut pairs)?,
                token => {
                    let slot = (token / 2) as usize;
                    if !pairs.step(slot, token % 2 == 0, flags, &mut buffer) {
                        ended.push(slot);
                    }
                }
            }
        }
        // After the batch: a slot that is given anew must not see the events of the pair before it.
        for slot in ended {
            pairs.end(slot);
        }
    }
}

fn accept_all(at: &Address, listener: &OwnedFd, connect: &Address, pairs: &mut Pairs) -> Result<(), Box<dyn Error>> {
    while let Some(client) = at.accept(listener)? {
        match connect.connect() {
            Ok(upstream) => pairs.begin(client, upstream)?,
            Err(error) => eprintln!("pannier-bench: {connect}: {error}"),
        }
    }
    Ok(())
}

struct Pairs {
    epoll: OwnedFd,
    slots: Vec<Option<Pair>>,
    free: Vec<usize>,
}

struct Pair {
    client: Side,
    upstream: Side,
}

struct Side {
    socket: OwnedFd,
    token: u64,
    /// What the other side sent and this socket has not taken yet.
    held: Vec<u8>,
    /// The other side has ended: end here once `held` is out.
    ending: bool,
    ended: bool,
}

impl Side {
    fn new(socket: OwnedFd, token: u64) -> Self {
        Self { socket, token, held: Vec::new(), ending: false, ended: false }
    }
}

impl Pairs {
    fn begin(&mut self, client: OwnedFd, upstream: OwnedFd) -> Result<(), Errno> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let token = slot as u64 * 2;
        epoll::add(&self.epoll, &client, EventData::new_u64(token), READABLE)?;
        epoll::add(&self.epoll, &upstream, EventData::new_u64(token + 1), READABLE)?;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Pair { client: Side::new(client, token), upstream: Side::new(upstream, token + 1) });
        }
        Ok(())
    }

    /// One event of one side; false once the pair has nothing more to do.
    fn step(&mut self, slot: usize, of_client: bool, flags: EventFlags, buffer: &mut [u8]) -> bool {
        let Some(Some(pair)) = self.slots.get_mut(slot) else {
            return true;
        };
        let (this, other) =
            if of_client { (&mut pair.client, &mut pair.upstream) } else { (&mut pair.upstream, &mut pair.client) };
        let outcome = (|| {
            if flags.contains(EventFlags::OUT) && !this.held.is_empty() {
                release(&self.epoll, this)?;
                if this.held.is_empty() {
                    // Reading stopped while this side was blocked, and an edge is not told twice.
                    relay(&self.epoll, other, this, EventFlags::RDHUP, buffer)?;
                }
            }
            relay(&self.epoll, this, other, flags, buffer)
        })();
        outcome.is_ok() && !(pair.client.ending && pair.upstream.ending && pair.client.ended && pair.upstream.ended)
    }

    fn end(&mut self, slot: usize) {
        if self.slots.get_mut(slot).and_then(Option::take).is_some() {
            self.free.push(slot);
        }
    }
}

fn relay(epoll: &OwnedFd, from: &mut Side, to: &mut Side, flags: EventFlags, buffer: &mut [u8]) -> Result<(), Errno> {
    while to.held.is_empty() && !to.ending {
        let size = match read(&from.socket, &mut *buffer) {
            Ok(0) => {
                to.ending = true;
                return end_if_drained(to);
            }
            Ok(size) => size,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..size).unwrap_or_default();
        let written = match write(&to.socket, bytes) {
            Ok(written) => written,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error),
        };
        if written < size {
            to.held.extend_from_slice(bytes.get(written..).unwrap_or_default());
            let both = READABLE | EventFlags::OUT;
            epoll::modify(epoll, to.socket.as_fd(), EventData::new_u64(to.token), both)?;
        }
        if size < buffer.len() && !flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
    }
    Ok(())
}

fn release(epoll: &OwnedFd, side: &mut Side) -> Result<(), Errno> {
    while !side.held.is_empty() {
        match write(&side.socket, &side.held) {
            Ok(written) => drop(side.held.drain(..written)),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    epoll::modify(epoll, side.socket.as_fd(), EventData::new_u64(side.token), READABLE)?;
    end_if_drained(side)
}

fn end_if_drained(side: &mut Side) -> Result<(), Errno> {
    if side.ending && !side.ended && side.held.is_empty() {
        side.ended = true;
        match shutdown(&side.socket, Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error),
        }
    } else {
        Ok(())
    }
}
