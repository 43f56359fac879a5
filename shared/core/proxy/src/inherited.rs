//! What the keeper handed over: listening sockets and shared-memory segments, by name and number (`PANNIER_FDS`).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use pannier_table::counters::Enrolment;
use pannier_table::hot::HotWords;
use pannier_table::map::{Access, Mapping};
use pannier_table::series::Direction;
use pannier_table::{Error, counters, hot, ring};

use crate::listener::Turn;

/// Descriptors by name, each owned once.
pub type Inherited = BTreeMap<String, OwnedFd>;

/// Takes the descriptors that the environment names.
///
/// # Errors
/// One line naming the entry that is malformed.
pub fn take() -> Result<Inherited, String> {
    let list = std::env::var("PANNIER_FDS")
        .map_err(|_| "PANNIER_FDS is not set: the supervisor starts the proxy".to_string())?;
    let mut seen = std::collections::BTreeSet::new();
    list.split(',')
        .map(|entry| {
            let parsed = entry.split_once('=').and_then(|(name, fd)| Some((name, fd.parse::<i32>().ok()?)));
            let (name, fd) =
                parsed.filter(|(_, fd)| *fd > 2).ok_or(format!("PANNIER_FDS: malformed entry {entry:?}"))?;
            if !seen.insert(fd) {
                return Err(format!("PANNIER_FDS: descriptor {fd} is named twice"));
            }
            // SAFETY: the keeper opened exactly these numbers for this process, nobody else here knows them, and each
            // is taken once (checked above).
            let owned = unsafe { OwnedFd::from_raw_fd(fd) };
            rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC).map_err(|e| format!("{name}: {e}"))?;
            Ok((name.to_string(), owned))
        })
        .collect()
}

/// The segments that workers write to.
pub struct Segments {
    /// This process's region of counters.
    pub enrolment: Arc<Enrolment>,
    /// Rings of every worker.
    pub rings: Arc<Mapping>,
    /// Hot words of the endpoints.
    pub hot: Arc<HotWords>,
}

impl Segments {
    /// Maps them and enrols.
    ///
    /// # Errors
    /// `Layout` if one is missing or foreign, `Full` if too many processes count.
    pub fn map(inherited: &Inherited, workers: usize) -> Result<Self, Error> {
        let open = |name: &str, bytes| Mapping::new(descriptor(inherited, name)?, bytes, Access::Write);
        Ok(Segments {
            enrolment: Arc::new(Enrolment::new(open("counters", counters::SEGMENT_BYTES)?, workers)?),
            rings: Arc::new(open("rings", ring::SEGMENT_BYTES)?),
            hot: Arc::new(HotWords::new(open("hot", hot::SEGMENT_BYTES)?)?),
        })
    }
}

/// The descriptor of that name.
///
/// # Errors
/// `Layout` if it was not handed over.
pub fn descriptor<'a>(inherited: &'a Inherited, name: &str) -> Result<&'a OwnedFd, Error> {
    inherited.get(name).ok_or_else(|| Error::Layout(format!("{name} was not inherited")))
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// A TCP port.
    Tcp(TcpListener),
    /// A name in the file system, of which every worker has a descriptor.
    Unix(UnixListener, Turn),
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Calls of others, or of the app.
    Side(Direction),
    /// Hosts that lean on this Central.
    Gateway,
    /// Centrals that come in to the app.
    PassThrough,
}

/// The listeners of one worker.
#[derive(Debug, Default)]
pub struct Listeners {
    #[allow(missing_docs)]
    pub sockets: Vec<(Door, Socket)>,
    /// Where the app's own calls arrive; a request passed through to one of these would come back for ever.
    pub own: Vec<SocketAddr>,
}

/// Deals the listeners out: listener i to worker i modulo their number, so that every one is accepted on.
///
/// # Errors
/// One line naming the socket.
pub fn listeners(inherited: Inherited, workers: usize) -> Result<Vec<Listeners>, String> {
    let mut dealt: Vec<Listeners> = (0..workers).map(|_| Listeners::default()).collect();
    let mut own = Vec::new();
    let turns = [Turn::deal(workers), Turn::deal(workers)];
    for (name, fd) in inherited {
        let Some((side, index)) = name.split_once('.') else {
            continue;
        };
        let [inbound, outbound] = &turns;
        let (door, turns) = match side {
            "inbound" => (Door::Side(Direction::Inbound), inbound),
            "outbound" => (Door::Side(Direction::Outbound), outbound),
            "gateway" => (Door::Gateway, inbound),
            "passthrough" => (Door::PassThrough, inbound),
            _ => continue,
        };
        let index: usize = index.parse().map_err(|_| format!("{name}: no listener's name"))?;
        let (Some(worker), Some(turn)) = (dealt.get_mut(index % workers), turns.get(index % workers)) else {
            continue;
        };
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| format!("{name}: {e}"))?;
        let address = rustix::net::getsockname(&fd).map_err(|e| format!("{name}: {e}"))?;
        let socket = if let Ok(address) = SocketAddr::try_from(address) {
            own.push(address);
            Socket::Tcp(TcpListener::from(fd))
        } else {
            Socket::Unix(UnixListener::from(fd), turn.clone())
        };
        worker.sockets.push((door, socket));
    }
    for worker in &mut dealt {
        worker.own.clone_from(&own);
    }
    Ok(dealt)
}
