//! From tables to the workers' policy: one thread a table, asleep in the kernel until its writer publishes.
//!
//! A thread copies the new snapshot, checks and decodes it, joins it with the others into a policy, and hands that to every
//! worker. Whatever is wrong with a snapshot, the policy before it stays in force, and the rejection is counted and said.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use pannier_decide::live::Live;
use pannier_decide::policy::{Policy, Tables, floor};
use pannier_decide::schema::Lifecycle;
use pannier_table::counters::Enrolment;
use pannier_table::gauges;
use pannier_table::kind::Kind;
use pannier_table::map::{Access, Mapping};
use pannier_table::snapshot::{ReadError, Reader, SEGMENT_BYTES, Snapshot};
use tokio::sync::Notify;

use crate::central::Mesh;
use crate::inherited::{Inherited, Segments, descriptor};

/// How long a watcher sleeps at most. The writer wakes it; damage rings no bell, so that the memory is looked at as often,
/// and somebody told within a second.
const LONGEST_SLEEP: Duration = Duration::from_millis(750);

/// A worker's letter box for policies.
#[derive(Debug)]
pub struct Policies {
    latest: Mutex<Arc<Policy>>,
    /// Rung after each change.
    pub changed: Notify,
    version: AtomicU64,
    adopted: AtomicU64,
    board: Arc<Board>,
}

impl Policies {
    /// The newest policy; the caller puts it in force before it awaits anything.
    pub fn adopt(&self) -> Arc<Policy> {
        let version = self.version.load(Ordering::Acquire);
        let policy = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.adopted.store(version, Ordering::Release);
        self.board.report_in_force();
        policy
    }

    /// Another generation of the proxy takes the callers from now on.
    pub fn is_leaving(&self) -> bool {
        self.board.leaving.load(Ordering::Acquire)
    }
}

/// What the watchers know together.
#[derive(Debug)]
struct Board {
    tables: Mutex<Tables>,
    live: Live,
    /// Apart from the tables, since workers ask for it and must not wait for a compilation.
    versions: Mutex<Versions>,
    has_base: AtomicBool,
    enrolment: Arc<Enrolment>,
    mesh: Arc<Mesh>,
    workers: Mutex<Vec<Arc<Policies>>>,
    ended: AtomicBool,
    draining: AtomicBool,
    leaving: AtomicBool,
}

#[derive(Debug, Default)]
struct Versions {
    newest: u64,
    /// Version → the generations that it was made of, until every worker has it.
    generations: BTreeMap<u64, [u64; Kind::ALL.len()]>,
    current: [u64; Kind::ALL.len()],
}

/// The watchers, as the main thread sees them.
#[derive(Clone, Debug)]
pub struct Watched(Arc<Board>);

impl Watched {
    /// A watcher has ended, which only a bug can bring about.
    pub fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// The supervisor's table is in force: before, there is nothing to serve by.
    pub fn has_base(&self) -> bool {
        self.0.has_base.load(Ordering::Relaxed)
    }

    /// Copies out how much of each limit is in use.
    pub fn write_gauges(&self) {
        let worker = self.0.workers.lock().unwrap_or_else(PoisonError::into_inner).first().cloned();
        let Some(policy) = worker.map(|w| w.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()) else {
            return;
        };
        gauges::write(self.0.enrolment.gauges(), pannier_decide::usage::of(&policy));
    }

    /// Tells every worker that another generation of the proxy takes the callers from now on.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Release);
        self.0.mesh.leave();
        for worker in self.0.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            worker.changed.notify_one();
        }
    }

    /// The own service's name.
    pub fn service(&self) -> String {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner).base.service.clone()
    }

    /// What the process knows of its Central Mesh.
    pub fn mesh(&self) -> Arc<Mesh> {
        self.0.mesh.clone()
    }

    /// Whether that was said.
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Acquire)
    }

    /// How long to sleep before the next look: a drain is looked at often, nothing else is.
    pub fn tick(&self, soon: Duration) -> Duration {
        if self.0.draining.load(Ordering::Relaxed) || self.is_leaving() { soon } else { Duration::from_millis(500) }
    }
}

/// Reads what is published, then watches it; gives each worker its letter box.
///
/// # Errors
/// One line for a segment that is missing or foreign.
pub fn start(
    inherited: &Inherited,
    segments: &Segments,
    workers: usize,
) -> Result<(Vec<Arc<Policies>>, Watched), String> {
    let (tables, live) = (Tables::of(floor()), Live::default());
    let first = Arc::new(Policy::compile(&tables, &live)?);
    let board = Arc::new(Board {
        tables: Mutex::new(tables),
        live,
        versions: Mutex::default(),
        has_base: AtomicBool::new(false),
        enrolment: segments.enrolment.clone(),
        mesh: Arc::default(),
        workers: Mutex::default(),
        ended: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
    });
    let boxes: Vec<_> = (0..workers)
        .map(|_| {
            Arc::new(Policies {
                latest: Mutex::new(first.clone()),
                changed: Notify::new(),
                version: AtomicU64::new(0),
                adopted: AtomicU64::new(0),
                board: board.clone(),
            })
        })
        .collect();
    board.workers.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&boxes);
    for kind in Kind::ALL {
        let name = format!("table.{}", kind.name());
        // A supervisor of the release before hands over no such table: nobody can publish it, so there is no such capability.
        if matches!(kind, Kind::Headers | Kind::Central) && !inherited.contains_key(&name) {
            continue;
        }
        let map = descriptor(inherited, &name).and_then(|fd| Mapping::new(fd, SEGMENT_BYTES, Access::Read));
        let reader = map.and_then(|map| Reader::new(map, kind)).map_err(|e| e.to_string())?;
        let seen = board.take(kind, &reader, None);
        let board = board.clone();
        thread::Builder::new()
            .name(name)
            .stack_size(256 << 10)
            .spawn(move || {
                let _ended = SayEnded(board.clone());
                watch(&board, kind, &reader, seen);
            })
            .map_err(|e| format!("cannot start a thread: {e}"))?;
    }
    Ok((boxes, Watched(board)))
}

/// Marks the end of a watcher, however it ends.
struct SayEnded(Arc<Board>);

impl Drop for SayEnded {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

fn watch(board: &Board, kind: Kind, reader: &Reader, mut seen: Seen) -> ! {
    loop {
        reader.wait(seen.generation, LONGEST_SLEEP);
        let is_new = reader.generation() != seen.generation;
        if is_new || seen.is_damaged || reader.check() == Err(ReadError::Damaged) {
            seen = board.take(kind, reader, Some(seen));
        }
    }
}

/// What a watcher knows of its table.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    generation: u64,
    /// It could not be read: memory was damaged, or half of it still is on its way.
    is_damaged: bool,
}

impl Board {
    /// Reads a snapshot and puts it in force, or rejects it.
    fn take(&self, kind: Kind, reader: &Reader, before: Option<Seen>) -> Seen {
        loop {
            let generation = reader.generation();
            match reader.read() {
                Ok((generation, snapshot)) => {
                    if let Err(reason) = self.apply(kind, generation, &snapshot) {
                        self.reject(kind, generation, &reason);
                    }
                    return Seen { generation, is_damaged: false };
                }
                Err(ReadError::Lapped) => {}
                Err(ReadError::Damaged) => {
                    let seen = Seen { generation, is_damaged: true };
                    if before != Some(seen) {
                        self.reject(kind, generation, "its checksum does not hold");
                    }
                    return seen;
                }
            }
        }
    }

    fn reject(&self, kind: Kind, generation: u64, reason: &str) {
        self.enrolment.count_rejected_table();
        eprintln!("table {} generation {generation} rejected, the one before stays in force: {reason}", kind.name());
    }

    fn apply(&self, kind: Kind, generation: u64, snapshot: &Snapshot) -> Result<(), String> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let payload = match snapshot {
            Snapshot::Absent => None,
            Snapshot::Payload(payload) => Some(payload.as_slice()),
        };
        let mut candidate = tables.clone();
        candidate.take(kind, payload)?;
        let policy = Arc::new(Policy::compile(&candidate, &self.live)?);
        self.mesh.learn(kind, payload, &candidate, &policy)?;
        *tables = candidate;
        self.live.retain();
        let version = self.note(kind, generation);
        if kind == Kind::Base {
            self.has_base.store(generation > 0, Ordering::Relaxed);
        }
        self.draining.store(tables.base.lifecycle == Lifecycle::Draining, Ordering::Relaxed);
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *worker.latest.lock().unwrap_or_else(PoisonError::into_inner) = policy.clone();
            worker.version.store(version, Ordering::Release);
            worker.changed.notify_one();
        }
        Ok(())
    }

    /// The version of the policy that `generation` of a table makes.
    fn note(&self, kind: Kind, generation: u64) -> u64 {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.newest += 1;
        if let Some(current) = versions.current.get_mut(kind as usize) {
            *current = generation;
        }
        let (version, current) = (versions.newest, versions.current);
        versions.generations.insert(version, current);
        version
    }

    /// Writes down the generations that every worker has in force.
    fn report_in_force(&self) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let everywhere = workers.iter().map(|w| w.adopted.load(Ordering::Acquire)).min().unwrap_or(0);
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, generations)) = versions.generations.range(..=everywhere).next_back() else {
            return;
        };
        for (kind, generation) in Kind::ALL.into_iter().zip(*generations) {
            self.enrolment.set_in_force(kind, generation);
        }
        versions.generations = versions.generations.split_off(&everywhere);
    }
}
