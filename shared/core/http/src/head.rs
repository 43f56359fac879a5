//! Finding the end of a head while it arrives, and refusing line ends that others read differently.

use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::Finder;

use crate::limits;
use crate::refusal::Refusal;

/// What a head ends in.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Where the scan of an arriving head stands; it looks at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    line_start: usize,
    scanned: usize,
    lines: usize,
    fields_start: usize,
}

impl HeadScanner {
    /// Looks at what arrived of `head` since the last call. `Some(n)`: the head is the first `n` bytes, which contain no
    /// CR or LF but in line ends.
    ///
    /// # Errors
    /// 400 for a bare LF or CR; 414 and 431 for the limits.
    pub fn scan(&mut self, head: &[u8]) -> Result<Option<usize>, Refusal> {
        if self.scanned == 0
            && let Some(end) = whole(head)
        {
            return Ok(Some(end));
        }
        while let Some(found) = head.get(self.scanned..).and_then(|rest| memchr(b'\n', rest)) {
            let end = self.scanned + found;
            let line = head.get(self.line_start..end).unwrap_or(&[]);
            let Some((b'\r', text)) = line.split_last() else {
                return Err(Refusal::bad("a line ends in a bare LF"));
            };
            if memchr(b'\r', text).is_some() {
                return Err(Refusal::bad("a bare CR inside a line"));
            }
            self.check(text.len(), end)?;
            self.scanned = end + 1;
            self.line_start = end + 1;
            if text.is_empty() {
                return if self.lines == 0 {
                    Err(Refusal::bad("an empty line instead of a start line"))
                } else {
                    Ok(Some(end + 1))
                };
            }
            if self.lines == 0 {
                self.fields_start = end + 1;
            }
            self.lines += 1;
        }
        self.scanned = head.len();
        let line = head.get(self.line_start..).unwrap_or(&[]);
        self.check(line.strip_suffix(b"\r").unwrap_or(line).len(), head.len())?;
        Ok(None)
    }

    fn check(&self, line: usize, total: usize) -> Result<(), Refusal> {
        if self.lines == 0 && line > limits::REQUEST_LINE {
            return Err(Refusal::with(414, "the request line is longer than 8 KiB"));
        }
        if self.lines > 0 && total - self.fields_start > limits::FIELD_BYTES {
            return Err(Refusal::with(431, "the fields are larger than 60 KiB"));
        }
        Ok(())
    }
}

/// The length of a head that has arrived at once, is small, and leaves nothing to complain about: nearly every one. The
/// bytes are looked at in blocks, not line by line.
fn whole(head: &[u8]) -> Option<usize> {
    let end = END.find(head).filter(|end| (1..limits::REQUEST_LINE).contains(end))? + 4;
    let head = head.get(..end)?;
    let after = head.get(1..)?;
    // LF stands after CR, always and only there; the first byte is neither.
    let odd = head.iter().zip(after).fold(0, |odd, (a, b)| odd | (u8::from(*a == b'\r') ^ u8::from(*b == b'\n')));
    let starts_well = !matches!(head.first(), Some(b'\r' | b'\n'));
    (odd == 0 && starts_well).then_some(end)
}

/// Bytes of empty lines before a request line, which a server should ignore (RFC 9112, 2.2): at most one CRLF.
#[must_use]
pub fn leading_blank(buffer: &[u8]) -> usize {
    if buffer.starts_with(b"\r\n") { 2 } else { 0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_the_same_whole_or_byte_by_byte() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        let whole = HeadScanner::default().scan(head).unwrap();
        assert_eq!(whole, Some(27));
        let mut scanner = HeadScanner::default();
        let found = (1..=head.len()).find_map(|n| scanner.scan(&head[..n]).unwrap());
        assert_eq!(found, whole);
    }

    #[test]
    fn odd_line_ends_are_refused_at_once() {
        for bad in [&b"GET / HTTP/1.1\n"[..], b"GET / HTTP/1.1\r\nA: b\rc\r\n", b"\r\n", b"\n", b"a\r\r\n"] {
            assert_eq!(HeadScanner::default().scan(bad).unwrap_err().status, 400, "{bad:?}");
        }
    }

    #[test]
    fn limits_have_their_own_answers() {
        let line = vec![b'a'; limits::REQUEST_LINE + 1];
        assert_eq!(HeadScanner::default().scan(&line).unwrap_err().status, 414);
        let mut fields = b"GET / HTTP/1.1\r\n".to_vec();
        fields.extend(std::iter::repeat_n(b'a', limits::HEAD));
        assert_eq!(HeadScanner::default().scan(&fields).unwrap_err().status, 431);
    }
}
