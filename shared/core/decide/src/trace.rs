//! W3C Trace Context (Recommendation, level 1): continue the caller's trace or begin one.

use crate::hex;
use crate::random::Random;

/// The span of one request through this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Span {
    pub trace_id: u128,
    pub span_id: u64,
    /// 0 = this span began the trace.
    pub parent_id: u64,
    pub sampled: bool,
}

/// Reads a `traceparent`; `None` for anything that the Recommendation calls invalid, which begins a new trace.
#[must_use]
pub fn parse(header: &[u8]) -> Option<(u128, u64, bool)> {
    let header = std::str::from_utf8(header).ok()?;
    let mut parts = header.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = parse_hex(version, 2)?;
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let (trace, parent, flags) = (parse_hex(trace, 32)?, parse_hex(parent, 16)?, parse_hex(flags, 2)?);
    if trace == 0 || parent == 0 {
        return None;
    }
    Some((trace, u64::try_from(parent).ok()?, flags & 1 == 1))
}

fn parse_hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != digits || !text.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

/// The span for a request that carried `traceparent` (or nothing). Parent-based: the caller's decision holds; a new
/// trace is sampled when the low 56 bits of its id, which are random, fall below the ratio's threshold.
pub fn continue_or_start(traceparent: Option<&[u8]>, threshold: u64, random: &mut Random) -> Span {
    let span_id = random.bits() | 1;
    match traceparent.and_then(parse) {
        Some((trace_id, parent_id, sampled)) => Span { trace_id, span_id, parent_id, sampled },
        None => {
            let trace_id = u128::from(random.bits()) << 64 | u128::from(random.bits() | 1);
            let sampled = (trace_id as u64 & LOW_56) < threshold;
            Span { trace_id, span_id, parent_id: 0, sampled }
        }
    }
}

const LOW_56: u64 = (1 << 56) - 1;

/// The threshold of a sampling ratio (clamped to 0…1).
#[must_use]
pub fn threshold(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * (1_u64 << 56) as f64) as u64
}

impl Span {
    /// The `traceparent` that the next hop is given: 55 bytes.
    #[must_use]
    pub fn header(&self) -> [u8; 55] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let digits = [(3, (self.trace_id >> 64) as u64), (19, self.trace_id as u64), (36, self.span_id)];
        for (at, number) in digits {
            if let Some(room) = out.get_mut(at..at + 16) {
                room.copy_from_slice(&hex::digits(number));
            }
        }
        if let Some(flags) = out.last_mut() {
            *flags = b'0' + u8::from(self.sampled);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_parent_is_continued() {
        let span = continue_or_start(Some(VALID), 0, &mut Random::new(1));
        assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(span.parent_id, 0xb7ad_6b71_6920_3331);
        assert!(span.sampled, "the caller's decision holds, whatever our ratio");
        assert_eq!(parse(&span.header()), Some((span.trace_id, span.span_id, true)));
    }

    #[test]
    fn an_invalid_parent_begins_a_trace() {
        for bad in [
            &b"00-00000000000000000000000000000000-b7ad6b7169203331-01"[..],
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            b"",
            b"\xff\xfe",
        ] {
            let span = continue_or_start(Some(bad), threshold(1.0), &mut Random::new(3));
            assert_eq!(span.parent_id, 0);
            assert!(span.sampled && span.trace_id != 0);
        }
        assert!(parse(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later").is_some());
    }

    #[test]
    fn the_ratio_is_kept() {
        let mut random = Random::new(42);
        let sampled = (0..10_000).filter(|_| continue_or_start(None, threshold(0.1), &mut random).sampled).count();
        assert!((900..1_100).contains(&sampled), "{sampled}");
        assert!(!continue_or_start(None, threshold(0.0), &mut random).sampled);
    }
}
