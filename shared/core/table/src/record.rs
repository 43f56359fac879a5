//! One finished request as a ring record: fixed words, then its texts back to back.
//!
//! | word | what |
//! | --- | --- |
//! | 0 | cache lines (8 bits), record version (8), bits (8: outbound, sampled, has parent, truncated), flag (8), status (16), HTTP minor version (8) |
//! | 1, 2 | start (unix ns), duration (ns) |
//! | 3, 4 | bytes from, to the caller |
//! | 5–8 | trace id (two words), span id, parent span id |
//! | 9–11 | lengths of the texts, 16 bits each |
//! | 12… | the texts: method, path, authority, service, route, upstream, request id, trace state, client |
//!
//! Texts longer than their limit are cut, and the record says so.

use crate::layout::LINE_WORDS;

/// Cache lines of the longest record.
pub const MAX_RECORD_LINES: usize = 32;

/// Envoy's response flags that we use, and our own; what `x-pannier-reason` and the access log show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Flag {
    /// Answered by the service.
    #[default]
    None,
    /// No healthy upstream.
    UH,
    /// Upstream connection failure.
    UF,
    /// Upstream overflow (a limit of ours).
    UO,
    /// No route.
    NR,
    /// Upstream closed the connection before it answered.
    UC,
    /// Upstream request timeout.
    UT,
    /// Upstream broke the protocol.
    UPE,
    /// The caller broke the protocol.
    DPE,
    /// The caller went away.
    DC,
    /// The caller took too long to send its request.
    DT,
    /// Denied: an address that must not be reached through us.
    DN,
    /// Rate limited by us.
    RL,
    /// Retries were exhausted, or forbidden by the budget.
    URX,
    /// Aborted by fault injection.
    FI,
    /// Delayed by fault injection.
    DI,
    /// Shed by criticality.
    SH,
    /// Served by a Central Mesh in place of the host's own proxy.
    CF,
}

impl Flag {
    const ALL: [Flag; 18] = [
        Flag::None,
        Flag::UH,
        Flag::UF,
        Flag::UO,
        Flag::NR,
        Flag::UC,
        Flag::UT,
        Flag::UPE,
        Flag::DPE,
        Flag::DC,
        Flag::DT,
        Flag::DN,
        Flag::RL,
        Flag::URX,
        Flag::FI,
        Flag::DI,
        Flag::SH,
        Flag::CF,
    ];

    /// The letters; empty for none.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Flag::None => "",
            Flag::UH => "UH",
            Flag::UF => "UF",
            Flag::UO => "UO",
            Flag::NR => "NR",
            Flag::UC => "UC",
            Flag::UT => "UT",
            Flag::UPE => "UPE",
            Flag::DPE => "DPE",
            Flag::DC => "DC",
            Flag::DT => "DT",
            Flag::DN => "DN",
            Flag::RL => "RL",
            Flag::URX => "URX",
            Flag::FI => "FI",
            Flag::DI => "DI",
            Flag::SH => "SH",
            Flag::CF => "CF",
        }
    }

    /// The flag of that number; an unknown number is none.
    #[must_use]
    pub fn from_number(number: u8) -> Flag {
        Flag::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

/// The texts of a record, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Texts<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub authority: &'a str,
    pub service: &'a str,
    pub route: &'a str,
    pub upstream: &'a str,
    pub request_id: &'a str,
    pub trace_state: &'a str,
    pub client: &'a str,
}

/// Of the record; a reader takes no other.
const VERSION: u64 = 2;
const TEXTS: usize = 9;
const LIMITS: [usize; TEXTS] = [24, 1024, 192, 64, 128, 64, 128, 256, 64];
const FIXED_WORDS: usize = 12;
const _: () =
    assert!(FIXED_WORDS * 8 + 24 + 1024 + 192 + 64 + 128 + 64 + 128 + 256 + 64 <= MAX_RECORD_LINES * LINE_WORDS * 8);

/// One finished request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // see the module's table
pub struct AccessRecord<'a> {
    pub outbound: bool,
    pub sampled: bool,
    pub truncated: bool,
    pub flag: Flag,
    pub status: u16,
    pub version: u8,
    pub start_ns: u64,
    pub duration_ns: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// All zero = there is no trace.
    pub trace_id: u128,
    pub span_id: u64,
    /// 0 = this span began the trace.
    pub parent_id: u64,
    pub texts: Texts<'a>,
}

const OUTBOUND: u64 = 1;
const SAMPLED: u64 = 2;
const TRUNCATED: u64 = 8;

/// The longest beginning of `text` of at most `limit` bytes that ends with a character.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

/// Room for the longest record.
pub type Buffer = [u64; MAX_RECORD_LINES * LINE_WORDS];

impl<'a> AccessRecord<'a> {
    /// Writes the record into `buffer`; returns the words to push.
    pub fn encode<'b>(&self, buffer: &'b mut Buffer) -> &'b [u64] {
        let t = &self.texts;
        let texts =
            [t.method, t.path, t.authority, t.service, t.route, t.upstream, t.request_id, t.trace_state, t.client];
        let mut truncated = self.truncated;
        let mut lengths = [0_u64; 3];
        let mut writer = TextWriter { buffer, word: FIXED_WORDS, partial: 0, filled: 0 };
        for (i, (text, limit)) in texts.into_iter().zip(LIMITS).enumerate() {
            let kept = cut(text, limit);
            truncated |= kept.len() < text.len();
            if let Some(word) = lengths.get_mut(i / 4) {
                *word |= (kept.len() as u64) << (16 * (i % 4));
            }
            writer.write(kept.as_bytes());
        }
        let words = writer.finish();
        let lines = words.div_ceil(LINE_WORDS);
        let bits = if self.outbound { OUTBOUND } else { 0 }
            | if self.sampled { SAMPLED } else { 0 }
            | if truncated { TRUNCATED } else { 0 };
        let fixed = [
            lines as u64
                | VERSION << 8
                | bits << 16
                | (self.flag as u64) << 24
                | u64::from(self.status) << 32
                | u64::from(self.version) << 48,
            self.start_ns,
            self.duration_ns,
            self.request_bytes,
            self.response_bytes,
            (self.trace_id >> 64) as u64,
            self.trace_id as u64,
            self.span_id,
            self.parent_id,
            lengths[0],
            lengths[1],
            lengths[2],
        ];
        for (to, from) in buffer.iter_mut().zip(fixed) {
            *to = from;
        }
        buffer.get(..lines * LINE_WORDS).unwrap_or(&[])
    }

    /// Reads a record back; `scratch` holds its texts. `None` if its lengths do not fit.
    #[must_use]
    pub fn decode(words: &[u64], scratch: &'a mut Vec<u8>) -> Option<AccessRecord<'a>> {
        let word = |i: usize| words.get(i).copied();
        let first = word(0)?;
        let lengths = [word(9)?, word(10)?, word(11)?];
        if first >> 8 & 0xff != VERSION {
            return None;
        }
        scratch.clear();
        scratch.extend(words.get(FIXED_WORDS..)?.iter().flat_map(|w| w.to_le_bytes()));
        let mut rest: &'a [u8] = scratch;
        let mut texts = [""; TEXTS];
        for (i, text) in texts.iter_mut().enumerate() {
            let length = (lengths.get(i / 4)? >> (16 * (i % 4)) & 0xffff) as usize;
            let (own, after) = rest.split_at_checked(length)?;
            *text = std::str::from_utf8(own).ok()?;
            rest = after;
        }
        let [method, path, authority, service, route, upstream, request_id, trace_state, client] = texts;
        Some(AccessRecord {
            outbound: first >> 16 & OUTBOUND != 0,
            sampled: first >> 16 & SAMPLED != 0,
            truncated: first >> 16 & TRUNCATED != 0,
            flag: Flag::from_number((first >> 24) as u8),
            status: (first >> 32) as u16,
            version: (first >> 48) as u8,
            start_ns: word(1)?,
            duration_ns: word(2)?,
            request_bytes: word(3)?,
            response_bytes: word(4)?,
            trace_id: u128::from(word(5)?) << 64 | u128::from(word(6)?),
            span_id: word(7)?,
            parent_id: word(8)?,
            texts: Texts { method, path, authority, service, route, upstream, request_id, trace_state, client },
        })
    }
}

/// Packs bytes into words.
struct TextWriter<'b> {
    buffer: &'b mut Buffer,
    word: usize,
    partial: u64,
    filled: u32,
}

impl TextWriter<'_> {
    fn write(&mut self, bytes: &[u8]) {
        let (head, tail) = bytes.as_chunks::<8>();
        for chunk in head {
            let value = u64::from_le_bytes(*chunk);
            let shift = self.filled * 8;
            self.put(self.partial | value << shift);
            self.partial = if shift == 0 { 0 } else { value >> (64 - shift) };
        }
        for byte in tail {
            self.partial |= u64::from(*byte) << (self.filled * 8);
            self.filled += 1;
            if self.filled == 8 {
                self.put(self.partial);
                self.partial = 0;
                self.filled = 0;
            }
        }
    }

    fn put(&mut self, value: u64) {
        if let Some(word) = self.buffer.get_mut(self.word) {
            *word = value;
        }
        self.word += 1;
    }

    fn finish(mut self) -> usize {
        if self.filled > 0 {
            self.put(self.partial);
        }
        self.word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> AccessRecord<'static> {
        AccessRecord {
            outbound: true,
            sampled: true,
            truncated: false,
            flag: Flag::UT,
            status: 504,
            version: 1,
            start_ns: 1,
            duration_ns: 2,
            request_bytes: 3,
            response_bytes: 4,
            trace_id: 5 << 64 | 6,
            span_id: 7,
            parent_id: 8,
            texts: Texts {
                method: "GET",
                path: "/orders/ünï",
                authority: "orders",
                service: "orders",
                route: "/orders/{id}",
                upstream: "127.0.0.1:8080",
                request_id: "abc",
                trace_state: "",
                client: "10.0.0.1",
            },
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut buffer = [u64::MAX; MAX_RECORD_LINES * LINE_WORDS];
        let words = sample().encode(&mut buffer).to_vec();
        let mut scratch = Vec::new();
        assert_eq!(AccessRecord::decode(&words, &mut scratch), Some(sample()));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_marked() {
        let path = "é".repeat(4000);
        let mut record = sample();
        record.texts.path = &path;
        let mut buffer = [0; MAX_RECORD_LINES * LINE_WORDS];
        let words = record.encode(&mut buffer).to_vec();
        let mut scratch = Vec::new();
        let back = AccessRecord::decode(&words, &mut scratch);
        assert!(back.is_some_and(|r| r.truncated && r.texts.path.len() == 1024 && r.texts.authority == "orders"));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut scratch = Vec::new();
        assert_eq!(AccessRecord::decode(&[u64::MAX; 16], &mut scratch), None);
        assert_eq!(AccessRecord::decode(&[1], &mut scratch), None);
    }
}
