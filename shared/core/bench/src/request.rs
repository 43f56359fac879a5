//! The request, formatted once; a paced run writes each request's number over the digits of one header.

use std::ops::Range;

const DIGITS: usize = 12;

/// The bytes of one request.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    number_at: Option<Range<usize>>,
}

impl Request {
    /// A request with `body_bytes` of body. `numbered` adds the header `x-bench-number`.
    pub fn new(method: &str, path: &str, host: &str, body_bytes: usize, numbered: bool) -> Self {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        if body_bytes > 0 {
            bytes.extend_from_slice(format!("Content-Length: {body_bytes}\r\n").as_bytes());
        }
        let number_at = numbered.then(|| {
            bytes.extend_from_slice(b"x-bench-number: ");
            let start = bytes.len();
            bytes.extend_from_slice(&[b'0'; DIGITS]);
            bytes.extend_from_slice(b"\r\n");
            start..start + DIGITS
        });
        bytes.extend_from_slice(b"\r\n");
        bytes.resize(bytes.len() + body_bytes, b'b');
        Self { bytes, number_at }
    }

    /// The bytes of request `number`.
    pub fn numbered(&mut self, number: u64) -> &[u8] {
        if let Some(digits) = self.number_at.clone().and_then(|range| self.bytes.get_mut(range)) {
            let mut left = number;
            for digit in digits.iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Request;

    #[test]
    fn a_plain_request_is_the_same_each_time() {
        let mut request = Request::new("GET", "/", "bench", 0, false);
        assert_eq!(request.numbered(1), b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n");
        assert_eq!(request.numbered(1).to_vec(), request.numbered(2).to_vec());
    }

    #[test]
    fn a_numbered_request_carries_its_number_and_body() {
        let mut request = Request::new("POST", "/", "bench", 3, true);
        let expected = "POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: 3\r\nx-bench-number: 000000000907\r\n\r\nbbb";
        assert_eq!(request.numbered(907), expected.as_bytes());
    }
}
