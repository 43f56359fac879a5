//! A bound on what is under way at the same time, shared by the workers of a process; one can wait for a place.
//!
//! It is in the memory of the process that counts, so that its death ends all use. Who waits leaves a waker: no runtime is
//! known here. Refused: a semaphore of the runtime, whose size cannot follow a policy that changes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// How many are in, and who waits.
#[derive(Debug, Default)]
pub struct Gate {
    used: AtomicU32,
    waiting: AtomicU32,
    next_ticket: AtomicU64,
    wakers: Mutex<VecDeque<(u64, Waker)>>,
}

impl Gate {
    /// How many are in.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Lets one in if fewer than `most` are. Each success is paired with one [`Gate::leave`].
    pub fn enter(&self, most: u32) -> bool {
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| (used < most).then_some(used + 1)).is_ok()
    }

    /// Lets one in, however many there are.
    pub fn force(&self) {
        self.used.fetch_add(1, Ordering::AcqRel);
    }

    /// Lets one out, and wakes one who waits.
    pub fn leave(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
        self.nudge();
    }

    /// Wakes one who waits: what it waits for may be had in another way.
    pub fn nudge(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.wake_one();
        }
    }

    /// A place in the queue if fewer than `most` wait: its ticket. Each is paired with one [`Gate::give_up`].
    pub fn queue(&self, most: u32) -> Option<u64> {
        let queued = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        queued.ok().map(|_| self.next_ticket.fetch_add(1, Ordering::Relaxed))
    }

    /// Leaves the queue, having entered or not. A wake-up that was for this ticket is passed on.
    pub fn give_up(&self, ticket: u64) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        let was_parked = {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            let at = wakers.iter().position(|(known, _)| *known == ticket);
            at.is_some_and(|at| wakers.remove(at).is_some())
        };
        if !was_parked {
            self.wake_one();
        }
    }

    /// Wakes `waker` at the next [`Gate::leave`] that nobody before it takes; a ticket has one waker. Look once more after
    /// this.
    pub fn park(&self, ticket: u64, waker: Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        match wakers.iter_mut().find(|(known, _)| *known == ticket) {
            Some((_, old)) => *old = waker,
            None => wakers.push_back((ticket, waker)),
        }
    }

    fn wake_one(&self) {
        let waker = self.wakers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let Some((_, waker)) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_allowed_get_in() {
        let gate = Gate::default();
        assert!(gate.enter(2) && gate.enter(2) && !gate.enter(2));
        gate.leave();
        assert!(gate.enter(2));
        assert!(gate.enter(3), "the bound may grow");
        assert_eq!(gate.used(), 3);
        assert!(!gate.enter(1), "and shrink: nobody is thrown out");
    }

    #[test]
    fn many_threads_never_exceed_it() {
        let (gate, peak) = (Gate::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if gate.enter(3) {
                            peak.fetch_max(gate.used(), Ordering::Relaxed);
                            gate.leave();
                        }
                    }
                });
            }
        });
        assert!(peak.load(Ordering::Relaxed) <= 3);
        assert_eq!(gate.used(), 0);
    }

    #[test]
    fn who_leaves_wakes_who_waits() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let gate = Gate::default();
        assert!(gate.enter(1));
        let (first, second) = (gate.queue(2), gate.queue(2));
        assert_eq!(gate.queue(2), None);
        let flags = [(); 2].map(|()| std::sync::Arc::new(Flag(false.into())));
        for (ticket, flag) in [first, second].into_iter().flatten().zip(&flags) {
            gate.park(ticket, flag.clone().into());
            gate.park(ticket, flag.clone().into());
        }
        gate.leave();
        assert!(flags[0].0.load(Ordering::Relaxed) && !flags[1].0.load(Ordering::Relaxed), "one at a time");
        first.into_iter().for_each(|ticket| gate.give_up(ticket));
        assert!(flags[1].0.load(Ordering::Relaxed), "who was woken and left passes it on");
        second.into_iter().for_each(|ticket| gate.give_up(ticket));
        assert_eq!(gate.waiting(), 0);
        assert!(gate.wakers.lock().is_ok_and(|wakers| wakers.is_empty()));
    }
}
