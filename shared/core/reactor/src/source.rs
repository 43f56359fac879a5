//! What is known of one descriptor: whether there may be something to read, or room to write, and who waits for it.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::event::epoll::{self, EventFlags};

use crate::local;

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Reading. Writing is watched while a write is held up, and only then: a Unix socket would wake a writer at every read
    /// of its peer.
    Read,
    /// Both, always: right for TCP, which wakes a writer that was held up and nobody else.
    Both,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Read => EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            Interest::Both => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        }
    }
}

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
/// The peer has ended, or the connection is broken: every further read says so, and none is in vain.
const CLOSED: u8 = 4;
/// Writing is watched for the time being.
const ASKED: u8 = 8;

/// What the reactor and the owner of a descriptor share.
#[derive(Default)]
pub(crate) struct State {
    flags: Cell<u8>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl State {
    /// Takes in what the kernel says.
    pub fn notice(&self, events: EventFlags) {
        let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        let mut flags = self.flags.get();
        if events.intersects(EventFlags::IN | ended) {
            flags |= READABLE;
        }
        if events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            flags |= WRITABLE;
        }
        if events.intersects(ended) {
            flags |= CLOSED;
        }
        self.flags.set(flags);
        if flags & READABLE != 0
            && let Some(waker) = self.reader.take()
        {
            waker.wake();
        }
        if flags & WRITABLE != 0
            && let Some(waker) = self.writer.take()
        {
            waker.wake();
        }
    }
}

/// A descriptor that this thread's reactor watches, until this is dropped. Close the descriptor at the same time.
pub struct Source {
    state: Rc<State>,
    token: u64,
    interest: Interest,
}

impl Source {
    /// Begins to watch a non-blocking descriptor. `connected`: there is room to write, as far as is known.
    ///
    /// # Errors
    /// What `epoll_ctl` says; `Other` on a thread without a reactor.
    pub fn new(descriptor: impl AsFd, interest: Interest, connected: bool) -> io::Result<Source> {
        let state = Rc::new(State::default());
        state.flags.set(if connected { WRITABLE } else { 0 });
        let token = local::with(|local| {
            let token = local.sources.borrow_mut().add(state.clone());
            let added = epoll::add(&local.epoll, descriptor, epoll::EventData::new_u64(token), interest.flags());
            if added.is_err() {
                local.sources.borrow_mut().remove(token);
            }
            added.map(|()| token)
        })
        .ok_or_else(|| io::Error::other("no reactor runs on this thread"))??;
        Ok(Source { state, token, interest })
    }

    /// Ready when there may be something to read, or the end.
    pub fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        self.poll(READABLE, &self.state.reader, context)
    }

    /// Ready when there may be room to write.
    pub fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        self.poll(WRITABLE, &self.state.writer, context)
    }

    #[inline]
    fn poll(&self, flag: u8, waiting: &Cell<Option<Waker>>, context: &Context<'_>) -> Poll<()> {
        if self.state.flags.get() & flag == 0 {
            waiting.set(Some(context.waker().clone()));
            return Poll::Pending;
        }
        if local::spend() {
            return Poll::Ready(());
        }
        // It has had its share of this turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether there may be something to read, without waiting.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.state.flags.get() & READABLE != 0
    }

    /// All was read that was there.
    pub fn drained(&self) {
        let flags = self.state.flags.get();
        if flags & CLOSED == 0 {
            self.state.flags.set(flags & !READABLE);
        }
    }

    /// There is no room left to write: watches for it, where that is not done anyhow.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn filled(&self, descriptor: impl AsFd) -> io::Result<()> {
        let flags = self.state.flags.get();
        self.state.flags.set(flags & !WRITABLE);
        if self.interest != Interest::Read || flags & ASKED != 0 {
            return Ok(());
        }
        self.state.flags.set(flags & !WRITABLE | ASKED);
        self.modify(descriptor, Interest::Both)
    }

    /// Something was written: stops to watch for room, if that was begun.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn wrote(&self, descriptor: impl AsFd) -> io::Result<()> {
        let flags = self.state.flags.get();
        if flags & ASKED == 0 {
            return Ok(());
        }
        self.state.flags.set(flags & !ASKED);
        self.modify(descriptor, Interest::Read)
    }

    /// Stops to watch a descriptor that others keep open: closing this one of them would not.
    pub fn unwatch(self, descriptor: impl AsFd) {
        let _ = local::with(|local| epoll::delete(&local.epoll, descriptor));
    }

    fn modify(&self, descriptor: impl AsFd, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(self.token);
        let modified = local::with(|local| epoll::modify(&local.epoll, descriptor, data, interest.flags()));
        modified.map_or(Ok(()), |done| done.map_err(Into::into))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = local::with(|local| local.sources.borrow_mut().remove(self.token));
    }
}

/// The sources by their tokens. A token is used once: an event that comes late finds nobody.
#[derive(Default)]
pub(crate) struct Sources {
    places: Vec<(u32, Option<Rc<State>>)>,
    free: Vec<u32>,
}

impl Sources {
    fn add(&mut self, state: Rc<State>) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        let mut token = u64::from(place);
        if let Some((generation, its)) = self.places.get_mut(place as usize) {
            *its = Some(state);
            token |= u64::from(*generation) << 32;
        }
        token
    }

    fn remove(&mut self, token: u64) {
        if let Some((generation, state)) = self.places.get_mut(token as u32 as usize)
            && u64::from(*generation) == token >> 32
        {
            *generation = generation.wrapping_add(1);
            *state = None;
            self.free.push(token as u32);
        }
    }

    pub fn get(&self, token: u64) -> Option<&Rc<State>> {
        let (generation, state) = self.places.get(token as u32 as usize)?;
        state.as_ref().filter(|_| u64::from(*generation) == token >> 32)
    }
}
