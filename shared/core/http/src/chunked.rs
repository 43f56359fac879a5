//! The chunked coding, decoded strictly and byte by byte if need be.

use crate::fields::{self, Name};
use crate::limits;
use crate::refusal::Refusal;

/// What a step found at the beginning of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Framing, nothing to forward.
    Skipped,
    /// Data.
    Data,
    /// The end of the body.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Hex digits of a size; how many were seen.
    Size(u8),
    /// White space after the size: before an extension, or padding.
    SizeSpace,
    /// After the size, until CR.
    Extension,
    /// LF of the size's line.
    SizeLf,
    /// Data of a chunk.
    Data,
    /// CR after the data.
    DataCr,
    /// LF after the data.
    DataLf,
    /// A line of the trailer section.
    Trailer,
    /// LF of a trailer line.
    TrailerLf,
    Done,
}

/// Decodes one chunked body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    left: u64,
    overhead: usize,
    line: Vec<u8>,
    count: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { state: State::Size(0), left: 0, overhead: 0, line: Vec::new(), count: 0 }
    }
}

impl Decoder {
    /// Looks at the beginning of `input` (not empty); returns what it is and how many bytes that covers. Trailer fields that
    /// may be forwarded are appended to `trailers`.
    ///
    /// # Errors
    /// 400 for anything that is not the grammar (white space may pad a size; an extension is any text), 431 over a limit.
    pub fn step(&mut self, input: &[u8], trailers: &mut Vec<u8>) -> Result<(Step, usize), Refusal> {
        if self.state == State::Data {
            let take = input.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= take as u64;
            if self.left == 0 {
                self.state = State::DataCr;
            }
            return Ok((Step::Data, take));
        }
        for (i, byte) in input.iter().enumerate() {
            self.advance(*byte, trailers)?;
            match self.state {
                State::Done => return Ok((Step::End, i + 1)),
                State::Data => return Ok((Step::Skipped, i + 1)),
                _ => {}
            }
        }
        Ok((Step::Skipped, input.len()))
    }

    fn advance(&mut self, byte: u8, trailers: &mut Vec<u8>) -> Result<(), Refusal> {
        self.state = match (self.state, byte) {
            (State::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 15 {
                    return Err(Refusal::bad("a chunk size is too large"));
                }
                self.left = self.left << 4 | u64::from((byte as char).to_digit(16).unwrap_or(0));
                State::Size(digits + 1)
            }
            (State::Size(1..) | State::SizeSpace, b'\r') => State::SizeLf,
            (State::Size(1..) | State::SizeSpace, b' ' | b'\t') => {
                self.spend()?;
                State::SizeSpace
            }
            (State::Size(1..) | State::SizeSpace, b';') => {
                self.spend()?;
                State::Extension
            }
            (State::Size(_) | State::SizeSpace, _) => return Err(Refusal::bad("malformed chunk size")),
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\n') => {
                return Err(Refusal::bad("a chunk's line ends in a bare LF"));
            }
            (State::Extension, 0..=8 | 10..=31 | 127) => {
                return Err(Refusal::bad("a control character in a chunk extension"));
            }
            (State::Extension, _) => {
                self.spend()?;
                State::Extension
            }
            (State::SizeLf, b'\n') if self.left == 0 => State::Trailer,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0),
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::Trailer, b'\n') => {
                return Err(Refusal::bad("a trailer line ends in a bare LF"));
            }
            (State::Trailer, _) => {
                self.spend()?;
                self.line.push(byte);
                State::Trailer
            }
            (State::TrailerLf, b'\n') if self.line.is_empty() => State::Done,
            (State::TrailerLf, b'\n') => {
                self.keep_trailer(trailers)?;
                State::Trailer
            }
            _ => return Err(Refusal::bad("malformed chunk")),
        };
        Ok(())
    }

    fn spend(&mut self) -> Result<(), Refusal> {
        self.overhead += 1;
        if self.overhead > limits::CHUNK_OVERHEAD {
            return Err(Refusal::with(431, "chunk extensions and trailers are larger than 16 KiB"));
        }
        Ok(())
    }

    fn keep_trailer(&mut self, trailers: &mut Vec<u8>) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > limits::FIELDS {
            return Err(Refusal::with(431, "more than 100 trailer fields"));
        }
        self.line.extend_from_slice(b"\r\n\r\n");
        let mut room = [httparse::EMPTY_HEADER; 1];
        let parsed = httparse::parse_headers(&self.line, &mut room).is_ok_and(|status| status.is_complete());
        let [field] = room;
        if !parsed {
            return Err(Refusal::bad("malformed trailer field"));
        }
        match fields::name(field.name) {
            Name::Other => fields::write(trailers, field.name.as_bytes(), field.value),
            Name::FramingAlias | Name::ContentLength | Name::TransferEncoding => {
                return Err(Refusal::bad("a framing field in the trailer section"));
            }
            _ => {}
        }
        self.line.clear();
        Ok(())
    }
}
