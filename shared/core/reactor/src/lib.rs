//! Tasks, sockets' readiness and time for one thread: as much of a runtime as the data path needs.
//!
//! Rules:
//! - everything of a reactor belongs to its thread: nothing is locked, and no count is atomic. Only a waker may be used
//!   elsewhere; it goes through a queue and an eventfd;
//! - sockets are watched edge-triggered, from one `epoll_ctl` on; whether there is something to read is remembered, so that
//!   nobody makes a system call in vain;
//! - a turn runs what was ready, then looks at the sockets: what is woken meanwhile waits for the next turn;
//! - a task that panics ends alone.
//!
//! Refused: tokio's runtime, whose tasks may be woken from anywhere at any time and pay for that with some thirty atomic
//! operations a request (`docs/adr/0004-reactor-and-deadlines.md` has the figures). Its channels and macros know no runtime
//! and are used as they are.

mod local;
mod remote;
mod sleep;
mod source;
mod tasks;
mod waker;

pub use local::{owns_descriptors, run, spawn};
pub use remote::Seat;
pub use sleep::{after_others, sleep, yield_now};
pub use source::{Interest, Source};
