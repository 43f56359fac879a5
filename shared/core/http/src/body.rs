//! How long a body is, and its relay from one coding to another.

use crate::chunked::{Decoder, Step};
use crate::refusal::Refusal;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection (answers only).
    UntilClose,
}

/// How the body is written to the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Plain,
    /// In chunks, trailers included.
    Chunked,
}

/// Relays one body: received bytes in, bytes for the next hop out.
#[derive(Debug)]
pub struct Relay {
    source: Source,
    coding: Coding,
    done: bool,
    trailers: Vec<u8>,
}

#[derive(Debug)]
enum Source {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
}

impl Relay {
    /// A relay of a body that is framed so, to a hop that is written to so.
    #[must_use]
    pub fn new(framing: Framing, coding: Coding) -> Self {
        let source = match framing {
            Framing::None => Source::Length(0),
            Framing::Length(length) => Source::Length(length),
            Framing::Chunked => Source::Chunked(Decoder::default()),
            Framing::UntilClose => Source::UntilClose,
        };
        Relay { done: matches!(source, Source::Length(0)), source, coding, trailers: Vec::new() }
    }

    /// The whole body went through.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// How many of the next `available` bytes may be written on exactly as they are; 0 if they must go through
    /// [`Relay::relay`]. [`Relay::passed`] must be told.
    #[must_use]
    pub fn plain(&self, available: usize) -> usize {
        match (&self.source, self.coding) {
            (Source::Length(left), Coding::Plain) => available.min(usize::try_from(*left).unwrap_or(usize::MAX)),
            (Source::UntilClose, Coding::Plain) => available,
            _ => 0,
        }
    }

    /// Whether `input` looks as if it held the rest of the body: nothing more need be waited for. A guess, for a body in
    /// chunks; it decides about a hurry, never about framing.
    #[must_use]
    pub fn may_be_whole(&self, input: &[u8]) -> bool {
        match &self.source {
            Source::Length(left) => input.len() as u64 >= *left,
            Source::Chunked(_) => input.ends_with(b"0\r\n\r\n"),
            Source::UntilClose => false,
        }
    }

    /// So many bytes of [`Relay::plain`] were taken over.
    pub fn passed(&mut self, bytes: usize) {
        if let Source::Length(left) = &mut self.source {
            *left = left.saturating_sub(bytes as u64);
            self.done = *left == 0;
        }
    }

    /// Takes what it can of `input` and appends it, coded for the next hop, to `out`; returns the bytes taken. What is
    /// left over after the end of the body is the next message's.
    ///
    /// # Errors
    /// 400 for malformed chunks; the body has no end then, and neither hop can be used again.
    pub fn relay(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        match &mut self.source {
            Source::Length(left) => {
                let take = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                self.done = *left == 0;
                write(self.coding, input.get(..take).unwrap_or(&[]), out);
                if self.done {
                    finish(self.coding, &[], out);
                }
                Ok(take)
            }
            Source::UntilClose => {
                write(self.coding, input, out);
                Ok(input.len())
            }
            Source::Chunked(decoder) => {
                let mut taken = 0;
                while let Some(rest) = input.get(taken..).filter(|rest| !rest.is_empty()) {
                    let (step, used) = decoder.step(rest, &mut self.trailers)?;
                    match step {
                        Step::Skipped => {}
                        Step::Data => write(self.coding, rest.get(..used).unwrap_or(&[]), out),
                        Step::End => {
                            finish(self.coding, &self.trailers, out);
                            self.done = true;
                            return Ok(taken + used);
                        }
                    }
                    taken += used;
                }
                Ok(taken)
            }
        }
    }

    /// The connection that the body came on has ended. `true`: so the body is complete.
    pub fn close(&mut self, out: &mut Vec<u8>) -> bool {
        if matches!(self.source, Source::UntilClose) && !self.done {
            finish(self.coding, &[], out);
            self.done = true;
        }
        self.done
    }
}

fn write(coding: Coding, data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    if coding == Coding::Chunked {
        write_hex(out, data.len());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(data);
    }
}

fn finish(coding: Coding, trailers: &[u8], out: &mut Vec<u8>) {
    if coding == Coding::Chunked {
        out.extend_from_slice(b"0\r\n");
        out.extend_from_slice(trailers);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for i in (0..digits).rev() {
        let nibble = (number >> (i * 4) & 15) as u8;
        out.push(if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble });
    }
}
