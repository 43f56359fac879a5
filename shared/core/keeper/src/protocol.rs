//! What a controller and the keeper say to each other. Pure: bytes in, requests out, and back.
//!
//! One message is one SEQPACKET datagram of at most 192 KiB. A request is `u8 op, u32 seq, body`, its reply
//! `u8 op|0x80, u32 seq, i32 status, body`; a status other than 0 is an errno and its body the reason in words. An event
//! (op 64 and 65, seq 0) is never asked for. A request that cannot be read is refused with EINVAL under its own op and seq.
//!
//! Refused: a self-describing encoding (msgpack). The keeper outlives upgrades of everything around it, so it understands
//! a handful of fixed frames and carries no decoder that could need one.

use std::ffi::OsString;

use rustix::io::Errno;

use crate::wire::{Malformed, Reader, Writer};

/// The longest message either side sends.
pub const MESSAGE_MAX: usize = 192 * 1024;
/// The longest value of a note.
pub const NOTE_MAX: usize = 180 * 1024;
/// The protocol that a controller has to name in its HELLO.
pub const PROTOCOL: u32 = 1;

/// The longest reason of a refusal, in characters: it may quote what the controller sent.
const REASON_MAX: usize = 4096;
const REPLY: u8 = 0x80;
const EXITED: u8 = 64;
const LOADED: u8 = 65;

/// Where a child's standard stream leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// `/dev/null`.
    Null,
    /// The keeper's own, which is the supervisor's.
    Inherit,
    /// A pipe whose read side the keeper holds.
    Pipe,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn {
    pub name: String,
    pub argv: Vec<OsString>,
    /// The complete environment, `KEY=VALUE`.
    pub env: Vec<OsString>,
    /// Empty: the keeper's own.
    pub cwd: OsString,
    pub own_group: bool,
    pub stdio: [Stream; 3],
    /// Names of held descriptors to inherit.
    pub held: Vec<String>,
}

/// A request of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Hello {
        protocol: u32,
        pid: u32,
    },
    List,
    Spawn(Spawn),
    Signal {
        name: String,
        signal: i32,
        whole_group: bool,
    },
    Listen {
        name: String,
        address: String,
        count: u16,
    },
    Memfd {
        name: String,
        size: u64,
    },
    Fetch {
        name: String,
    },
    Release {
        name: String,
    },
    NotePut {
        key: String,
        value: Vec<u8>,
    },
    NoteGet {
        key: String,
    },
    Grace {
        milliseconds: i64,
    },
    Forget {
        name: String,
    },
    Shutdown {
        term_milliseconds: u32,
    },
    ListenUnix {
        name: String,
        path: String,
        mode: u32,
        count: u16,
    },
    Swap {
        one: String,
        other: String,
    },
    Renew {
        program: OsString,
    },
    /// As `Spawn`, by the zygote if there is one that can.
    Fork(Spawn),
    /// Starts the zygote itself.
    Zygote(Spawn),
}

/// What a reply repeats of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub op: u8,
    pub seq: u32,
}

/// A request that is not carried out: an errno and the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub errno: i32,
    pub message: String,
}

impl Refusal {
    /// Refuses with `errno`, explained by `message`.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self { errno: errno.raw_os_error(), message: message.into() }
    }

    /// Translates a system call's error; `doing` says what was tried.
    pub fn from_system(error: &std::io::Error, doing: impl std::fmt::Display) -> Self {
        let errno = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
        Self { errno, message: format!("{doing}: {error}") }
    }
}

impl From<Malformed> for Refusal {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::new(Errno::INVAL, reason)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

impl Ended {
    pub fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (by_signal, value) = (from.flag()?, from.i32()?);
        Ok(if by_signal { Self::Signal(value) } else { Self::Code(value) })
    }

    pub fn write(self, to: Writer) -> Writer {
        match self {
            Self::Code(code) => to.u8(0).i32(code),
            Self::Signal(signal) => to.u8(1).i32(signal),
        }
    }
}

/// One process in the answer to LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<'a> {
    pub name: &'a str,
    pub pid: u32,
    pub ended: Option<Ended>,
    pub start_time: u64,
}

/// Reads a message's head; what is missing of it reads as 0, so that even a stump can be answered.
pub fn head(message: &[u8]) -> Head {
    let mut reader = Reader::new(message);
    Head { op: reader.u8().unwrap_or(0), seq: reader.u32().unwrap_or(0) }
}

/// Reads one request. Errors with the reason when the message is not exactly one.
pub fn decode(message: &[u8]) -> Result<Request, Malformed> {
    let mut body = Reader::new(message);
    let op = body.u8()?;
    body.u32()?;
    let request = match op {
        1 => Request::Hello { protocol: body.u32()?, pid: body.u32()? },
        2 => Request::List,
        3 => Request::Spawn(spawn(&mut body)?),
        4 => Request::Signal { name: body.text()?, signal: body.i32()?, whole_group: body.flag()? },
        5 => Request::Listen { name: body.text()?, address: body.text()?, count: body.u16()? },
        6 => Request::Memfd { name: body.text()?, size: body.u64()? },
        7 => Request::Fetch { name: body.text()? },
        8 => Request::Release { name: body.text()? },
        9 => Request::NotePut { key: body.text()?, value: body.bytes()? },
        10 => Request::NoteGet { key: body.text()? },
        11 => Request::Grace { milliseconds: body.i64()? },
        12 => Request::Forget { name: body.text()? },
        13 => Request::Shutdown { term_milliseconds: body.u32()? },
        14 => Request::ListenUnix { name: body.text()?, path: body.text()?, mode: body.u32()?, count: body.u16()? },
        15 => Request::Swap { one: body.text()?, other: body.text()? },
        16 => Request::Renew { program: body.os_text()? },
        20 => Request::Fork(spawn(&mut body)?),
        21 => Request::Zygote(spawn(&mut body)?),
        _ => return Err(Malformed("no such request")),
    };
    body.finish()?;
    Ok(request)
}

fn spawn(body: &mut Reader<'_>) -> Result<Spawn, Malformed> {
    Ok(Spawn {
        name: body.text()?,
        argv: body.list(Reader::os_text)?,
        env: body.list(Reader::os_text)?,
        cwd: body.os_text()?,
        own_group: body.flag()?,
        stdio: [stream(body)?, stream(body)?, stream(body)?],
        held: body.list(Reader::text)?,
    })
}

fn stream(body: &mut Reader<'_>) -> Result<Stream, Malformed> {
    match body.u8()? {
        0 => Ok(Stream::Null),
        1 => Ok(Stream::Inherit),
        2 => Ok(Stream::Pipe),
        _ => Err(Malformed("a standard stream is neither null, inherit nor pipe")),
    }
}

/// The reply to the request of `head`; one that would not fit a message becomes EMSGSIZE.
pub fn reply(head: Head, result: Result<Vec<u8>, Refusal>) -> Vec<u8> {
    let start = Writer::default().u8(head.op | REPLY).u32(head.seq);
    let (start, refusal) = match result {
        Ok(body) if body.len() <= MESSAGE_MAX - 9 => {
            let mut message = start.i32(0).into_bytes();
            message.extend_from_slice(&body);
            return message;
        }
        Ok(_) => (start, Refusal::new(Errno::MSGSIZE, "the answer does not fit a message of 192 KiB")),
        Err(refusal) => (start, refusal),
    };
    let message: String = refusal.message.chars().take(REASON_MAX).collect();
    start.i32(refusal.errno).text(&message).into_bytes()
}

/// The event that says that a process ended.
pub fn exited(name: &str, pid: u32, ended: Ended) -> Vec<u8> {
    ended.write(Writer::default().u8(EXITED).u32(0).text(name).u32(pid)).into_bytes()
}

/// The event that says that the zygote can be used.
pub fn loaded() -> Vec<u8> {
    Writer::default().u8(LOADED).u32(0).into_bytes()
}

/// The body of LIST's reply.
pub fn list(processes: &[Listed<'_>], held: &[&str], notes: &[&str]) -> Vec<u8> {
    Writer::default()
        .list(processes, |to, process| {
            let to = to.text(process.name).u32(process.pid).u8(u8::from(process.ended.is_some()));
            process.ended.unwrap_or(Ended::Code(0)).write(to).u64(process.start_time)
        })
        .list(held, |to, name| to.text(name))
        .list(notes, |to, key| to.text(key))
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(op: u8, seq: u32) -> Writer {
        Writer::default().u8(op).u32(seq)
    }

    fn strings(to: Writer, items: &[&str]) -> Writer {
        to.list(items, |to, item| to.text(item))
    }

    fn spawn_message() -> Vec<u8> {
        let to = strings(strings(message(3, 7).text("app"), &["/bin/sh", "-c", "true"]), &["PATH=/bin", "A=b=c"]);
        strings(to.text("/tmp").u8(1).u8(0).u8(1).u8(2), &["public", "table.base"]).into_bytes()
    }

    /// One valid message of every kind, with what it means.
    fn every_request() -> Vec<(Vec<u8>, Request)> {
        let name = || "name".to_owned();
        let spawn = Spawn {
            name: "app".into(),
            argv: vec!["/bin/sh".into(), "-c".into(), "true".into()],
            env: vec!["PATH=/bin".into(), "A=b=c".into()],
            cwd: "/tmp".into(),
            own_group: true,
            stdio: [Stream::Null, Stream::Inherit, Stream::Pipe],
            held: vec!["public".into(), "table.base".into()],
        };
        vec![
            (message(1, 1).u32(1).u32(42).into_bytes(), Request::Hello { protocol: 1, pid: 42 }),
            (message(2, 2).into_bytes(), Request::List),
            (spawn_message(), Request::Spawn(spawn)),
            (
                message(4, 3).text("name").i32(15).u8(1).into_bytes(),
                Request::Signal { name: name(), signal: 15, whole_group: true },
            ),
            (
                message(5, 4).text("name").text("[::]:80").u16(2).into_bytes(),
                Request::Listen { name: name(), address: "[::]:80".into(), count: 2 },
            ),
            (message(6, 5).text("name").u64(1 << 40).into_bytes(), Request::Memfd { name: name(), size: 1 << 40 }),
            (message(7, 6).text("name").into_bytes(), Request::Fetch { name: name() }),
            (message(8, 7).text("name").into_bytes(), Request::Release { name: name() }),
            (
                message(9, 8).text("name").bytes(b"value").into_bytes(),
                Request::NotePut { key: name(), value: b"value".into() },
            ),
            (message(10, 9).text("name").into_bytes(), Request::NoteGet { key: name() }),
            (message(11, 10).u64(u64::MAX).into_bytes(), Request::Grace { milliseconds: -1 }),
            (message(12, 11).text("name").into_bytes(), Request::Forget { name: name() }),
            (message(13, 12).u32(1000).into_bytes(), Request::Shutdown { term_milliseconds: 1000 }),
            (
                message(14, 13).text("name").text("/run/a.sock").u32(0o660).u16(2).into_bytes(),
                Request::ListenUnix { name: name(), path: "/run/a.sock".into(), mode: 0o660, count: 2 },
            ),
            (
                message(15, 14).text("name").text("other").into_bytes(),
                Request::Swap { one: name(), other: "other".into() },
            ),
            (message(16, 15).text("/bin/keeper").into_bytes(), Request::Renew { program: "/bin/keeper".into() }),
        ]
    }

    #[test]
    fn every_request_is_understood() {
        for (message, request) in every_request() {
            assert_eq!(decode(&message), Ok(request));
        }
    }

    #[test]
    fn a_request_cut_anywhere_or_with_a_tail_is_malformed() {
        for (message, request) in every_request() {
            for end in 0..message.len() {
                let cut = message.get(..end).unwrap_or_default();
                assert!(decode(cut).is_err(), "{request:?} cut at {end}");
            }
            let mut longer = message.clone();
            longer.push(0);
            assert_eq!(decode(&longer), Err(Malformed("bytes after the last field")));
        }
    }

    #[test]
    fn claimed_counts_and_lengths_allocate_nothing() {
        assert!(decode(&message(9, 1).text("k").u32(u32::MAX).into_bytes()).is_err());
        assert!(decode(&message(3, 1).text("app").u16(u16::MAX).into_bytes()).is_err());
    }

    #[test]
    fn nonsense_values_are_malformed() {
        let mut bad_text = message(7, 1).u16(1).into_bytes();
        bad_text.push(0xff);
        assert_eq!(decode(&bad_text), Err(Malformed("a text is not UTF-8")));
        assert!(decode(&message(4, 1).text("app").i32(15).u8(2).into_bytes()).is_err());
        assert!(decode(&message(0, 1).into_bytes()).is_err());
        assert!(decode(&message(17, 1).into_bytes()).is_err());
        assert!(decode(&[]).is_err());
    }

    #[test]
    fn arguments_need_not_be_utf_8() {
        let mut raw = message(3, 1).text("app").u16(1).u16(1).into_bytes();
        raw.push(0xff);
        let rest = strings(strings(Writer::default(), &[]).text("").u8(0).u8(0).u8(0).u8(0), &[]).into_bytes();
        raw.extend_from_slice(&rest);
        let Ok(Request::Spawn(spawn)) = decode(&raw) else { unreachable!("it is a SPAWN") };
        assert_eq!(spawn.argv.first().map(|argument| argument.as_encoded_bytes()), Some(&b"\xff"[..]));
    }

    #[test]
    fn a_stump_is_answered_under_what_can_be_read_of_its_head() {
        assert_eq!(head(&[7, 1, 0, 0, 0, 9]), Head { op: 7, seq: 1 });
        assert_eq!(head(&[7, 1]), Head { op: 7, seq: 0 });
        assert_eq!(head(&[]), Head { op: 0, seq: 0 });
    }

    #[test]
    fn replies_carry_the_op_the_sequence_and_the_status() {
        let head = Head { op: 5, seq: 0x0102_0304 };
        assert_eq!(reply(head, Ok(vec![80, 0])), [0x85, 4, 3, 2, 1, 0, 0, 0, 0, 80, 0]);
        let refused = reply(head, Err(Refusal::new(Errno::EXIST, "no")));
        assert_eq!(refused, [0x85, 4, 3, 2, 1, 17, 0, 0, 0, 2, 0, b'n', b'o']);
        assert_eq!(reply(head, Ok(vec![0; MESSAGE_MAX - 9])).len(), MESSAGE_MAX);
        let too_long = reply(head, Ok(vec![0; MESSAGE_MAX - 8]));
        assert_eq!(too_long.get(5..9), Some(&Errno::MSGSIZE.raw_os_error().to_le_bytes()[..]));
    }

    #[test]
    fn exits_and_lists_are_laid_out_as_documented() {
        assert_eq!(exited("a", 5, Ended::Signal(9)), [64, 0, 0, 0, 0, 1, 0, b'a', 5, 0, 0, 0, 1, 9, 0, 0, 0]);
        let listed = Listed { name: "a", pid: 5, ended: Some(Ended::Code(3)), start_time: 7 };
        let expected = [1, 0, 1, 0, b'a', 5, 0, 0, 0, 1, 0, 3, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, b'h', 0, 0];
        assert_eq!(list(&[listed], &["h"], &[]), expected);
    }
}
