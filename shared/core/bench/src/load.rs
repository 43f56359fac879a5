//! The generator: one epoll set over all connections, one request in flight on each, every answer checked.
//!
//! A connection that breaks the protocol, ends early or answers wrongly counts as an error and is replaced at once; what
//! has no answer five seconds after the last progress counts as an error too, so that no request vanishes from the sum.

use std::error::Error;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read, write};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::address::Address;
use crate::client::{CONNECTED_NS, PAUSE_NS, Reached, Standard};
use crate::histogram::Histogram;
use crate::options::Options;
use crate::report::Report;
use crate::request::Request;
use crate::response::{Expect, Parser};
use crate::schedule::{Due, Schedule};

const PACER: u64 = u64::MAX;
const BUFFER: usize = 256 * 1024;
/// So many of the requests that failed are told one by one.
const TOLD: usize = 1_000;
const STALLED: Duration = Duration::from_secs(5);
const READABLE: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// Runs the load to its end.
///
/// # Errors
/// Nobody listens at the address (also later: a peer that died cannot be measured).
pub fn run(options: &Options) -> Result<Report, Box<dyn Error>> {
    let mut load = Load::open(options)?;
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(512);
    let pacer = load.begin()?;
    let mut progress = Instant::now();
    while load.in_flight > 0 || !load.schedule.is_over(load.now()) {
        let tick = Timespec { tv_sec: 1, tv_nsec: 0 };
        match epoll::wait(&load.epoll, rustix::buffer::spare_capacity(&mut events), Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let answered = load.answered;
        for event in events.drain(..) {
            let flags = event.flags;
            match (event.data.u64(), &pacer) {
                (PACER, Some(timer)) => {
                    let _ = read(timer, &mut [0_u8; 8]);
                    load.redial_due()?;
                    load.send_due()?;
                }
                (token, _) => load.step(token as usize, flags, &mut buffer)?,
            }
        }
        if load.answered > answered || load.in_flight == 0 {
            progress = Instant::now();
        } else if progress.elapsed() > STALLED {
            break;
        }
    }
    Ok(load.report())
}

struct Load<'a> {
    epoll: OwnedFd,
    address: &'a Address,
    expect: &'a Expect,
    request: Request,
    schedule: Schedule,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    in_flight: u64,
    answered: u64,
    histogram: Histogram,
    good: u64,
    errors: u64,
    first_error: Option<String>,
    origin: Instant,
    began: f64,
    last_answer: u64,
    client: Option<Standard>,
    waiting: Vec<(u64, usize)>,
    repeated: u64,
    lost: Vec<(f64, f64)>,
}

struct Connection {
    socket: OwnedFd,
    parser: Parser,
    current: Option<Due>,
    sent: usize,
    blocked: bool,
    opened: u64,
    is_open: bool,
    sent_at: u64,
    again: bool,
    answering: bool,
}

impl Connection {
    fn new(socket: OwnedFd, opened: u64, is_open: bool) -> Self {
        Self {
            socket,
            parser: Parser::default(),
            current: None,
            sent: 0,
            blocked: false,
            opened,
            is_open,
            sent_at: 0,
            again: false,
            answering: false,
        }
    }

    /// How far the request had come when the connection failed.
    fn reached(&self) -> Reached {
        match (self.is_open, self.answering) {
            (false, _) => Reached::Nobody,
            (true, false) => Reached::Sent { again: self.again },
            (true, true) => Reached::Answer,
        }
    }
}

/// What one read of a connection came to.
enum Outcome {
    Waiting,
    Good {
        close: bool,
    },
    Bad {
        close: bool,
        why: String,
    },
    /// The connection is gone, and the answer has not come.
    Cut {
        why: String,
    },
    EndedIdle,
}

impl<'a> Load<'a> {
    fn open(options: &'a Options) -> Result<Self, Box<dyn Error>> {
        let mut load = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            address: &options.connect,
            expect: &options.expect,
            request: options.request.clone(),
            schedule: options.schedule.clone(),
            connections: Vec::with_capacity(options.connections),
            idle: (0..options.connections).rev().collect(),
            in_flight: 0,
            answered: 0,
            histogram: Histogram::default(),
            good: 0,
            errors: 0,
            first_error: None,
            origin: Instant::now(),
            began: 0.0,
            last_answer: 0,
            client: options.client,
            waiting: Vec::new(),
            repeated: 0,
            lost: Vec::new(),
        };
        for index in 0..options.connections {
            let connection = load.dial(index)?;
            load.connections.push(connection);
        }
        Ok(load)
    }

    fn dial(&self, index: usize) -> Result<Connection, Box<dyn Error>> {
        let told = |error| format!("{}: {error}", self.address);
        let (socket, flags) = match self.client {
            None => (self.address.connect().map_err(told)?, READABLE),
            Some(_) => (self.address.begin_connect().map_err(told)?, READABLE | EventFlags::OUT),
        };
        epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), flags)?;
        let mut connection = Connection::new(socket, self.now(), self.client.is_none());
        connection.blocked = self.client.is_some();
        Ok(connection)
    }

    /// Connects anew and sends again what its connection did not carry, where that is due, and gives up connections that
    /// nobody takes.
    fn redial_due(&mut self) -> Result<(), Box<dyn Error>> {
        let now = self.now();
        for (due, index) in std::mem::take(&mut self.waiting) {
            if due > now {
                self.waiting.push((due, index));
            } else {
                self.redial(index)?;
            }
        }
        let is_stuck = |one: &Connection| !one.is_open && one.current.is_some() && one.opened + CONNECTED_NS < now;
        let stuck: Vec<_> =
            self.connections.iter().enumerate().filter(|(_, one)| is_stuck(one)).map(|(at, _)| at).collect();
        for index in stuck {
            if !self.waiting.iter().any(|(_, other)| *other == index) {
                self.finish(index, Outcome::Cut { why: "nobody took the connection".to_owned() })?;
            }
        }
        Ok(())
    }

    /// Another connection, which has the request of the one before.
    fn redial(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        let fresh = match self.dial(index) {
            Ok(fresh) => fresh,
            Err(error) if self.client.is_none() => return Err(error),
            Err(_) => return self.wait_and_redial(index),
        };
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        let before = std::mem::replace(connection, fresh);
        (connection.current, connection.again) = (before.current, before.again);
        if connection.current.is_some() { self.write(index) } else { Ok(()) }
    }

    /// Another connection; a little later if even this one was never had.
    fn replace(&mut self, index: usize, now: u64) -> Result<(), Box<dyn Error>> {
        if self.client.is_some() && self.connections.get(index).is_some_and(|one| !one.is_open) {
            self.waiting.push((now + PAUSE_NS, index));
            return Ok(());
        }
        self.redial(index)
    }

    fn wait_and_redial(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        (connection.is_open, connection.blocked, connection.opened) = (false, true, now);
        if connection.current.is_some() {
            return self.finish(index, Outcome::Cut { why: "nobody to connect to".to_owned() });
        }
        self.waiting.push((now + PAUSE_NS, index));
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Starts the clock, sends what is due at 0 and, for an open loop, returns the timer that wakes it.
    fn begin(&mut self) -> Result<Option<OwnedFd>, Box<dyn Error>> {
        self.origin = Instant::now();
        let clock = clock_gettime(ClockId::Monotonic);
        self.began = clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9;
        let Some(interval) = self.schedule.interval() else {
            self.send_due()?;
            return Ok(None);
        };
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&self.epoll, &timer, EventData::new_u64(PACER), EventFlags::IN)?;
        let every = Timespec::try_from(Duration::from_nanos(interval))?;
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
        self.send_due()?;
        Ok(Some(timer))
    }

    fn send_due(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(index) = self.idle.pop() {
            let now = self.now();
            let Some(due) = self.schedule.next(now) else {
                self.idle.push(index);
                return Ok(());
            };
            self.send(index, due)?;
        }
        Ok(())
    }

    fn send(&mut self, index: usize, due: Due) -> Result<(), Box<dyn Error>> {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.current = Some(due);
            connection.sent = 0;
            (connection.again, connection.answering) = (false, false);
            self.in_flight += 1;
        }
        self.write(index)
    }

    fn write(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        let Some(due) = connection.current else {
            return Ok(());
        };
        if !connection.is_open && connection.blocked {
            return Ok(()); // it goes out when somebody has taken the connection
        }
        if connection.sent == 0 {
            connection.sent_at = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        let bytes = self.request.numbered(due.number);
        while let Some(rest) = bytes.get(connection.sent..).filter(|rest| !rest.is_empty()) {
            match write(&connection.socket, rest) {
                Ok(size) => connection.sent += size,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    return self.finish(index, Outcome::Cut { why: format!("write: {error}") });
                }
            }
        }
        let blocked = connection.sent < bytes.len();
        if blocked != connection.blocked {
            connection.blocked = blocked;
            let flags = if blocked { READABLE | EventFlags::OUT } else { READABLE };
            epoll::modify(&self.epoll, &connection.socket, EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    fn step(&mut self, index: usize, flags: EventFlags, buffer: &mut [u8]) -> Result<(), Box<dyn Error>> {
        if flags.contains(EventFlags::OUT) && self.connections.get(index).is_some_and(|one| one.blocked) {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.is_open |= !flags.intersects(EventFlags::ERR);
            }
            self.write(index)?;
        }
        loop {
            let Some(connection) = self.connections.get_mut(index) else {
                return Ok(());
            };
            let size = match read(&connection.socket, &mut *buffer) {
                Ok(size) => size,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    let outcome = broken(connection, &format!("read: {error}"));
                    return self.finish(index, outcome);
                }
            };
            let outcome = if size == 0 {
                broken(connection, "the peer ended the connection")
            } else {
                received(connection, buffer.get(..size).unwrap_or_default(), self.expect)
            };
            let more = size == buffer.len() || flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            match outcome {
                Outcome::Waiting if more => {}
                Outcome::Waiting => return Ok(()),
                Outcome::Good { close: false } if more => {
                    // An end that came with the answer is seen before the next request goes out on the connection.
                    let outcome = match read(&connection.socket, &mut *buffer) {
                        Err(Errno::AGAIN) => Outcome::Good { close: false },
                        Ok(0) | Err(_) => Outcome::Good { close: true },
                        Ok(_) => Outcome::Bad { close: true, why: "bytes after the answer".to_owned() },
                    };
                    return self.finish(index, outcome);
                }
                outcome => return self.finish(index, outcome),
            }
        }
    }

    fn finish(&mut self, index: usize, outcome: Outcome) -> Result<(), Box<dyn Error>> {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        let current = connection.current.take();
        if current.is_some() {
            self.in_flight -= 1;
            self.answered += 1;
            self.last_answer = now;
        }
        let mut lost = None;
        let close = match outcome {
            Outcome::Waiting => return Ok(()),
            Outcome::Cut { why } => {
                if let Some(due) = current {
                    let again = self.client.and_then(|client| client.again(connection.reached(), due.intended, now));
                    if let Some(at) = again {
                        connection.current = current;
                        self.in_flight += 1;
                        self.answered -= 1;
                        self.repeated += u64::from(connection.is_open);
                        connection.again |= connection.is_open;
                        self.waiting.push((at, index));
                        return Ok(());
                    }
                    self.errors += 1;
                    self.first_error.get_or_insert(why);
                    lost = Some(connection.sent_at);
                }
                true
            }
            Outcome::Good { close } => {
                self.good += 1;
                self.histogram.record(now.saturating_sub(current.map_or(now, |due| due.intended)));
                close
            }
            Outcome::Bad { close, why } => {
                self.errors += 1;
                self.first_error.get_or_insert(why);
                lost = Some(connection.sent_at);
                close
            }
            Outcome::EndedIdle => true,
        };
        if let Some(sent_at) = lost.filter(|_| self.lost.len() < TOLD) {
            let [sent, ended] = [sent_at, now].map(|at| self.began + at as f64 / 1e9);
            self.lost.push((sent, ended));
        }
        if close {
            self.replace(index, now)?;
        }
        if current.is_none() {
            return Ok(());
        }
        match self.schedule.next(now) {
            Some(due) => self.send(index, due),
            None => {
                self.idle.push(index);
                Ok(())
            }
        }
    }

    fn report(mut self) -> Report {
        if self.in_flight > 0 {
            self.errors += self.in_flight;
            self.first_error.get_or_insert(format!("{} requests had no answer", self.in_flight));
        }
        Report {
            requests: self.good,
            errors: self.errors,
            seconds: self.last_answer as f64 / 1e9,
            histogram: self.histogram,
            first_error: self.first_error,
            repeated: self.repeated,
            lost: self.lost,
        }
    }
}

fn broken(connection: &Connection, why: &str) -> Outcome {
    match connection.current {
        Some(_) => Outcome::Cut { why: why.to_owned() },
        None => Outcome::EndedIdle,
    }
}

fn received(connection: &mut Connection, bytes: &[u8], expect: &Expect) -> Outcome {
    if connection.current.is_none() {
        return Outcome::Bad { close: true, why: "bytes without a request".to_owned() };
    }
    connection.answering = true;
    match connection.parser.feed(bytes, expect) {
        Ok((_, None)) => Outcome::Waiting,
        Ok((used, Some(_))) if used < bytes.len() => {
            Outcome::Bad { close: true, why: "bytes after the answer".to_owned() }
        }
        Ok((_, Some(answer))) if answer.is_good() => Outcome::Good { close: answer.close },
        Ok((_, Some(answer))) => {
            let body = if answer.body_matches { "the expected body" } else { "another body" };
            Outcome::Bad { close: answer.close, why: format!("status {} with {body}", answer.status) }
        }
        Err(fault) => Outcome::Bad { close: true, why: format!("{fault:?}") },
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::thread;

    use super::run;
    use crate::address::Address;
    use crate::options::Options;
    use crate::relay::{self, Reactor, Refused};
    use crate::report::Report;
    use crate::request::Request;
    use crate::response::Expect;
    use crate::schedule::Schedule;

    /// Answers every request with `answer` until the client ends.
    fn origin(answer: Vec<u8>) -> Result<Address, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = Address::Tcp(listener.local_addr()?);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = answer.clone();
                thread::spawn(move || answer_all(&stream, &answer));
            }
        });
        Ok(address)
    }

    fn answer_all(mut stream: &TcpStream, answer: &[u8]) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next().transpose()? {
            if line.is_empty() {
                stream.write_all(answer)?;
            }
        }
        Ok(())
    }

    /// A relay on a reactor, or `None` where the kernel refuses it.
    fn relayed(name: &str, reactor: Reactor, origin: Address) -> Result<Option<Address>, Box<dyn Error>> {
        let name = format!("pannier-bench-{}-{name}-{reactor:?}", std::process::id());
        let path: PathBuf = std::env::temp_dir().join(name);
        let address = Address::Unix(path.clone());
        let listen = address.clone();
        let relay = thread::spawn(move || match relay::serve(reactor, &listen, &origin) {
            Err(error) if error.is::<Refused>() => Err(None),
            other => other.map_err(|error| Some(error.to_string())),
        });
        while address.connect().is_err() {
            if relay.is_finished() {
                return match relay.join() {
                    Ok(Err(None)) => Ok(None),
                    other => Err(format!("the relay ended: {other:?}").into()),
                };
            }
            thread::yield_now();
        }
        Ok(Some(address))
    }

    fn load(connect: Address, body: &[u8], schedule: Schedule) -> Result<Report, Box<dyn Error>> {
        run(&Options {
            connect,
            connections: 3,
            request: Request::new("GET", "/", "bench", 0, schedule.is_paced()),
            expect: Expect::Body(body.to_vec()),
            schedule,
            client: None,
        })
    }

    fn answer(body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn a_body_larger_than_every_buffer_comes_through_each_relay_whole() -> Result<(), Box<dyn Error>> {
        // Three of them need more than all the buffers of the io_uring.
        let body: Vec<u8> = (0..9_000_000_u32).map(|at| (at % 251) as u8).collect();
        for reactor in [Reactor::Epoll, Reactor::Tokio, Reactor::IoUring] {
            let Some(relay) = relayed("large", reactor, origin(answer(&body))?)? else {
                eprintln!("skipped: {reactor:?} is refused here");
                continue;
            };
            let report = load(relay.clone(), &body, Schedule::try_new(Some(12), None, None)?)?;
            if let Address::Unix(path) = relay {
                std::fs::remove_file(path)?;
            }
            assert_eq!((report.requests, report.errors, report.first_error), (12, 0, None), "{reactor:?}");
        }
        Ok(())
    }

    #[test]
    fn an_end_goes_through_each_relay_and_its_slot_serves_again() -> Result<(), Box<dyn Error>> {
        let closing = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".to_vec();
        for reactor in [Reactor::Epoll, Reactor::Tokio, Reactor::IoUring] {
            let Some(relay) = relayed("ends", reactor, origin(closing.clone())?)? else {
                eprintln!("skipped: {reactor:?} is refused here");
                continue;
            };
            let report = load(relay.clone(), b"hello", Schedule::try_new(Some(500), None, None)?)?;
            if let Address::Unix(path) = relay {
                std::fs::remove_file(path)?;
            }
            assert_eq!((report.requests, report.errors, report.first_error), (500, 0, None), "{reactor:?}");
        }
        Ok(())
    }

    #[test]
    fn an_open_loop_sends_what_its_rate_says() -> Result<(), Box<dyn Error>> {
        let schedule = Schedule::try_new(None, Some(0.1), Some(1_000))?;
        let report = load(origin(answer(b"hello"))?, b"hello", schedule)?;
        assert_eq!((report.requests, report.errors), (100, 0));
        assert!(report.seconds > 0.09);
        Ok(())
    }

    #[test]
    fn wrong_answers_are_errors_and_connections_are_replaced() -> Result<(), Box<dyn Error>> {
        let closing = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno".to_vec();
        for bad in [answer(b"hellO"), b"SSH-2.0\r\n".to_vec(), closing] {
            let report = load(origin(bad)?, b"hello", Schedule::try_new(Some(20), None, None)?)?;
            assert_eq!((report.requests, report.errors), (0, 20));
            assert!(report.first_error.is_some());
        }
        Ok(())
    }

    #[test]
    fn nobody_to_connect_to_is_an_error() -> Result<(), Box<dyn Error>> {
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        assert!(load(Address::Tcp(free), b"", Schedule::try_new(Some(1), None, None)?).is_err());
        Ok(())
    }
}
