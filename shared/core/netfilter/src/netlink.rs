//! A netlink socket: a transaction of nf_tables, or one question and its answer.
//!
//! The kernel works within the call of `send`, so that its answers are there when that returns: nothing here waits.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::message::{Message, u16_at, u32_at};

const HEADER: usize = 16;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// The kind of a message that carries a result: 0, or the negative of an error.
const RESULT: u16 = 2;

/// The bounds of a transaction, whose fixed part names the subsystem it is for: nf_tables, 10.
const BEGIN: u16 = 16;
const END: u16 = 17;
const FOR_TABLES: [u8; 4] = [0, 0, 0, 10];

/// What the kernel did not do.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The message that it refused.
    pub what: &'static str,
    /// Its reason.
    pub errno: Errno,
}

/// Whether a transaction is carried out or only tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of it, at once.
    Commit,
    /// The kernel checks everything and then takes it back, since the end of the transaction never comes.
    TryOnly,
}

/// One socket; it is closed on exec.
pub struct Socket {
    socket: OwnedFd,
    last_number: u32,
    answer: Vec<u8>,
}

impl Socket {
    /// To the kernel's firewall.
    pub fn to_netfilter() -> Result<Socket, Refused> {
        Socket::open(Some(netlink::NETFILTER))
    }

    /// To its routing tables.
    pub fn to_routing() -> Result<Socket, Refused> {
        Socket::open(None)
    }

    fn open(protocol: Option<Protocol>) -> Result<Socket, Refused> {
        let refused = |errno| Refused { what: "the netlink socket", errno };
        let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(refused)?;
        net::bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(refused)?;
        Ok(Socket { socket, last_number: 0, answer: vec![0; 1 << 16] })
    }

    /// All messages or none of them, as one change. The error is the first that the kernel found.
    pub fn transaction(&mut self, messages: &[Message], end: End) -> Result<(), Refused> {
        let Some((last, before)) = messages.split_last() else { return Ok(()) };
        let mut bytes = Vec::new();
        let first_number = self.write(&mut bytes, BEGIN, 0, &FOR_TABLES);
        for message in before {
            self.write(&mut bytes, message.kind, message.flags, &message.body);
        }
        let last_number = self.write(&mut bytes, last.kind, last.flags | ACKNOWLEDGE, &last.body);
        if end == End::Commit {
            self.write(&mut bytes, END, 0, &FOR_TABLES);
        }
        self.send(&bytes)?;
        // Whatever fails is answered; what succeeds is not, but for the last.
        let mut found: Option<(u32, Errno)> = None;
        loop {
            let result = self.result(first_number)?;
            if let Some(errno) = result.errno
                && found.is_none_or(|(number, _)| result.number < number)
            {
                found = Some((result.number, errno));
            }
            // An answer to the beginning is one to the whole, and may be the only one.
            if result.number == first_number || result.number >= last_number {
                break;
            }
        }
        let Some((number, errno)) = found else { return Ok(()) };
        let index = number.checked_sub(first_number + 1).and_then(|index| usize::try_from(index).ok());
        let what = index.and_then(|index| messages.get(index)).map_or("the change", |message| message.what);
        Err(Refused { what, errno })
    }

    /// The body of the answer to one question.
    pub fn ask(&mut self, message: &Message) -> Result<&[u8], Refused> {
        let mut bytes = Vec::new();
        let number = self.write(&mut bytes, message.kind, message.flags, &message.body);
        self.send(&bytes)?;
        let result = self.result(number)?;
        if let Some(errno) = result.errno {
            return Err(Refused { what: message.what, errno });
        }
        Ok(self.answer.get(HEADER..result.length).unwrap_or_default())
    }

    fn write(&mut self, to: &mut Vec<u8>, kind: u16, flags: u16, body: &[u8]) -> u32 {
        self.last_number = self.last_number.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        to.extend_from_slice(&length.to_ne_bytes());
        to.extend_from_slice(&kind.to_ne_bytes());
        to.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        to.extend_from_slice(&self.last_number.to_ne_bytes());
        to.extend_from_slice(&0u32.to_ne_bytes());
        to.extend_from_slice(body);
        self.last_number
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let refused = |errno| Refused { what: "the change", errno };
        net::send(&self.socket, bytes, SendFlags::empty()).map_err(refused).map(|_| ())
    }

    /// The next answer to a message from `first` on; an answer to an older one is left over from an error.
    fn result(&mut self, first: u32) -> Result<Answer, Refused> {
        let refused = |errno| Refused { what: "an answer", errno };
        loop {
            let received = net::recv(&self.socket, self.answer.as_mut_slice(), RecvFlags::DONTWAIT);
            let (_, length) = received.map_err(refused)?;
            let bytes = self.answer.get(..length).unwrap_or_default();
            let (Some(kind), Some(number)) = (u16_at(bytes, 4), u32_at(bytes, 8)) else {
                return Err(refused(Errno::BADMSG));
            };
            if number < first {
                continue;
            }
            let code = if kind == RESULT { u32_at(bytes, HEADER).unwrap_or_default().cast_signed() } else { 0 };
            let errno = (code != 0).then(|| Errno::from_raw_os_error(code.wrapping_neg()));
            return Ok(Answer { number, errno, length });
        }
    }
}

struct Answer {
    number: u32,
    errno: Option<Errno>,
    length: usize,
}
