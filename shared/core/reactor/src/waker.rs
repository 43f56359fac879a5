//! Wakers that are numbers: which reactor, which task. Nothing is counted, nothing is freed, a clone is a copy.

use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::{local, remote};

/// A task: 8 bits for its reactor, 24 for how often its place was used, 32 for the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId(u64);

impl TaskId {
    pub fn new(reactor: u8, generation: u32, place: u32) -> Self {
        TaskId(u64::from(reactor) << 56 | u64::from(generation & GENERATIONS) << 32 | u64::from(place))
    }

    pub fn reactor(self) -> u8 {
        (self.0 >> 56) as u8
    }

    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & GENERATIONS
    }

    pub fn place(self) -> usize {
        self.0 as u32 as usize
    }

    /// A waker of the task. It may outlive the task: then it wakes nobody.
    pub fn waker(self) -> Waker {
        // SAFETY: the pointer is a number that is never followed, and the functions of the table do nothing else with it
        // than what their names say: the contract of a waker holds on any thread and at any time.
        unsafe { Waker::from_raw(raw(self.0)) }
    }
}

pub(crate) const GENERATIONS: u32 = (1 << 24) - 1;

const _: () = assert!(usize::BITS == 64, "a task's number is as wide as a pointer");

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, drop);

fn raw(number: u64) -> RawWaker {
    RawWaker::new(std::ptr::without_provenance(number as usize), &TABLE)
}

fn clone(data: *const ()) -> RawWaker {
    RawWaker::new(data, &TABLE)
}

fn wake(data: *const ()) {
    let task = TaskId(data.addr() as u64);
    if !local::schedule(task) {
        remote::schedule(task);
    }
}

fn drop(_: *const ()) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_its_parts() {
        let task = TaskId::new(3, GENERATIONS + 5, 77);
        assert_eq!((task.reactor(), task.generation(), task.place()), (3, 4, 77));
        assert!(task.waker().will_wake(&task.waker()), "two wakers of a task are the same");
        assert!(!task.waker().will_wake(&TaskId::new(3, 5, 77).waker()));
    }
}
