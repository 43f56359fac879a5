//! A listening socket that has a name in the file system, for as long as it is held.
//!
//! Rules:
//! - It is created with the mode that it keeps: there is no moment with another one.
//! - The file goes before the last descriptor is closed, so that whoever asks whether somebody listens there is never
//!   told "nobody" about a file that is still to be removed.
//! - Only the file that was made here is removed, never one that took its place.
//!
//! Whether a file that is in the way may be replaced is the supervisor's to decide: here it is EADDRINUSE.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The name of a bound socket; removes the file when it is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: String,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The file of a socket that another image of this process bound.
    pub fn taken_over(path: String, device: u64, inode: u64) -> Self {
        Self { path, device, inode }
    }

    /// Device and inode: what tells it from another file of that name.
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    fn new(path: &str) -> Result<Self, Errno> {
        let (device, inode) = identity(path)?;
        Ok(Self { path: path.into(), device, inode })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path) == Ok((self.device, self.inode)) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

fn identity(path: &str) -> Result<(u64, u64), Errno> {
    rustix::fs::lstat(path).map(|found| (found.st_dev, found.st_ino))
}

/// Listens on `path`; `count` descriptors of the one socket, since SO_REUSEPORT does not exist here. None of them blocks.
pub fn listen(path: &str, mode: u32, count: u16, backlog: i32) -> Result<(Rc<SocketFile>, Vec<OwnedFd>), Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file takes the socket's mode less the umask, which is the process's own: the keeper has one thread.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    let umask = rustix::process::umask(Mode::empty());
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(umask);
    bound?;
    let file = Rc::new(SocketFile::new(path)?);
    rustix::net::listen(&socket, backlog)?;
    let mut descriptors = Vec::with_capacity(usize::from(count));
    for _ in 1..count {
        descriptors.push(rustix::io::fcntl_dupfd_cloexec(&socket, 0)?);
    }
    descriptors.push(socket);
    Ok((file, descriptors))
}
