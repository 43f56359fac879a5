//! The loop: wait, reap, answer, and end when nobody is left to answer.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::ending::{Act, Ending};
use crate::files;
use crate::grace::Grace;
use crate::handover::{self, ControllerLeft, Left};
use crate::held::Held;
use crate::peers::{Peer, Received};
use crate::processes::{Processes, Reaped, is_awake};
use crate::protocol::{self, Head, MESSAGE_MAX, NOTE_MAX, PROTOCOL, Refusal, Request};
use crate::renew;
use crate::signals::Signals;
use crate::sweep::Sweep;
use crate::wire::Writer;

/// Between TERM and KILL when nobody named a time: orphans, and SIGTERM to the keeper itself.
const TERM_PATIENCE: Duration = Duration::from_secs(1);
/// From the moment something is in a pipe to the look at whether anybody reads it, and to the next.
const TICK: Duration = Duration::from_millis(250);
/// One controller, and a few that are told who it is; the oldest of those makes room.
const PEERS_MAX: usize = 8;

/// An answer: a body, and for FETCH a descriptor.
struct Answer {
    body: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl From<Writer> for Answer {
    fn from(body: Writer) -> Self {
        Self { body: body.into_bytes(), descriptor: None }
    }
}

const fn done() -> Answer {
    Answer { body: Vec::new(), descriptor: None }
}

/// What became ready.
struct Ready {
    signals: bool,
    listener: bool,
    zygote: bool,
    outputs: bool,
    peers: Vec<bool>,
}

/// The keeper's whole state.
pub struct Keeper {
    directory: PathBuf,
    listener: OwnedFd,
    signals: Signals,
    started_ms: u64,
    processes: Processes,
    held: Held,
    notes: BTreeMap<String, Vec<u8>>,
    peers: Vec<Peer>,
    grace: Grace,
    ending: Option<(Ending, Sweep)>,
    /// When pipes are looked after next; `None` while nothing was in them.
    next_tick: Option<Instant>,
    deaf_until: Option<Instant>,
    buffer: Vec<u8>,
}

impl Keeper {
    /// A keeper that holds nothing yet.
    pub fn new(directory: PathBuf, orphan_grace_ms: i64, listener: OwnedFd, signals: Signals) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            directory,
            listener,
            signals,
            started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(0),
            processes: Processes::default(),
            held: Held::default(),
            notes: BTreeMap::new(),
            peers: Vec::new(),
            grace: Grace::new(orphan_grace_ms, Instant::now()),
            ending: None,
            next_tick: None,
            deaf_until: None,
            buffer: vec![0; MESSAGE_MAX],
        }
    }

    /// A keeper that goes on with what an earlier image of this process left; `take` owns its descriptors. The controller is
    /// told that it is done. `None` if a descriptor is missing without which there is no keeper.
    pub fn taken_over(
        directory: PathBuf,
        left: Left,
        mut take: impl FnMut(RawFd) -> Option<OwnedFd>,
        signals: Signals,
    ) -> Option<Self> {
        let mut keeper = Self::new(directory, left.grace_ms, take(left.listener)?, signals);
        keeper.started_ms = left.started_ms;
        keeper.processes = Processes::taken_over(left.processes, &mut take);
        keeper.held = Held::taken_over(left.held, &mut take);
        keeper.notes = left.notes.into_iter().collect();
        let mut controller = Peer::taken_over(take(left.controller.descriptor)?, left.controller.pid);
        keeper.grace.controlled();
        controller.send(protocol::reply(left.controller.head, Ok(keeper.greeting().into_bytes())), None);
        keeper.peers.push(controller);
        Some(keeper)
    }

    /// Serves until told to end, or until the grace without a controller is over.
    pub fn run(mut self) {
        loop {
            let children = self.reap();
            let Some(wait) = self.advance(Instant::now(), children) else {
                break;
            };
            let ready = self.wait(wait);
            if ready.signals && self.signals.take() {
                self.end(TERM_PATIENCE);
            }
            if ready.zygote && self.processes.zygote_loaded() {
                self.tell(protocol::loaded());
            }
            if ready.outputs {
                self.next_tick = Some(Instant::now() + TICK);
            }
            self.serve_peers(&ready.peers);
            if ready.listener {
                self.accept();
            }
        }
        // First, since a successor begins when the directory is left.
        drop(self.held);
        files::remove(&self.directory);
    }

    /// Does what is due at `now`; how long to wait for the next thing (`Some(None)`: for ever), or `None` at the end.
    fn advance(&mut self, now: Instant, children: bool) -> Option<Option<Duration>> {
        self.deaf_until = self.deaf_until.filter(|until| *until > now);
        if self.grace.deadline().is_some_and(|deadline| deadline <= now) {
            self.end(TERM_PATIENCE);
        }
        if let Some((ending, sweep)) = &mut self.ending {
            return match ending.act(now, children) {
                Act::Leave => None,
                Act::Kill(wait) => {
                    Sweep::kill(&self.processes);
                    Some(Some(wait))
                }
                Act::Terminate(wait) => {
                    sweep.terminate(&self.processes);
                    Some(Some(self.tick(now).map_or(wait, |tick| wait.min(tick))))
                }
            };
        }
        let due = |at: Option<Instant>| at.map(|at| at - now);
        let waits = [due(self.grace.deadline()), due(self.deaf_until), self.tick(now)];
        Some(waits.into_iter().flatten().min())
    }

    /// Looks after pipes that no controller can be reading; the time until the next look, if something is in them.
    fn tick(&mut self, now: Instant) -> Option<Duration> {
        let due = self.next_tick?;
        if due > now {
            return Some(due - now);
        }
        if !self.peers.iter().filter_map(|peer| peer.controller).any(is_awake) {
            let notes = &mut self.notes;
            self.processes.relieve_outputs(&mut self.buffer, |name, lost| {
                notes.insert(format!("{name}.discarded"), lost.to_le_bytes().to_vec());
            });
        }
        self.next_tick = None;
        None
    }

    fn wait(&self, longest: Option<Duration>) -> Ready {
        let limit = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let knocks = if self.deaf_until.is_none() { PollFlags::IN } else { PollFlags::empty() };
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.signals.descriptor(), PollFlags::IN),
            PollFd::new(&self.listener, knocks),
        ];
        let loading = self.processes.loading_zygote();
        polled.extend(loading.map(|control| PollFd::from_borrowed_fd(control, PollFlags::IN)));
        // What was there a moment ago is left to its reader until the tick.
        let watched = polled.len();
        if self.next_tick.is_none() {
            polled.extend(self.processes.outputs().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
        }
        let watched = polled.len() - watched;
        polled.extend(self.peers.iter().map(|peer| {
            let interest = if peer.is_behind() { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(peer.descriptor(), interest)
        }));
        // EINTR shows as nothing ready; the signal's byte is in its pipe for the next round.
        let _ = rustix::event::poll(&mut polled, limit.as_ref());
        let mut ready = polled.iter().map(|entry| !entry.revents().is_empty());
        Ready {
            signals: ready.next().unwrap_or(false),
            listener: ready.next().unwrap_or(false),
            zygote: loading.is_some() && ready.next().unwrap_or(false),
            outputs: ready.by_ref().take(watched).fold(false, |any, one| any | one),
            peers: ready.collect(),
        }
    }

    fn end(&mut self, patience: Duration) {
        let now = Instant::now();
        match &mut self.ending {
            Some((ending, _)) => ending.hasten(now, patience),
            None => self.ending = Some((Ending::begin(now, patience), Sweep::default())),
        }
    }

    /// Waits for every child that ended and tells the controller; whether any child is left.
    fn reap(&mut self) -> bool {
        loop {
            match self.processes.reap() {
                Reaped::Known { name, pid, ended } => {
                    self.tell(protocol::exited(&name, pid, ended));
                }
                Reaped::Stranger => {}
                Reaped::Waiting => return true,
                Reaped::Childless => return false,
            }
        }
    }

    fn tell(&mut self, event: Vec<u8>) {
        if let Some(controller) = self.peers.iter_mut().find(|peer| peer.controller.is_some()) {
            // One that is gone is noticed when it is polled.
            controller.send(event, None);
        }
    }

    fn accept(&mut self) {
        match Peer::accept(&self.listener) {
            Ok(Some(peer)) => {
                if self.peers.len() >= PEERS_MAX
                    && let Some(idle) = self.peers.iter().position(|peer| peer.controller.is_none())
                {
                    self.peers.remove(idle);
                }
                self.peers.push(peer);
            }
            Ok(None) => {}
            // The connection stays readable; looking at it again at once would spin.
            Err(_) => self.deaf_until = Some(Instant::now() + TICK),
        }
    }

    fn serve_peers(&mut self, ready: &[bool]) {
        let mut peers = std::mem::take(&mut self.peers);
        let mut controller = peers.iter().find_map(|peer| peer.controller);
        let mut ready = ready.iter();
        peers.retain_mut(|peer| {
            let stays = !ready.next().copied().unwrap_or(false) || self.serve(peer, &mut controller);
            if !stays && peer.controller.is_some() {
                controller = None;
                self.grace.lost(Instant::now());
            }
            stays
        });
        self.peers = peers;
    }

    /// Writes what waits, or answers one request; `false` if the peer is gone.
    fn serve(&mut self, peer: &mut Peer, controller: &mut Option<u32>) -> bool {
        if peer.is_behind() {
            return peer.flush();
        }
        let length = match peer.receive(&mut self.buffer) {
            Received::Message(length) => length,
            Received::Nothing => return true,
            Received::Gone => return false,
        };
        let message = self.buffer.get(..length.min(MESSAGE_MAX)).unwrap_or_default();
        let head = protocol::head(message);
        let request = if length > MESSAGE_MAX {
            Err(Refusal::new(Errno::INVAL, "a message longer than 192 KiB"))
        } else {
            protocol::decode(message).map_err(Refusal::from)
        };
        let answer = request.and_then(|request| match request {
            Request::Hello { protocol, pid } => self.hello(peer, controller, protocol, pid),
            _ if peer.controller.is_none() => Err(Refusal::new(Errno::PERM, "say HELLO first")),
            Request::Renew { program } => Err(self.renew(peer, head, Path::new(&program))),
            request => self.answer(request),
        });
        match answer {
            Ok(Answer { body, descriptor }) => peer.send(protocol::reply(head, Ok(body)), descriptor),
            Err(refusal) => peer.send(protocol::reply(head, Err(refusal)), None),
        }
    }

    fn hello(
        &mut self,
        peer: &mut Peer,
        controller: &mut Option<u32>,
        protocol: u32,
        pid: u32,
    ) -> Result<Answer, Refusal> {
        if protocol != PROTOCOL {
            let message = format!("this keeper speaks protocol {PROTOCOL}, not {protocol}");
            return Err(Refusal::new(Errno::PROTONOSUPPORT, message));
        }
        if self.ending.is_some() {
            return Err(Refusal::new(Errno::SHUTDOWN, "this keeper is ending"));
        }
        match controller {
            Some(other) if peer.controller.is_none() => {
                return Err(Refusal::new(Errno::BUSY, format!("process {other} controls this keeper")));
            }
            _ => {}
        }
        *controller = Some(pid);
        peer.controller = Some(pid);
        self.grace.controlled();
        Ok(self.greeting().into())
    }

    fn greeting(&self) -> Writer {
        Writer::default().u32(std::process::id()).u64(self.started_ms)
    }

    /// Becomes another program, which goes on with all of this and answers the request; why that is not done.
    fn renew(&self, peer: &Peer, head: Head, program: &Path) -> Refusal {
        let Some(pid) = peer.controller.filter(|_| self.ending.is_none()) else {
            return Refusal::new(Errno::SHUTDOWN, "this keeper is ending");
        };
        let left = Left {
            started_ms: self.started_ms,
            grace_ms: self.grace.milliseconds(),
            listener: self.listener.as_raw_fd(),
            controller: ControllerLeft { descriptor: peer.descriptor().as_raw_fd(), pid, head },
            processes: self.processes.leave(),
            held: self.held.leave(),
            notes: self.notes.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        let memory = match renew::write(&handover::encode(&left)) {
            Ok(memory) => memory,
            Err(error) => return Refusal::from_system(&error, "cannot write down what is held"),
        };
        let mut arguments: Vec<OsString> = vec!["--dir".into(), self.directory.clone().into()];
        arguments.extend(["--orphan-grace-ms".into(), left.grace_ms.to_string().into()]);
        if let Err(reason) = renew::check(program, &arguments, &memory) {
            return Refusal::new(Errno::NOEXEC, reason);
        }
        arguments.extend([renew::LEFT.into(), memory.as_raw_fd().to_string().into()]);
        let mut leave = left.descriptors();
        leave.push(memory.as_raw_fd());
        Refusal::from_system(&renew::exec(program, &arguments, &leave), program.display())
    }

    fn answer(&mut self, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Hello { .. } | Request::Renew { .. } => {
                Err(Refusal::new(Errno::INVAL, "it is the connection's, not the keeper's"))
            }
            Request::List => {
                let notes: Vec<&str> = self.notes.keys().map(String::as_str).collect();
                let body = protocol::list(&self.processes.list(), &self.held.names(), &notes);
                Ok(Answer { body, descriptor: None })
            }
            Request::Spawn(spawn) => {
                if self.ending.is_some() {
                    return Err(Refusal::new(Errno::SHUTDOWN, "this keeper is ending"));
                }
                let pid = self.processes.spawn(&spawn, &self.held.select(&spawn.held)?)?;
                Ok(Writer::default().u32(pid).into())
            }
            Request::Fork(_) | Request::Zygote(_) if self.ending.is_some() => {
                Err(Refusal::new(Errno::SHUTDOWN, "this keeper is ending"))
            }
            Request::Fork(spawn) => {
                let pid = self.processes.fork(&spawn, &self.held.select(&spawn.held)?)?;
                Ok(Writer::default().u32(pid).into())
            }
            Request::Zygote(spawn) => Ok(Writer::default().u32(self.processes.spawn_zygote(&spawn)?).into()),
            Request::Signal { name, signal, whole_group } => {
                self.processes.signal(&name, signal, whole_group).map(|()| done())
            }
            Request::Listen { name, address, count } => {
                let port = self.held.listen(&name, &address, count)?;
                Ok(Writer::default().u16(port).into())
            }
            Request::ListenUnix { name, path, mode, count } => {
                self.held.listen_unix(&name, &path, mode, count).map(|()| done())
            }
            Request::Memfd { name, size } => {
                let created = self.held.memory(&name, size)?;
                Ok(Writer::default().u8(u8::from(created)).into())
            }
            Request::Fetch { name } => self.fetch(&name),
            Request::Release { name } => self.held.release(&name).map(|()| done()),
            Request::NotePut { key, value } => {
                if value.len() > NOTE_MAX {
                    return Err(Refusal::new(Errno::MSGSIZE, "a note holds 180 KiB at most"));
                }
                self.notes.insert(key, value);
                Ok(done())
            }
            Request::NoteGet { key } => match self.notes.get(&key) {
                Some(value) => Ok(Writer::default().bytes(value).into()),
                None => Err(Refusal::new(Errno::NOENT, format!("there is no note {key}"))),
            },
            Request::Grace { milliseconds } => {
                self.grace.set(milliseconds);
                Ok(done())
            }
            Request::Swap { one, other } => self.processes.swap(&one, &other).map(|()| done()),
            Request::Forget { name } => self.processes.forget(&name).map(|()| done()),
            Request::Shutdown { term_milliseconds } => {
                self.end(Duration::from_millis(u64::from(term_milliseconds)));
                Ok(done())
            }
        }
    }

    fn fetch(&self, name: &str) -> Result<Answer, Refusal> {
        let found = self.held.get(name).or_else(|| self.processes.output(name));
        let found = found.ok_or_else(|| Refusal::new(Errno::NOENT, format!("nothing is held by the name {name}")))?;
        let copy = found.try_clone_to_owned().map_err(|error| Refusal::from_system(&error, "cannot copy it"))?;
        Ok(Answer { body: Vec::new(), descriptor: Some(copy) })
    }
}
