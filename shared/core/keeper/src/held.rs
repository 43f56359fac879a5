//! Descriptors that outlive every process that uses them: listening sockets and sealed memory.
//!
//! Both requests are idempotent, so that a supervisor that adopts a running keeper asks for what it needs instead of
//! comparing first. A listener is one member of a SO_REUSEPORT group. The first member binds *without* that option and only
//! takes it on afterwards: bound with it from the start, it would silently join the group of any other service of this user
//! on the same port, and steal half of its connections, where EADDRINUSE is the right answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::handover::{ItemLeft, KindLeft};
use crate::protocol::Refusal;
use crate::socket_file::{self, SocketFile};

const BACKLOG: i32 = 4096;

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Memory { size: u64 },
    Listener { address: String, count: u16, port: u16 },
    Unix { path: String, mode: u32, count: u16 },
}

struct Item {
    /// What it was asked for by; a listener's own name adds its number.
    base: String,
    name: String,
    kind: Kind,
    /// Before `descriptor`, so that the file goes before the socket does.
    file: Option<Rc<SocketFile>>,
    descriptor: OwnedFd,
}

/// Everything held, in the order of asking.
#[derive(Default)]
pub struct Held {
    items: Vec<Item>,
}

impl Held {
    /// Names of single descriptors, as LIST gives them.
    pub fn names(&self) -> Vec<&str> {
        self.items.iter().map(|item| item.name.as_str()).collect()
    }

    /// One descriptor by its full name.
    pub fn get(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.items.iter().find(|item| item.name == name).map(|item| item.descriptor.as_fd())
    }

    /// The descriptors that `names` mean, each once; a listener's base name means all of its sockets. ENOENT for an unknown one.
    pub fn select(&self, names: &[String]) -> Result<Vec<(&str, BorrowedFd<'_>)>, Refusal> {
        let wanted = |item: &Item| names.iter().any(|name| *name == item.name || *name == item.base);
        let known = |name: &String| self.items.iter().any(|item| *name == item.name || *name == item.base);
        match names.iter().find(|name| !known(name)) {
            Some(name) => Err(unknown(name)),
            None => Ok(self
                .items
                .iter()
                .filter(|item| wanted(item))
                .map(|item| (item.name.as_str(), item.descriptor.as_fd()))
                .collect()),
        }
    }

    /// Lets go of a descriptor, or of all sockets of a listener.
    pub fn release(&mut self, name: &str) -> Result<(), Refusal> {
        let before = self.items.len();
        self.items.retain(|item| item.name != name && item.base != name);
        if self.items.len() == before { Err(unknown(name)) } else { Ok(()) }
    }

    /// Creates sealed memory of `size` bytes; `false` if it was there already.
    pub fn memory(&mut self, name: &str, size: u64) -> Result<bool, Refusal> {
        check_name(name)?;
        match self.taken(name, 0) {
            Some(item) if item.name == name && item.kind == (Kind::Memory { size }) => {
                return Ok(false);
            }
            Some(item) => return Err(exists(item)),
            None => {}
        }
        let descriptor = sealed_memory(name, size)
            .map_err(|errno| Refusal::new(errno, format!("cannot make {size} bytes of memory for {name}: {errno}")))?;
        let kind = Kind::Memory { size };
        self.items.push(Item { base: name.into(), name: name.into(), kind, file: None, descriptor });
        Ok(true)
    }

    /// Binds `count` sockets to `address` (port 0: any free one), all or none of them; the port they have. A listener that
    /// has fewer gets the rest; one that has more keeps them.
    pub fn listen(&mut self, name: &str, address: &str, count: u16) -> Result<u16, Refusal> {
        check_name(name)?;
        if count == 0 {
            return Err(Refusal::new(Errno::INVAL, "a listener needs at least one socket"));
        }
        let mut wanted: SocketAddr = address
            .parse()
            .map_err(|_| Refusal::new(Errno::INVAL, format!("{address:?} is no address: IP:PORT or [IPv6]:PORT")))?;
        let refused = |errno| Refusal::new(errno, format!("cannot listen on {address}: {errno}"));
        if let Some(item) = self.taken(name, count) {
            return match &item.kind {
                Kind::Listener { address: bound, count: has, port }
                    if item.base == name && (bound == address || is_bound(bound, *port, wanted)) =>
                {
                    let (has, port) = (*has, *port);
                    wanted.set_port(port);
                    let more = (has..count).map(|_| join(wanted)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
                    self.add_listeners(name, address, port, has, more);
                    Ok(port)
                }
                _ => Err(exists(item)),
            };
        }
        let (port, sockets) = group(wanted, count).map_err(refused)?;
        self.add_listeners(name, address, port, 0, sockets);
        Ok(port)
    }

    /// Sockets `name.FIRST` and up of a listener, which has so many in all from now on.
    fn add_listeners(&mut self, name: &str, address: &str, port: u16, first: u16, sockets: Vec<OwnedFd>) {
        let count = first + u16::try_from(sockets.len()).unwrap_or(0);
        let kind = || Kind::Listener { address: address.into(), count, port };
        for item in self.items.iter_mut().filter(|item| item.base == name) {
            item.kind = kind();
        }
        for (number, descriptor) in (first..).zip(sockets) {
            let (base, name) = (name.into(), format!("{name}.{number}"));
            self.items.push(Item { base, name, kind: kind(), file: None, descriptor });
        }
    }

    /// Binds one socket to `path` with that mode, and holds `count` descriptors of it; never fewer than it had.
    pub fn listen_unix(&mut self, name: &str, path: &str, mode: u32, count: u16) -> Result<(), Refusal> {
        check_name(name)?;
        if count == 0 {
            return Err(Refusal::new(Errno::INVAL, "a listener needs at least one socket"));
        }
        let refused = |errno| Refusal::new(errno, format!("cannot listen on {path}: {errno}"));
        let (file, first, descriptors) = match self.taken(name, count) {
            None => {
                let (file, descriptors) = socket_file::listen(path, mode, count, BACKLOG).map_err(refused)?;
                (Some(file), 0, descriptors)
            }
            Some(item) => match &item.kind {
                Kind::Unix { path: bound, mode: its, count: has } if bound == path && *its == mode => {
                    let more = |_| rustix::io::fcntl_dupfd_cloexec(&item.descriptor, 0);
                    let more = (*has..count).map(more).collect::<Result<Vec<_>, _>>().map_err(refused)?;
                    (item.file.clone(), *has, more)
                }
                _ => return Err(exists(item)),
            },
        };
        let count = first + u16::try_from(descriptors.len()).unwrap_or(0);
        let kind = || Kind::Unix { path: path.into(), mode, count };
        for item in self.items.iter_mut().filter(|item| item.base == name) {
            item.kind = kind();
        }
        for (number, descriptor) in (first..).zip(descriptors) {
            let (base, name) = (name.into(), format!("{name}.{number}"));
            self.items.push(Item { base, name, kind: kind(), file: file.clone(), descriptor });
        }
        Ok(())
    }

    /// All of it, for the next image of this process.
    pub fn leave(&self) -> Vec<ItemLeft> {
        let left = |item: &Item| {
            let kind = match &item.kind {
                Kind::Memory { size } => KindLeft::Memory { size: *size },
                Kind::Listener { address, count, port } => {
                    KindLeft::Listener { address: address.clone(), count: *count, port: *port }
                }
                Kind::Unix { path, mode, count } => {
                    let (device, inode) = item.file.as_ref().map_or((0, 0), |file| file.identity());
                    KindLeft::Unix { path: path.clone(), mode: *mode, count: *count, device, inode }
                }
            };
            let descriptor = item.descriptor.as_raw_fd();
            ItemLeft { base: item.base.clone(), name: item.name.clone(), kind, descriptor }
        };
        self.items.iter().map(left).collect()
    }

    /// What an earlier image left; `take` owns its descriptors.
    pub fn taken_over(left: Vec<ItemLeft>, mut take: impl FnMut(RawFd) -> Option<OwnedFd>) -> Self {
        let mut files: BTreeMap<String, Rc<SocketFile>> = BTreeMap::new();
        let mut item = |left: ItemLeft| {
            let (kind, file) = match left.kind {
                KindLeft::Memory { size } => (Kind::Memory { size }, None),
                KindLeft::Listener { address, count, port } => (Kind::Listener { address, count, port }, None),
                KindLeft::Unix { path, mode, count, device, inode } => {
                    let made = || Rc::new(SocketFile::taken_over(path.clone(), device, inode));
                    let file = files.entry(left.base.clone()).or_insert_with(made).clone();
                    (Kind::Unix { path, mode, count }, Some(file))
                }
            };
            Some(Item { base: left.base, name: left.name, kind, file, descriptor: take(left.descriptor)? })
        };
        Self { items: left.into_iter().filter_map(&mut item).collect() }
    }

    /// What already goes by `name`, or by one of the `count` numbered names under it.
    fn taken(&self, name: &str, count: u16) -> Option<&Item> {
        let numbered = |item: &Item| (0..count).any(|number| item.name == format!("{name}.{number}"));
        self.items.iter().find(|item| item.name == name || item.base == name || numbered(item))
    }
}

/// Whether that is where a listener with this address is bound, which may have been asked for with port 0.
fn is_bound(address: &str, port: u16, wanted: SocketAddr) -> bool {
    address.parse().is_ok_and(|bound: SocketAddr| bound.ip() == wanted.ip()) && port == wanted.port()
}

/// Names travel in `PANNIER_FDS`, whose separators they must not contain.
fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.contains([',', '=', '\0']) {
        return Err(Refusal::new(Errno::INVAL, "a held name is not empty and has no ',', '=' or NUL"));
    }
    Ok(())
}

fn unknown(name: &str) -> Refusal {
    Refusal::new(Errno::NOENT, format!("nothing is held by the name {name}"))
}

fn exists(item: &Item) -> Refusal {
    Refusal::new(Errno::EXIST, format!("{} is held already, as {:?}", item.name, item.kind))
}

fn sealed_memory(name: &str, size: u64) -> Result<OwnedFd, Errno> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, size)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

fn group(mut address: SocketAddr, count: u16) -> Result<(u16, Vec<OwnedFd>), Errno> {
    let first = socket(address)?;
    rustix::net::bind(&first, &address)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&first)?)?;
    address.set_port(bound.port());
    sockopt::set_socket_reuseport(&first, true)?;
    rustix::net::listen(&first, BACKLOG)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(join(address)?);
    }
    Ok((address.port(), sockets))
}

/// One more socket of a group that is bound.
fn join(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = socket(address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}
