//! Reads HTTP/1.1 answers as they arrive and compares each body with the one that is expected; no I/O.
//!
//! Rules: bytes may be split anywhere; a body is compared where it lies and never copied; framing is what keeps a
//! connection alive (`Content-Length`, `chunked`), anything else is a [`Fault`], after which the connection is of no use.

const LINE_LIMIT: usize = 16 * 1024;

/// What a good answer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Exactly these bytes.
    Body(Vec<u8>),
    /// This many bytes, whatever they are.
    Length(u64),
}

/// Why the connection cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A line of more than 16 KiB.
    LineTooLong,
    /// No `HTTP/1.x NNN`.
    StatusLine,
    /// A header without a colon.
    Header,
    /// `Content-Length` is no number, or two of them differ, or it stands beside `Transfer-Encoding`.
    Length,
    /// A transfer coding other than `chunked`, or a chunk that is none.
    Chunk,
    /// The body would end with the connection.
    Unframed,
}

/// One whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body is the expected one.
    pub body_matches: bool,
    /// The peer ends the connection after this answer.
    pub close: bool,
}

impl Answer {
    /// Whether it counts as a request served.
    pub fn is_good(self) -> bool {
        self.status == 200 && self.body_matches
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    StatusLine,
    Headers,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Whole,
}

/// Reads one answer after the other.
#[derive(Default)]
pub struct Parser {
    carry: Vec<u8>,
    message: Message,
}

impl Parser {
    /// Takes bytes up to the end of one answer: how many were used, and the answer once it is whole.
    ///
    /// # Errors
    /// See [`Fault`]; the connection is to be closed.
    pub fn feed(&mut self, input: &[u8], expect: &Expect) -> Result<(usize, Option<Answer>), Fault> {
        let mut rest = input;
        loop {
            match self.message.stage {
                Stage::Whole => {
                    let answer = self.message.answer(expect);
                    self.message = Message::default();
                    return Ok((input.len() - rest.len(), Some(answer)));
                }
                Stage::Body(left) | Stage::ChunkData(left) => {
                    if rest.is_empty() {
                        return Ok((input.len(), None));
                    }
                    let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (piece, after) = rest.split_at(take);
                    self.message.body(piece, left, expect);
                    rest = after;
                }
                _ => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        self.carry.extend_from_slice(rest);
                        if self.carry.len() > LINE_LIMIT {
                            return Err(Fault::LineTooLong);
                        }
                        return Ok((input.len(), None));
                    };
                    let (line, after) = rest.split_at(end);
                    rest = after.get(1..).unwrap_or_default();
                    if self.carry.is_empty() {
                        self.message.line(line)?;
                    } else {
                        self.carry.extend_from_slice(line);
                        self.message.line(&self.carry)?;
                        self.carry.clear();
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct Message {
    stage: Stage,
    status: u16,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    received: u64,
    differs: bool,
}

impl Message {
    fn answer(&self, expect: &Expect) -> Answer {
        let wanted = match expect {
            Expect::Body(body) => body.len() as u64,
            Expect::Length(length) => *length,
        };
        Answer { status: self.status, body_matches: !self.differs && self.received == wanted, close: self.close }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.stage = match self.stage {
            Stage::StatusLine => {
                self.status_line(line)?;
                Stage::Headers
            }
            Stage::Headers if line.is_empty() => self.framing()?,
            Stage::Headers => {
                self.header(line)?;
                Stage::Headers
            }
            Stage::ChunkSize => match chunk_size(line)? {
                0 => Stage::Trailers,
                size => Stage::ChunkData(size),
            },
            Stage::ChunkEnd if line.is_empty() => Stage::ChunkSize,
            Stage::ChunkEnd => return Err(Fault::Chunk),
            Stage::Trailers if line.is_empty() => Stage::Whole,
            stage => stage,
        };
        Ok(())
    }

    fn status_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let after = line.strip_prefix(b"HTTP/1.").ok_or(Fault::StatusLine)?;
        let [minor, b' ', a, b, c, end @ ..] = after else {
            return Err(Fault::StatusLine);
        };
        if !matches!(end.first(), None | Some(b' ')) {
            return Err(Fault::StatusLine);
        }
        self.close = *minor == b'0';
        self.status = 0;
        for digit in [a, b, c] {
            if !digit.is_ascii_digit() {
                return Err(Fault::StatusLine);
            }
            self.status = self.status * 10 + u16::from(digit - b'0');
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::Header)?;
        let (name, after) = line.split_at(colon);
        let value = after.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = decimal(value).ok_or(Fault::Length)?;
            if self.length.is_some_and(|earlier| earlier != length) {
                return Err(Fault::Length);
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || self.chunked {
                return Err(Fault::Chunk);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for token in value.split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                if token.eq_ignore_ascii_case(b"close") {
                    self.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    self.close = false;
                }
            }
        }
        Ok(())
    }

    fn framing(&mut self) -> Result<Stage, Fault> {
        match (self.status, self.chunked, self.length) {
            (100..=199, ..) => {
                *self = Self::default();
                Ok(Stage::StatusLine)
            }
            (204 | 304, ..) => Ok(Stage::Whole),
            (_, true, Some(_)) => Err(Fault::Length),
            (_, true, None) => Ok(Stage::ChunkSize),
            (_, false, Some(0)) => Ok(Stage::Whole),
            (_, false, Some(length)) => Ok(Stage::Body(length)),
            (_, false, None) => Err(Fault::Unframed),
        }
    }

    fn body(&mut self, piece: &[u8], left: u64, expect: &Expect) {
        if let Expect::Body(body) = expect {
            let at = usize::try_from(self.received).unwrap_or(usize::MAX);
            self.differs |= body.get(at..at.saturating_add(piece.len())) != Some(piece);
        }
        let size = piece.len() as u64;
        self.received += size;
        self.stage = match (self.stage, left - size) {
            (Stage::ChunkData(_), 0) => Stage::ChunkEnd,
            (Stage::ChunkData(_), left) => Stage::ChunkData(left),
            (_, 0) => Stage::Whole,
            (_, left) => Stage::Body(left),
        };
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let text = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let text = std::str::from_utf8(text).map_err(|_| Fault::Chunk)?;
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Fault::Chunk);
    }
    u64::from_str_radix(text, 16).map_err(|_| Fault::Chunk)
}

#[cfg(test)]
mod tests {
    use super::{Answer, Expect, Fault, Parser};

    const GOOD: Answer = Answer { status: 200, body_matches: true, close: false };
    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: v\r\n\r\n";

    fn hello() -> Expect {
        Expect::Body(b"hello".to_vec())
    }

    fn read(pieces: &[&[u8]], expect: &Expect) -> Result<Vec<Answer>, Fault> {
        let mut parser = Parser::default();
        let mut answers = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (used, answer) = parser.feed(rest, expect)?;
                answers.extend(answer);
                rest = rest.get(used..).unwrap_or_default();
            }
        }
        Ok(answers)
    }

    #[test]
    fn every_split_gives_the_same_answers() {
        for message in [PLAIN, CHUNKED] {
            let twice = [message, message].concat();
            for at in 0..=twice.len() {
                let (left, right) = twice.split_at(at);
                assert_eq!(read(&[left, right], &hello()), Ok(vec![GOOD, GOOD]), "split at {at}");
            }
            let bytes: Vec<&[u8]> = twice.chunks(1).collect();
            assert_eq!(read(&bytes, &hello()), Ok(vec![GOOD, GOOD]));
        }
    }

    #[test]
    fn a_piece_ends_where_the_answer_ends() {
        let mut parser = Parser::default();
        let input = [PLAIN, b"HTTP".as_slice()].concat();
        assert_eq!(parser.feed(&input, &hello()), Ok((PLAIN.len(), Some(GOOD))));
    }

    #[test]
    fn another_body_is_no_good_answer() {
        let bad = Answer { body_matches: false, ..GOOD };
        for body in ["hellO", "hello!", "hell", ""] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            assert_eq!(read(&[text.as_bytes()], &hello()), Ok(vec![bad]), "{body:?}");
        }
        assert_eq!(read(&[PLAIN], &Expect::Length(5)), Ok(vec![GOOD]));
        assert_eq!(read(&[PLAIN], &Expect::Length(6)), Ok(vec![bad]));
        assert!(!bad.is_good());
    }

    #[test]
    fn a_status_is_read_and_an_interim_one_skipped() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n";
        let busy = Answer { status: 503, body_matches: true, close: true };
        assert_eq!(read(&[text], &Expect::Length(0)), Ok(vec![busy]));
        assert!(!busy.is_good());
        let none = b"HTTP/1.1 204\r\n\r\n";
        assert_eq!(read(&[none], &Expect::Length(0)), Ok(vec![Answer { status: 204, ..GOOD }]));
    }

    #[test]
    fn version_1_0_closes_unless_it_says_otherwise() {
        let old = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(read(&[old], &hello()), Ok(vec![Answer { close: true, ..GOOD }]));
        let kept = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(read(&[kept], &hello()), Ok(vec![GOOD]));
    }

    #[test]
    fn what_cannot_be_framed_is_a_fault() {
        let cases: [(&str, Fault); 9] = [
            ("SSH-2.0\r\n", Fault::StatusLine),
            ("HTTP/1.1 2000 OK\r\n", Fault::StatusLine),
            ("HTTP/1.1 200 OK\r\nno colon\r\n", Fault::Header),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n", Fault::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n", Fault::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Length),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n", Fault::Chunk),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\n", Fault::Chunk),
            ("HTTP/1.1 200 OK\r\n\r\n", Fault::Unframed),
        ];
        for (text, fault) in cases {
            assert_eq!(read(&[text.as_bytes()], &hello()), Err(fault), "{text:?}");
        }
        let endless = vec![b'x'; 20 * 1024];
        assert_eq!(read(&[&endless], &hello()), Err(Fault::LineTooLong));
    }
}
