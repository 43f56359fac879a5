//! TCP and Unix addresses under one roof: what to listen on, what to connect to.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

use rustix::fd::AsFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, connect, socket_with, sockopt};

/// `127.0.0.1:8080`, `[::1]:8080` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address with its port.
    Tcp(SocketAddr),
    /// A stream socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        text.parse().map(Self::Tcp).map_err(|_| format!("{text:?} is neither IP:PORT nor unix:/path"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// A non-blocking listener.
    ///
    /// # Errors
    /// The address is taken or not allowed.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener.into())
            }
            Self::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(listener.into())
            }
        }
    }

    /// A connected, non-blocking stream. The connect itself blocks: the peers are on this host.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(stream.into())
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(stream.into())
            }
        }
    }

    /// A stream that is about to be connected; whether it was is known when it can be written to.
    ///
    /// # Errors
    /// Nobody listens there, and that is known already.
    pub fn begin_connect(&self) -> io::Result<OwnedFd> {
        let Self::Tcp(address) = self else {
            return self.connect();
        };
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let stream = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        sockopt::set_tcp_nodelay(&stream, true)?;
        match connect(&stream, address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(stream),
            Err(error) => Err(error.into()),
        }
    }

    /// Accepts one connection, or `None` when nobody waits.
    ///
    /// # Errors
    /// Out of descriptors, for example.
    pub fn accept(&self, listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
        match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(stream) => {
                if matches!(self, Self::Tcp(_)) {
                    sockopt::set_tcp_nodelay(&stream, true)?;
                }
                Ok(Some(stream))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_address_prints_as_it_was_written() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/tmp/a.sock"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        assert!("localhost:80".parse::<Address>().is_err());
    }
}
