//! The reactor of this thread, and its loop.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use pannier_table::clock;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::remote::{Remote, Seat};
use crate::sleep::Sleepers;
use crate::source::Sources;
use crate::tasks::Tasks;
use crate::waker::TaskId;

/// Events that one look at the sockets brings at most.
const EVENTS: usize = 256;
/// Reads and writes of a task in one turn: a large body does not keep everybody else waiting.
const SHARE: u32 = 64;
/// The token of the bell that other threads ring.
const BELL: u64 = u64::MAX;

pub(crate) struct Local {
    number: u8,
    owns_descriptors: bool,
    pub epoll: OwnedFd,
    pub sources: RefCell<Sources>,
    pub sleepers: RefCell<Sleepers>,
    tasks: RefCell<Tasks>,
    remote: &'static Remote,
    share: Cell<u32>,
    is_done: Cell<bool>,
}

thread_local! {
    static LOCAL: OnceCell<Local> = const { OnceCell::new() };
}

/// Gives the reactor of this thread to `look`; none on a thread without one, or while that thread ends.
pub(crate) fn with<T>(look: impl FnOnce(&Local) -> T) -> Option<T> {
    LOCAL.try_with(|local| local.get().map(look)).ok().flatten()
}

/// Schedules a task of this thread; false if it is none.
pub(crate) fn schedule(task: TaskId) -> bool {
    with(|local| {
        let is_ours = local.number == task.reactor();
        if is_ours {
            local.tasks.borrow_mut().schedule(task);
        }
        is_ours
    })
    .unwrap_or(false)
}

/// Spends one read or write of the task that is polled; false if its share is spent.
pub(crate) fn spend() -> bool {
    with(|local| match local.share.get() {
        0 => false,
        left => {
            local.share.set(left - 1);
            true
        }
    })
    .unwrap_or(true)
}

/// Adds a task to this thread's reactor. On a thread without one it is dropped.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    let _ = with(|local| local.tasks.borrow_mut().add(Box::pin(task)));
}

/// Whether the limit of descriptors is this thread's alone: it could leave the table that it shared with others.
pub fn owns_descriptors() -> bool {
    with(|local| local.owns_descriptors).unwrap_or(false)
}

/// Makes this thread the reactor of that seat, which runs until `main` is done. Its other tasks are dropped with the thread.
///
/// The thread gets a table of descriptors of its own: what it opens from now on is known to it alone and to the threads that
/// it starts, and what was open before stays open in both tables until both have closed it.
///
/// # Errors
/// When the kernel gives no epoll, or refuses to wait; `Other` if the thread is a reactor already.
pub fn run(seat: Seat, main: impl Future<Output = ()> + 'static) -> io::Result<()> {
    let Seat { number, remote } = seat;
    let local = Local {
        number,
        owns_descriptors: own_descriptors(),
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        sources: RefCell::default(),
        sleepers: RefCell::default(),
        tasks: RefCell::new(Tasks::new(number)),
        remote,
        share: Cell::new(SHARE),
        is_done: Cell::new(false),
    };
    epoll::add(&local.epoll, remote, EventData::new_u64(BELL), EventFlags::IN)?;
    LOCAL.with(|place| place.set(local).map_err(|_| io::Error::other("this thread is a reactor already")))?;
    spawn(async {
        let _done = Done;
        main.await;
    });
    with(Local::turn_until_done).unwrap_or(Ok(()))
}

/// Ends the reactor when `main` ends, by a panic as well.
struct Done;

impl Drop for Done {
    fn drop(&mut self) {
        let _ = with(|local| local.is_done.set(true));
    }
}

/// The kernel counts the users of a file in every system call while several threads share a table of descriptors: 0.3 µs a
/// request.
fn own_descriptors() -> bool {
    // SAFETY: what this thread owns was open before, and is now in both tables under the same number; so are the bells, which
    // were all made before ([`Seat`]). What it opens, takes over or closes from now on, no other thread knows of.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::FILES) };
    if let Err(error) = unshared {
        eprintln!("descriptors stay shared between threads, which costs a little: {error}");
    }
    unshared.is_ok()
}

impl Local {
    fn turn_until_done(&self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            // Read for whoever asks for the recent time in this turn.
            let now = clock::monotonic_ns();
            while let Some(waker) = self.due(now) {
                waker.wake();
            }
            // Twice: what the first pass held back until all had been heard, the second says.
            self.run_ready();
            self.run_ready();
            if self.is_done.get() {
                return Ok(());
            }
            self.look(&mut events)?;
        }
    }

    /// Whether others are to be polled in this turn.
    pub fn has_ready(&self) -> bool {
        self.tasks.borrow().ready() > 0
    }

    fn due(&self, now: u64) -> Option<Waker> {
        self.sleepers.borrow_mut().due(now)
    }

    /// Polls each task that was ready when this turn began.
    fn run_ready(&self) {
        let ready = self.tasks.borrow().ready();
        for _ in 0..ready {
            let next = self.tasks.borrow_mut().next();
            let Some((id, mut task)) = next else {
                return;
            };
            self.share.set(SHARE);
            let waker = id.waker();
            let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut Context::from_waker(&waker))));
            match polled {
                Ok(Poll::Pending) => self.tasks.borrow_mut().keep(id, task),
                Ok(Poll::Ready(())) | Err(_) => {
                    self.tasks.borrow_mut().end(id);
                    // What a task holds may wake others when it is dropped.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
                }
            }
        }
    }

    /// Takes in what happened to the sockets; sleeps until something does, if nothing is to be done.
    fn look(&self, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = if self.has_ready() { Some(Timespec::default()) } else { self.until_first_sleeper() };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            if event.data.u64() == BELL {
                let woken = self.remote.take();
                let mut tasks = self.tasks.borrow_mut();
                woken.into_iter().for_each(|task| tasks.schedule(task));
                continue;
            }
            let state = self.sources.borrow().get(event.data.u64()).cloned();
            if let Some(state) = state {
                state.notice(event.flags);
            }
        }
        Ok(())
    }

    fn until_first_sleeper(&self) -> Option<Timespec> {
        let first = self.sleepers.borrow().first_ns()?;
        // A millisecond is what epoll knows; a little too late is better than in vain.
        let left = first.saturating_sub(clock::monotonic_ns()).next_multiple_of(1_000_000);
        Some(Timespec { tv_sec: (left / 1_000_000_000) as _, tv_nsec: (left % 1_000_000_000) as _ })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{sleep, yield_now};

    fn on_a_thread(main: impl FnOnce() + Send + 'static) {
        std::thread::spawn(main).join().unwrap();
    }

    #[test]
    fn tasks_take_turns_and_end() {
        on_a_thread(|| {
            let said = Rc::new(RefCell::new(Vec::new()));
            let (one, other) = (said.clone(), said.clone());
            run(Seat::new().unwrap(), async move {
                for _ in 0..3 {
                    spawn({
                        let other = other.clone();
                        async move { other.borrow_mut().push("other") }
                    });
                    other.borrow_mut().push("main");
                    yield_now().await;
                }
            })
            .unwrap();
            assert_eq!(*one.borrow(), ["main", "other", "main", "other", "main", "other"]);
            drop(said);
        });
    }

    #[test]
    fn a_task_that_panics_ends_alone() {
        on_a_thread(|| {
            run(Seat::new().unwrap(), async {
                spawn(async { std::panic::resume_unwind(Box::new("on purpose")) });
                yield_now().await;
                sleep(Duration::from_millis(1)).await;
            })
            .unwrap();
        });
    }

    #[test]
    fn sleepers_wake_in_their_order_and_not_before() {
        on_a_thread(|| {
            let began = Instant::now();
            let order = Rc::new(RefCell::new(Vec::new()));
            let its = order.clone();
            run(Seat::new().unwrap(), async move {
                for ms in [20, 5, 10] {
                    let its = its.clone();
                    spawn(async move {
                        sleep(Duration::from_millis(ms)).await;
                        its.borrow_mut().push(ms);
                    });
                }
                sleep(Duration::from_millis(30)).await;
            })
            .unwrap();
            assert_eq!(*order.borrow(), [5, 10, 20]);
            assert!(began.elapsed() >= Duration::from_millis(30));
        });
    }

    #[test]
    fn another_thread_wakes_a_task_that_sleeps_in_the_kernel() {
        on_a_thread(|| {
            let bell = Arc::new(tokio::sync::Notify::new());
            let rung = Arc::new(AtomicUsize::new(0));
            let (ringer, count) = (bell.clone(), rung.clone());
            let other = std::thread::spawn(move || {
                for _ in 0..100 {
                    ringer.notify_one();
                    while count.load(Ordering::Acquire) == 0 {
                        std::thread::yield_now();
                    }
                    count.store(0, Ordering::Release);
                }
            });
            run(Seat::new().unwrap(), async move {
                for _ in 0..100 {
                    bell.notified().await;
                    rung.store(1, Ordering::Release);
                }
            })
            .unwrap();
            other.join().unwrap();
        });
    }

    #[test]
    fn a_stale_waker_wakes_nobody() {
        on_a_thread(|| {
            let polls = Rc::new(Cell::new(0));
            let its = polls.clone();
            run(Seat::new().unwrap(), async move {
                let stale: Rc<RefCell<Option<Waker>>> = Rc::default();
                let kept = stale.clone();
                spawn(std::future::poll_fn(move |context| {
                    *kept.borrow_mut() = Some(context.waker().clone());
                    Poll::Ready(())
                }));
                yield_now().await;
                spawn(std::future::poll_fn(move |_| {
                    its.set(its.get() + 1);
                    Poll::Pending
                }));
                yield_now().await;
                stale.borrow().as_ref().unwrap().wake_by_ref();
                yield_now().await;
            })
            .unwrap();
            assert_eq!(polls.get(), 1, "it has the place of the one before, and not its waker");
        });
    }

    #[test]
    fn a_reactor_wakes_one_that_began_after_it_and_others_do_so_afterwards() {
        let seats = [Seat::new().unwrap(), Seat::new().unwrap()];
        let [first, second] = seats;
        let (bell, started) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let rung = Arc::new(AtomicUsize::new(0));
        let (ringer, start, seen) = (bell.clone(), started.clone(), rung.clone());
        let is_running = Arc::new(std::sync::Barrier::new(2));
        let runs = is_running.clone();
        let one = std::thread::spawn(move || {
            run(first, async move {
                runs.wait();
                start.notified().await;
                ringer.notify_one();
                while seen.load(Ordering::Acquire) == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            })
            .unwrap();
        });
        is_running.wait();
        let (heard, count) = (bell.clone(), rung.clone());
        let other = std::thread::spawn(move || {
            run(second, async move {
                for _ in 0..2 {
                    started.notify_one();
                    heard.notified().await;
                    count.fetch_add(1, Ordering::AcqRel);
                }
            })
            .unwrap();
        });
        one.join().unwrap();
        bell.notify_one();
        other.join().unwrap();
        assert_eq!(rung.load(Ordering::Acquire), 2);
    }

    #[test]
    fn a_panic_of_main_ends_the_reactor() {
        on_a_thread(|| {
            run(Seat::new().unwrap(), async { std::panic::resume_unwind(Box::new("on purpose")) }).unwrap();
        });
    }
}
