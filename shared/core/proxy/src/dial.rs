//! Connecting to an upstream.

use std::net::SocketAddr;

use pannier_decide::address::{Address, is_forbidden};
use pannier_table::counters::Cell;
use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::stream::Stream;
use crate::timers::{Timer, after};
use crate::worker::Worker;

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

/// Connects to an endpoint of a cluster.
pub async fn connect(worker: &Worker, timer: &Timer, address: &Address, timeout_ms: u64) -> Result<Stream, DialError> {
    worker.count(Cell::ConnectsTotal);
    let dial = async {
        match address {
            Address::Ip(ip) => TcpStream::connect(ip).await.map(tcp),
            Address::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await.map(tcp),
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
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
) -> Result<Stream, DialError> {
    worker.count(Cell::ConnectsTotal);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let dial = async {
        let resolved: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(|_| DialError::Failed)?.collect();
        let allowed: Vec<_> = resolved.iter().filter(|a| !is_forbidden(a.ip()) && !is_own(worker, a)).collect();
        if allowed.is_empty() {
            return Err(if resolved.is_empty() { DialError::Failed } else { DialError::Forbidden });
        }
        for address in allowed {
            if let Ok(stream) = TcpStream::connect(address).await {
                return Ok(tcp(stream));
            }
        }
        Err(DialError::Failed)
    };
    count(worker, timer.until(after(timeout_ms), dial).await)
}

fn is_own(worker: &Worker, address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let same_host = |own: &SocketAddr| own.ip() == ip || (own.ip().is_unspecified() && ip.is_loopback());
    worker.own.iter().any(|own| own.port() == address.port() && same_host(own))
}

fn tcp(stream: TcpStream) -> Stream {
    let _ = stream.set_nodelay(true);
    Stream::Tcp(stream)
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
