//! What one image of the keeper leaves to the next: all that it holds, as numbers of descriptors and plain values. Pure.
//!
//! The format has one version, and grows at its end: an image reads what an older one wrote, and refuses what a newer one
//! wrote under another version.

use std::os::fd::RawFd;

use crate::protocol::{Ended, Head};
use crate::wire::{Malformed, Reader, Writer};

/// `PKH` and the version.
const MAGIC: u32 = u32::from_le_bytes([b'P', b'K', b'H', 1]);
const NO_DESCRIPTOR: RawFd = -1;

/// A pipe of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLeft {
    pub descriptor: RawFd,
    pub discarded: u64,
}

/// A process, running or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessLeft {
    pub name: String,
    pub pid: u32,
    pub own_group: bool,
    pub ended: Option<Ended>,
    pub start_time: u64,
    pub stdout: Option<OutputLeft>,
    pub stderr: Option<OutputLeft>,
}

/// What kind of thing is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KindLeft {
    Memory { size: u64 },
    Listener { address: String, count: u16, port: u16 },
    Unix { path: String, mode: u32, count: u16, device: u64, inode: u64 },
}

/// A held descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemLeft {
    pub base: String,
    pub name: String,
    pub kind: KindLeft,
    pub descriptor: RawFd,
}

/// Who asked for the handover, and gets the answer from the next image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerLeft {
    pub descriptor: RawFd,
    pub pid: u32,
    pub head: Head,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub started_ms: u64,
    pub grace_ms: i64,
    pub listener: RawFd,
    pub controller: ControllerLeft,
    pub processes: Vec<ProcessLeft>,
    pub held: Vec<ItemLeft>,
    pub notes: Vec<(String, Vec<u8>)>,
}

impl Left {
    /// Every descriptor that is named.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let outputs = self.processes.iter().flat_map(|process| [process.stdout, process.stderr]).flatten();
        [self.listener, self.controller.descriptor]
            .into_iter()
            .chain(outputs.map(|output| output.descriptor))
            .chain(self.held.iter().map(|item| item.descriptor))
            .collect()
    }
}

/// The bytes for the next image.
pub fn encode(left: &Left) -> Vec<u8> {
    Writer::default()
        .u32(MAGIC)
        .u64(left.started_ms)
        .i64(left.grace_ms)
        .i32(left.listener)
        .i32(left.controller.descriptor)
        .u32(left.controller.pid)
        .u8(left.controller.head.op)
        .u32(left.controller.head.seq)
        .list(&left.processes, write_process)
        .list(&left.held, write_item)
        .list(&left.notes, |to, (key, value)| to.text(key).bytes(value))
        .into_bytes()
}

/// What an earlier image left. Errors with the reason when this one cannot read it.
pub fn decode(bytes: &[u8]) -> Result<Left, Malformed> {
    let mut from = Reader::new(bytes);
    if from.u32()? != MAGIC {
        return Err(Malformed("the keeper that runs is of another version"));
    }
    Ok(Left {
        started_ms: from.u64()?,
        grace_ms: from.i64()?,
        listener: from.i32()?,
        controller: ControllerLeft {
            descriptor: from.i32()?,
            pid: from.u32()?,
            head: Head { op: from.u8()?, seq: from.u32()? },
        },
        processes: from.list(read_process)?,
        held: from.list(read_item)?,
        notes: from.list(|from| Ok((from.text()?, from.bytes()?)))?,
    })
}

fn write_process(to: Writer, process: &ProcessLeft) -> Writer {
    let to = to.text(&process.name).u32(process.pid).u8(u8::from(process.own_group));
    let to = process.ended.unwrap_or(Ended::Code(0)).write(to.u8(u8::from(process.ended.is_some())));
    write_output(write_output(to.u64(process.start_time), process.stdout), process.stderr)
}

fn read_process(from: &mut Reader<'_>) -> Result<ProcessLeft, Malformed> {
    let (name, pid, own_group, has_ended) = (from.text()?, from.u32()?, from.flag()?, from.flag()?);
    let ended = Ended::read(from)?;
    Ok(ProcessLeft {
        name,
        pid,
        own_group,
        ended: has_ended.then_some(ended),
        start_time: from.u64()?,
        stdout: read_output(from)?,
        stderr: read_output(from)?,
    })
}

fn write_output(to: Writer, output: Option<OutputLeft>) -> Writer {
    let output = output.unwrap_or(OutputLeft { descriptor: NO_DESCRIPTOR, discarded: 0 });
    to.i32(output.descriptor).u64(output.discarded)
}

fn read_output(from: &mut Reader<'_>) -> Result<Option<OutputLeft>, Malformed> {
    let output = OutputLeft { descriptor: from.i32()?, discarded: from.u64()? };
    Ok((output.descriptor != NO_DESCRIPTOR).then_some(output))
}

fn write_item(to: Writer, item: &ItemLeft) -> Writer {
    let to = to.text(&item.base).text(&item.name).i32(item.descriptor);
    match &item.kind {
        KindLeft::Memory { size } => to.u8(0).u64(*size),
        KindLeft::Listener { address, count, port } => to.u8(1).text(address).u16(*count).u16(*port),
        KindLeft::Unix { path, mode, count, device, inode } => {
            to.u8(2).text(path).u32(*mode).u16(*count).u64(*device).u64(*inode)
        }
    }
}

fn read_item(from: &mut Reader<'_>) -> Result<ItemLeft, Malformed> {
    let (base, name, descriptor) = (from.text()?, from.text()?, from.i32()?);
    let kind = match from.u8()? {
        0 => KindLeft::Memory { size: from.u64()? },
        1 => KindLeft::Listener { address: from.text()?, count: from.u16()?, port: from.u16()? },
        2 => KindLeft::Unix {
            path: from.text()?,
            mode: from.u32()?,
            count: from.u16()?,
            device: from.u64()?,
            inode: from.u64()?,
        },
        _ => return Err(Malformed("something is held that this keeper does not know")),
    };
    Ok(ItemLeft { base, name, kind, descriptor })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Left {
        let process = |name: &str, ended, stdout| ProcessLeft {
            name: name.into(),
            pid: 42,
            own_group: true,
            ended,
            start_time: 7,
            stdout,
            stderr: Some(OutputLeft { descriptor: 9, discarded: 0 }),
        };
        let item =
            |base: &str, name: &str, kind| ItemLeft { base: base.into(), name: name.into(), kind, descriptor: 5 };
        Left {
            started_ms: 1,
            grace_ms: -1,
            listener: 3,
            controller: ControllerLeft { descriptor: 4, pid: 6, head: Head { op: 16, seq: 8 } },
            processes: vec![
                process("proxy", None, Some(OutputLeft { descriptor: 8, discarded: 11 })),
                process("app", Some(Ended::Signal(9)), None),
                process("traffic", Some(Ended::Code(3)), None),
            ],
            held: vec![
                item("hot", "hot", KindLeft::Memory { size: 4096 }),
                item("inbound", "inbound.0", KindLeft::Listener { address: "[::]:80".into(), count: 2, port: 80 }),
                item(
                    "outbound",
                    "outbound.1",
                    KindLeft::Unix { path: "/run/a".into(), mode: 0o600, count: 2, device: 1, inode: 2 },
                ),
            ],
            notes: vec![("plan".into(), vec![0, 255])],
        }
    }

    #[test]
    fn the_next_image_reads_what_this_one_left() {
        assert_eq!(decode(&encode(&everything())), Ok(everything()));
    }

    #[test]
    fn what_a_later_image_adds_at_the_end_is_nothing_to_this_one() {
        let mut bytes = encode(&everything());
        bytes.extend_from_slice(b"more");
        assert_eq!(decode(&bytes), Ok(everything()));
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_is_refused() {
        let bytes = encode(&everything());
        for end in 0..bytes.len() {
            assert!(decode(bytes.get(..end).unwrap_or_default()).is_err(), "cut at {end}");
        }
        let mut other = bytes;
        if let Some(version) = other.get_mut(3) {
            *version += 1;
        }
        assert_eq!(decode(&other), Err(Malformed("the keeper that runs is of another version")));
    }
}
