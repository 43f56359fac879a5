//! Many hosts in one thread: each registers what it runs and follows what it uses over one connection to the pilot, and
//! whatever it is told is held against what was registered. `tests/bench/fleet.py` is the harness.
//!
//! It is told what to do in lines on its input, and answers each with one line of JSON:
//!
//! - `open`: everybody connects and registers, until everybody knows everything;
//! - `stand SECONDS`: nobody but renews;
//! - `changes COUNT MILLISECONDS`: one change after the other, each when all who follow it know the one before;
//! - `churn RATE SECONDS`: so many changes a second, of random instances, until everybody knows the last;
//! - `restart`: answered when everybody has lost his connection and knows everything again;
//! - `slow COUNT`: so many more follow everything, and read nothing; `gone`: how many of them were let go.
//!
//! With `--xds` they follow over delta ADS instead, on a connection of its own.
//!
//! A change counts from its sending until a follower has it or a newer one: what is overtaken is not left out.

mod followed;
mod host;
mod link;
mod message;
mod msgpack;
mod plan;
mod protobuf;
mod random;
mod tally;
mod xds;

use std::error::Error;
use std::io::{self, Write};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read};
use rustix::net::sockopt;
use rustix::time::Timespec;

use crate::address::Address;
use crate::arguments::Arguments;
use host::{Host, Own, Why};
use link::Link;
use message::{Said, put_follow, put_ping, said};
use plan::{Plan, service_of};
use random::Random;
use tally::Tally;
use xds::Xds;

const COMMANDS: u64 = u64::MAX;
const SLOW: u64 = 1 << 33;
const XDS: u64 = 1 << 32;
const BUFFER: usize = 256 * 1024;
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
const READABLE: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
const SECOND: u64 = 1_000_000_000;
const PING: u64 = 5 * SECOND;
/// Everybody looks after so long, since comparing everything takes its time.
const LOOK: u64 = SECOND / 10;
/// Seconds: a command that is not done by then says so, and what is missing.
const PATIENCE: u64 = 180;
/// A second, doubled with each attempt in vain, up to this; `spread` is the least of the upper bound.
const RETRY: f64 = 1.0;
const RETRY_MOST: f64 = 30.0;
const SLOW_BUFFER: usize = 4096;

/// Runs until the input ends.
///
/// # Errors
/// An option is missing or unknown, a command not understood, or the pilot not there at first.
pub fn run(mut given: Arguments) -> Result<(), Box<dyn Error>> {
    let plan = Plan {
        instances: given.value("instances")?.unwrap_or(100),
        per_service: given.value("per-service")?.unwrap_or(50),
        hosts: given.value("hosts")?.unwrap_or(10),
        follows: given.value("follows")?.unwrap_or(20),
    };
    if plan.instances == 0 || plan.per_service == 0 || plan.hosts == 0 {
        return Err("a fleet has instances, services and hosts".into());
    }
    let mut fleet = Fleet {
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        address: given.required("connect")?.parse()?,
        xds: given.text("xds").map(|text| text.parse()).transpose()?,
        token: given.text("token").unwrap_or_default(),
        ttl_ms: given.value("ttl-ms")?.unwrap_or(10_000),
        spread: given.value("spread")?.unwrap_or(14.0),
        patience: SECOND * given.value("patience")?.unwrap_or(PATIENCE),
        open_rate: given.value("open-rate")?.unwrap_or(200),
        followers: Vec::new(),
        own: vec![Own::new(); plan.instances],
        hosts: Vec::new(),
        slow: Vec::new(),
        random: Random::default(),
        origin: Instant::now(),
        tally: Tally::default(),
        begun: 0,
        looked: 0,
        pinged: 0,
        behind: 0,
        task: Task::Idle,
        plan,
    };
    given.finish()?;
    fleet.followers = vec![0; plan.services()];
    for service in (0..plan.hosts).flat_map(|host| plan.followed(host)) {
        if let Some(count) = fleet.followers.get_mut(service) {
            *count += 1;
        }
    }
    fleet.serve()
}

/// What is being done.
enum Task {
    Idle,
    Open,
    Stand { until: u64 },
    Changes { left: u64, pause: u64, next_at: u64 },
    Churn { rate: u64, count: u64 },
    Restart,
}

struct Fleet {
    epoll: OwnedFd,
    address: Address,
    xds: Option<Address>,
    token: String,
    ttl_ms: u64,
    spread: f64,
    open_rate: u64,
    patience: u64,
    plan: Plan,
    followers: Vec<i64>,
    own: Vec<Own>,
    hosts: Vec<Host>,
    slow: Vec<Option<Link>>,
    random: Random,
    origin: Instant,
    tally: Tally,
    begun: u64,
    looked: u64,
    pinged: u64,
    /// How many (change, follower) are still to come.
    behind: i64,
    task: Task,
}

impl Fleet {
    fn serve(&mut self) -> Result<(), Box<dyn Error>> {
        let input = io::stdin();
        epoll::add(&self.epoll, &input, EventData::new_u64(COMMANDS), EventFlags::IN)?;
        let mut typed = Vec::new();
        let mut buffer = vec![0; BUFFER];
        let mut events = Vec::with_capacity(1024);
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&TICK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    COMMANDS => {
                        let size = read(&input, &mut buffer)?;
                        if size == 0 {
                            return Ok(());
                        }
                        typed.extend(buffer.get(..size).unwrap_or_default());
                        while let Some(end) = typed.iter().position(|byte| *byte == b'\n') {
                            let line: Vec<u8> = typed.drain(..=end).collect();
                            self.command(String::from_utf8_lossy(&line).trim())?;
                        }
                    }
                    token if (XDS..SLOW).contains(&token) => self.told_over_xds((token - XDS) as usize, &mut buffer),
                    token if token >= SLOW => self.slow_has_ended((token - SLOW) as usize),
                    token => self.read_from(token as usize, &mut buffer),
                }
            }
            self.tick();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn command(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        let now = self.now();
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let mut number = || -> Result<u64, String> {
            let word = words.next().unwrap_or_default();
            word.parse().map_err(|_| format!("{line:?}: {word:?} is no number"))
        };
        self.tally = Tally::default();
        (self.begun, self.looked) = (now, now);
        self.task = match name {
            "open" => {
                let gap = SECOND / self.open_rate.max(1);
                let plan = self.plan;
                self.hosts = (0..plan.hosts).map(|host| Host::new(&plan, host, now + host as u64 * gap)).collect();
                Task::Open
            }
            "stand" => Task::Stand { until: now + number()? * SECOND },
            "changes" => Task::Changes { left: number()?, pause: number()? * 1_000_000, next_at: now },
            "churn" => {
                let rate = number()?;
                Task::Churn { rate, count: rate * number()? }
            }
            "restart" => Task::Restart,
            "slow" => {
                for _ in 0..number()? {
                    let link = self.never_reads()?;
                    self.slow.push(Some(link));
                }
                self.done();
                Task::Idle
            }
            "gone" => {
                let left = self.slow.iter().flatten().count();
                say(&format!(r#"{{"slow": {}, "gone": {}}}"#, self.slow.len(), self.slow.len() - left));
                Task::Idle
            }
            _ => return Err(format!("{line:?} is not understood").into()),
        };
        Ok(())
    }

    /// Connects somebody who follows everything and never reads; he says that he is there all the same.
    fn never_reads(&self) -> Result<Link, Box<dyn Error>> {
        let socket = self.address.connect()?;
        sockopt::set_socket_recv_buffer_size(&socket, SLOW_BUFFER)?;
        let token = EventData::new_u64(SLOW + self.slow.len() as u64);
        epoll::add(&self.epoll, &socket, token, EventFlags::RDHUP)?;
        let mut link = Link::new(socket, &self.token);
        put_follow(link.outbox(), &[("*", 0)]);
        link.flush()?;
        Ok(link)
    }

    fn slow_has_ended(&mut self, index: usize) {
        if let Some(one) = self.slow.get_mut(index) {
            *one = None;
        }
    }

    /// Whatever is due.
    fn tick(&mut self) {
        let now = self.now();
        let renewal = self.ttl_ms * 1_000_000 / 3;
        for index in 0..self.hosts.len() {
            let Some(host) = self.hosts.get_mut(index) else { continue };
            if host.link.is_none() {
                if host.dial_at <= now {
                    self.dial(index, now);
                }
            } else if host.renew_at <= now {
                host.register_all(Why::Renew, &self.own, &self.plan, self.ttl_ms, now);
                host.renew_at += renewal;
            } else if host.spoke_at + PING <= now {
                host.spoke_at = now;
                host.link.iter_mut().for_each(|link| put_ping(link.outbox()));
            }
        }
        self.advance(now);
        for index in 0..self.hosts.len() {
            self.write_to(index);
        }
        if now >= self.pinged + SECOND {
            self.pinged = now;
            for one in &mut self.slow {
                if let Some(link) = one {
                    put_ping(link.outbox());
                    if link.flush().is_err() {
                        *one = None;
                    }
                }
            }
        }
    }

    fn advance(&mut self, now: u64) {
        if let Some(missing) =
            (now > self.begun + self.patience && !matches!(self.task, Task::Idle)).then(|| self.missing())
        {
            self.tally.error(format!("not done in time: {missing}"));
            self.behind = 0;
            self.done();
            return;
        }
        match self.task {
            Task::Idle => {}
            Task::Stand { until } if now < until => {}
            Task::Stand { .. } => self.done(),
            Task::Changes { left: 0, .. } if self.behind <= 0 => self.done(),
            Task::Changes { left: 0, .. } => {}
            Task::Changes { left, pause, next_at } => {
                if self.behind > 0 {
                    self.task = Task::Changes { left, pause, next_at: now + pause };
                } else if next_at <= now {
                    self.change(now);
                    self.task = Task::Changes { left: left - 1, pause, next_at: now + pause };
                }
            }
            Task::Churn { rate, count } => {
                let due = ((now - self.begun) as u128 * u128::from(rate) / u128::from(SECOND)) as u64;
                while self.tally.changes < due.min(count) {
                    self.change(now);
                }
                if self.tally.changes >= count && self.behind <= 0 && self.looks(now) {
                    self.done_if_known();
                }
            }
            Task::Open => {
                if self.looks(now) {
                    self.done_if_known();
                }
            }
            Task::Restart => {
                if self.tally.lost >= self.plan.hosts as u64 && self.looks(now) {
                    self.done_if_known();
                }
            }
        }
    }

    fn looks(&mut self, now: u64) -> bool {
        let due = now >= self.looked + LOOK;
        if due {
            self.looked = now;
        }
        due
    }

    /// One change of a random instance whose host is connected.
    fn change(&mut self, now: u64) {
        let instance = self.random.below(self.plan.instances);
        let (Some(own), Some(host)) = (self.own.get_mut(instance), self.hosts.get_mut(instance % self.plan.hosts))
        else {
            return;
        };
        own.sent.push(now);
        match own.stamp() % 4 {
            1 => own.draining = true,
            2 => own.draining = false,
            3 => own.epoch += 1,
            _ => {}
        }
        host.register(instance, Why::Change, &self.own, &self.plan, self.ttl_ms, now);
        self.tally.changes += 1;
        self.behind += self.followers.get(instance / self.plan.per_service).copied().unwrap_or(0);
    }

    fn missing(&self) -> String {
        let connected = self.hosts.iter().filter(|host| host.current).count();
        let unanswered: usize = self.hosts.iter().map(|host| host.asked.len()).sum();
        let unknown: usize = self.hosts.iter().map(|host| host.unknown(&self.own)).sum();
        format!("{connected} hosts are current, {unanswered} requests without an answer, {unknown} instances not known")
    }

    fn done_if_known(&mut self) {
        let ready = |host: &Host| host.current && host.asked.is_empty();
        if self.hosts.iter().all(ready) && self.hosts.iter().all(|host| host.unknown(&self.own) == 0) {
            self.done();
        }
    }

    fn done(&mut self) {
        let suspects: usize = self.hosts.iter().map(Host::suspects).sum();
        if suspects > 0 {
            self.tally.error(format!("{suspects} instances are told as suspect"));
        }
        say(&self.tally.to_json((self.now() - self.begun) as f64 / 1e9));
        self.task = Task::Idle;
    }

    fn dial(&mut self, index: usize, now: u64) {
        let renewal = self.ttl_ms * 1_000_000 / 3;
        let Ok((link, xds)) = self.connect(index) else {
            self.retry(index, now);
            return;
        };
        let Some(host) = self.hosts.get_mut(index) else { return };
        host.begin(link, xds, &self.own, &self.plan, self.ttl_ms, now);
        host.renew_at = now + renewal / 2 + (self.random.fraction() * renewal as f64 / 2.0) as u64;
        self.tally.opened.push(now);
    }

    fn connect(&self, index: usize) -> io::Result<(Link, Option<Xds>)> {
        let socket = self.address.connect()?;
        epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), READABLE)?;
        let link = Link::new(socket, &self.token);
        let Some(address) = &self.xds else { return Ok((link, None)) };
        let socket = address.connect()?;
        epoll::add(&self.epoll, &socket, EventData::new_u64(XDS + index as u64), READABLE)?;
        let xds = Xds::new(socket, &format!("host-{index}"), self.plan.followed(index).into_iter());
        Ok((link, Some(xds)))
    }

    fn retry(&mut self, index: usize, now: u64) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        let most = (RETRY * 2_f64.powi(host.attempt.min(30).cast_signed())).min(RETRY_MOST).max(self.spread);
        host.attempt += 1;
        host.dial_at = now + (self.random.fraction() * most * SECOND as f64) as u64;
    }

    fn lose(&mut self, index: usize, why: &str) {
        let now = self.now();
        if !matches!(self.task, Task::Restart) {
            self.tally.error(format!("host {index}: {why}"));
        }
        self.tally.lost += 1;
        if let Some(host) = self.hosts.get_mut(index) {
            host.link = None;
            host.xds = None;
            host.current = false;
        }
        self.retry(index, now);
    }

    fn write_to(&mut self, index: usize) {
        let Some(link) = self.hosts.get_mut(index).and_then(|host| host.link.as_mut()) else { return };
        if link.is_blocked()
            && let Err(error) = link.flush()
        {
            self.lose(index, &error.to_string());
        } else if let Some(Err(error)) = self.hosts.get_mut(index).and_then(|host| host.xds.as_mut()).map(Xds::flush) {
            self.lose(index, &error.to_string());
        }
    }

    fn told_over_xds(&mut self, index: usize, buffer: &mut [u8]) {
        let now = self.now();
        let Some(host) = self.hosts.get_mut(index) else { return };
        let Some(mut xds) = host.xds.take() else { return };
        let (tally, own, behind) = (&mut self.tally, &self.own, &mut self.behind);
        let outcome = xds.receive(buffer, |assignment| {
            tally.frames += 1;
            let instances = assignment.endpoints.iter().map(xds::Endpoint::told).collect();
            let said = Said::Service { name: &assignment.name, revision: 0, instances, gone: Vec::new(), whole: true };
            host.services_told += 1;
            heard(host, said, own, tally, behind, now)
        });
        host.current = host.services_told >= host.followed.len();
        host.xds = Some(xds);
        match outcome {
            Ok(bytes) => self.tally.bytes += bytes,
            Err(error) => self.lose(index, &error.to_string()),
        }
    }

    fn read_from(&mut self, index: usize, buffer: &mut [u8]) {
        let now = self.now();
        let Some(host) = self.hosts.get_mut(index) else { return };
        let Some(mut link) = host.link.take() else { return };
        let outcome = {
            let (tally, own, behind) = (&mut self.tally, &self.own, &mut self.behind);
            link.receive(buffer, |body| {
                tally.frames += 1;
                let message = said(body).map_err(|error| io::Error::other(error.0))?;
                heard(host, message, own, tally, behind, now)
            })
        };
        host.link = Some(link);
        match outcome {
            Ok(bytes) => self.tally.bytes += bytes,
            Err(error) => self.lose(index, &error.to_string()),
        }
    }
}

/// What the pilot says to a host.
fn heard(
    host: &mut Host,
    said: Said<'_>,
    own: &[Own],
    tally: &mut Tally,
    behind: &mut i64,
    now: u64,
) -> io::Result<()> {
    match said {
        Said::Service { name, revision, instances, gone, whole } => {
            let found = service_of(name)
                .and_then(|service| host.followed.binary_search_by_key(&service, |one| one.service).ok())
                .and_then(|place| host.followed.get_mut(place))
                .ok_or_else(|| io::Error::other(format!("told of {name}, which it does not follow")))?;
            let outcome = found.told(revision, &instances, &gone, whole, |instance, before, stamp| {
                let sent = own.get(instance).map(|own| own.sent.as_slice()).unwrap_or_default();
                for at in sent.get(before as usize..stamp as usize).unwrap_or_default() {
                    tally.told(now - at);
                    *behind -= 1;
                }
            });
            if let Err(wrong) = outcome {
                tally.error(wrong.0);
            }
        }
        Said::Current { .. } => {
            host.current = true;
            host.attempt = 0;
        }
        Said::Answer { n, verdict, error } => {
            let asked = host.asked.pop_front().filter(|asked| asked.n == n);
            let asked = asked.ok_or_else(|| io::Error::other(format!("an answer to {n}: {error}")))?;
            if !asked.why.allows(verdict) {
                tally.error(format!("{:?} is answered {verdict:?} {error}", asked.why));
            }
            tally.renewals += u64::from(asked.why == Why::Renew);
            tally.answered.record(now - asked.at);
        }
        Said::Pong => {}
    }
    Ok(())
}

fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}");
    let _ = output.flush();
}
