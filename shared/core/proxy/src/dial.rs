//! Connecting to an upstream.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pannier_decide::address::{Address, is_forbidden};
use pannier_table::counters::Cell;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::sync::{Semaphore, oneshot};

use crate::stream::Stream;
use crate::timers::{Timer, after};
use crate::worker::Worker;

/// Names that are resolved at the same time; further ones wait.
static RESOLVERS: Semaphore = Semaphore::const_new(8);
const RESOLVER_STACK: usize = 256 << 10;
/// How long to wait for room in the queue of a Unix socket.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// Refused, unreachable, no such name or socket.
    Failed,
    /// Nobody answered in time.
    TimedOut,
    /// Such an address is never dialled for a request that is passed through.
    Forbidden,
}

/// Whether this host itself may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    #[allow(missing_docs)]
    Anywhere,
    /// Not by its loopback: a name that somebody else has given.
    Elsewhere,
}

/// Connects to an endpoint of a cluster.
pub async fn connect(worker: &Worker, timer: &Timer, address: &Address, timeout_ms: u64) -> Result<Stream, DialError> {
    worker.count(Cell::ConnectsTotal);
    let dial = async {
        match address {
            Address::Ip(ip) => tcp(worker, ip).await,
            Address::Name(host, port) => first_of(worker, &resolve(host, *port).await?).await,
            Address::Unix(path) => unix(worker, path.as_ref()).await,
        }
    };
    count(worker, timer.until(after(timeout_ms), dial).await.map(|done| done.map_err(|_| DialError::Failed)))
}

/// Resolves and connects to an authority that is no cluster; never to link-local or metadata addresses, nor to
/// ourselves, whatever name they hide behind.
pub async fn pass_through(
    worker: &Worker,
    timer: &Timer,
    host: &str,
    port: u16,
    timeout_ms: u64,
    reach: Reach,
) -> Result<Stream, DialError> {
    worker.count(Cell::ConnectsTotal);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let dial = async {
        let resolved = resolve(host, port).await.map_err(|_| DialError::Failed)?;
        let is_here = |a: &SocketAddr| a.ip().to_canonical().is_loopback();
        let is_allowed =
            |a: &&SocketAddr| !is_forbidden(a.ip()) && !is_own(worker, a) && (reach == Reach::Anywhere || !is_here(a));
        let allowed: Vec<_> = resolved.iter().filter(is_allowed).copied().collect();
        if allowed.is_empty() {
            return Err(if resolved.is_empty() { DialError::Failed } else { DialError::Forbidden });
        }
        first_of(worker, &allowed).await.map_err(|_| DialError::Failed)
    };
    count(worker, timer.until(after(timeout_ms), dial).await)
}

fn is_own(worker: &Worker, address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let same_host = |own: &SocketAddr| own.ip() == ip || (own.ip().is_unspecified() && ip.is_loopback());
    worker.own.iter().any(|own| own.port() == address.port() && same_host(own))
}

/// The addresses of a name, asked for in a thread of its own: the system's resolver knows no other way.
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let one_of_few = RESOLVERS.acquire().await.map_err(io::Error::other)?;
    let (found, finding) = oneshot::channel();
    let name = host.to_string();
    thread::Builder::new().name("resolver".into()).stack_size(RESOLVER_STACK).spawn(move || {
        let _one_of_few = one_of_few; // until it has answered, whether anybody still waits or not
        let _ = found.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect));
    })?;
    finding.await.map_err(io::Error::other)?
}

/// A connection to the first address that has one to give.
async fn first_of(worker: &Worker, addresses: &[SocketAddr]) -> io::Result<Stream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match tcp(worker, address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket; for want of descriptors in place of one that was held back, or of an idle connection.
fn socket(worker: &Worker, family: AddressFamily) -> io::Result<OwnedFd> {
    loop {
        match net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None) {
            Err(error)
                if worker.reserve.is_told(Some(error)) && (worker.reserve.free_one() || worker.pool.close_any()) => {}
            made => return made.map_err(Into::into),
        }
    }
}

/// Connects to an address.
///
/// # Errors
/// The system's.
pub async fn tcp(worker: &Worker, address: &SocketAddr) -> io::Result<Stream> {
    connected(socket(worker, family(address))?, address).await
}

/// The same for who has no connections of callers to care for.
///
/// # Errors
/// The system's.
pub async fn unreserved(address: &SocketAddr) -> io::Result<Stream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    connected(net::socket_with(family(address), SocketType::STREAM, flags, None)?, address).await
}

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

async fn connected(socket: OwnedFd, address: &SocketAddr) -> io::Result<Stream> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    match net::connect(&socket, address) {
        Ok(()) => Stream::tcp(socket, true),
        Err(Errno::INPROGRESS) => {
            let stream = Stream::tcp(socket, false)?;
            stream.connected().await?;
            Ok(stream)
        }
        Err(error) => Err(error.into()),
    }
}

/// A Unix socket connects at once, or has its queue full, which nobody tells the end of.
async fn unix(worker: &Worker, path: &Path) -> io::Result<Stream> {
    let address = SocketAddrUnix::new(path)?;
    loop {
        let socket = socket(worker, AddressFamily::UNIX)?;
        match net::connect(&socket, &address) {
            Ok(()) => return Stream::unix(socket),
            Err(Errno::AGAIN) => pannier_reactor::sleep(QUEUE_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn count(
    worker: &Worker,
    result: Result<Result<Stream, DialError>, crate::timers::Elapsed>,
) -> Result<Stream, DialError> {
    let result = result.unwrap_or(Err(DialError::TimedOut));
    if result.is_err() {
        worker.count(Cell::ConnectsFailed);
    }
    result
}
