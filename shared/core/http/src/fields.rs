//! Fields of a head: the few names that mean something to a proxy, and how the others are forwarded.

use std::mem::MaybeUninit;

use crate::forwarding;
use crate::limits;
use crate::refusal::Refusal;

/// A field as it was received.
pub type Field<'b> = httparse::Header<'b>;
/// Room for the fields of one head and what their names mean, on the stack.
pub struct Room<'b> {
    pub(crate) fields: [MaybeUninit<Field<'b>>; limits::FIELDS],
    pub(crate) names: [Name; limits::FIELDS],
}

/// Empty room.
#[must_use]
#[inline]
pub fn room<'b>() -> Room<'b> {
    Room { fields: [const { MaybeUninit::uninit() }; limits::FIELDS], names: [Name::Other; limits::FIELDS] }
}

/// What a name means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Nothing: it is forwarded as it is.
    Other,
    /// `Host`
    Host,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Connection`
    Connection,
    /// `Upgrade`
    Upgrade,
    /// `Expect`
    Expect,
    /// `TE`
    Te,
    /// `Keep-Alive`, `Proxy-Connection`, `Proxy-Authorization`, `Proxy-Authenticate`: for this hop only.
    HopByHop,
    /// `X-Request-Id`
    RequestId,
    /// `Traceparent`
    TraceParent,
    /// `Tracestate`
    TraceState,
    /// `Grpc-Timeout`
    GrpcTimeout,
    /// `X-Pannier-*`, with underscores or in any case.
    Ours,
    /// Says where a request comes from or who made it: see [`forwarding`](crate::forwarding).
    Forwarding,
    /// One of these, with an underscore.
    ForwardingAlias,
    /// A name that some server reads as one of the framing fields: `Content_Length`, `Transfer_Encoding`.
    FramingAlias,
}

/// Classifies a name. By its length and first letter before all: most fields are told apart without a comparison.
#[must_use]
pub fn name(name: &str) -> Name {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let first = name.as_bytes().first().map_or(0, u8::to_ascii_lowercase);
    match (name.len(), first) {
        (2, b't') if is("te") => Name::Te,
        (4, b'h') if is("host") => Name::Host,
        (6, b'e') if is("expect") => Name::Expect,
        (7, b'u') if is("upgrade") => Name::Upgrade,
        (10, b'c') if is("connection") => Name::Connection,
        (10, b'k') if is("keep-alive") => Name::HopByHop,
        (10, b't') if is("tracestate") => Name::TraceState,
        (11, b't') if is("traceparent") => Name::TraceParent,
        (12, b'x') if is("x-request-id") => Name::RequestId,
        (12, b'g') if is("grpc-timeout") => Name::GrpcTimeout,
        (14, b'c') if is("content-length") => Name::ContentLength,
        (14, b'c') if is("content_length") => Name::FramingAlias,
        (16, b'p') if is("proxy-connection") => Name::HopByHop,
        (17, b't') if is("transfer-encoding") => Name::TransferEncoding,
        (17, b't') if is("transfer_encoding") => Name::FramingAlias,
        (18, b'p') if is("proxy-authenticate") => Name::HopByHop,
        (19, b'p') if is("proxy-authorization") => Name::HopByHop,
        (10.., b'x') if is_ours(name) => Name::Ours,
        (4.., b'c' | b'f' | b'l' | b'r' | b's' | b't' | b'x') => forwarding::classify(name),
        _ => Name::Other,
    }
}

fn is_ours(name: &str) -> bool {
    name.as_bytes().get(..10).is_some_and(|prefix| {
        prefix.iter().zip(b"x-pannier-").all(|(a, b)| a.eq_ignore_ascii_case(b) || (*b == b'-' && *a == b'_'))
    })
}

/// The names that `Connection` may not take away from the next hop: it would change what the message means.
fn is_protected(token: &[u8]) -> bool {
    std::str::from_utf8(token).is_ok_and(|t| {
        !matches!(name(t), Name::Other | Name::HopByHop | Name::Te | Name::Upgrade)
            || t.eq_ignore_ascii_case("authorization")
            || t.eq_ignore_ascii_case("cookie")
            || t.eq_ignore_ascii_case("set-cookie")
    })
}

/// What `Connection` fields say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// Some other name is nominated: look with [`nominates`].
    pub others: bool,
    count: usize,
}

impl Connection {
    /// Adds one `Connection` field.
    ///
    /// # Errors
    /// 431 for more elements than anybody needs, empty ones included.
    pub fn add(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if value == b"keep-alive" && self.count == 0 {
            self.keep_alive = true;
            self.count = 1;
            return Ok(());
        }
        self.count += value.split(|b| *b == b',').count();
        if self.count > limits::CONNECTION_OPTIONS {
            return Err(Refusal::with(431, "Connection has more than 100 elements"));
        }
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !is_protected(token) {
                self.others = true;
            }
        }
        Ok(())
    }
}

/// Whether a `Connection` field among `fields` says that `candidate` is for this hop only.
#[must_use]
pub fn nominates(fields: &[Field<'_>], candidate: &str) -> bool {
    fields
        .iter()
        .filter(|f| name(f.name) == Name::Connection)
        .flat_map(|f| tokens(f.value))
        .any(|token| token.eq_ignore_ascii_case(candidate.as_bytes()) && !is_protected(token))
}

/// The elements of a comma-separated list, trimmed, empty ones left out.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|t| !t.is_empty())
}

/// Reads a `Content-Length`: digits only, and no more of them than a length can have.
///
/// # Errors
/// 400.
pub fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let odd = Refusal::bad("Content-Length is not a plain number");
    if value.is_empty() || value.len() > 18 {
        return Err(odd);
    }
    value.iter().try_fold(0_u64, |sum, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + u64::from(digit - b'0')),
        _ => Err(odd),
    })
}

/// Appends a field of `head` as [`write`] does: at once where it stands there in that very form.
#[inline]
pub fn forward(out: &mut Vec<u8>, head: &[u8], field: &Field<'_>) {
    match canonical(head, field) {
        Some(line) => out.extend_from_slice(line),
        None => write(out, field.name.as_bytes(), field.value),
    }
}

/// The line of a field in its head, if it is `name: value`, ended, without any other white space.
#[inline]
fn canonical<'b>(head: &'b [u8], field: &Field<'_>) -> Option<&'b [u8]> {
    let at = (field.name.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
    let line = head.get(at..at + field.name.len() + field.value.len() + 4)?;
    let after_name = line.get(field.name.len()..)?;
    // A value has no line end in it: if one stands where it must end, it begins where it must begin.
    (after_name.starts_with(b": ") && line.ends_with(b"\r\n")).then_some(line)
}

/// Appends `name: value`, ended.
pub fn write(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal.
pub fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or(&[]));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn our_own_names_are_known_in_every_disguise() {
        for alias in ["x-pannier-reason", "X-Pannier-Deadline", "x_pannier_reason", "X-PANNIER_a"] {
            assert_eq!(name(alias), Name::Ours, "{alias}");
        }
        assert_eq!(name("x-panniers"), Name::Other);
        assert_eq!(name("Content_Length"), Name::FramingAlias);
        assert_eq!(name("transfer_encoding"), Name::FramingAlias);
    }

    #[test]
    fn lengths_are_digits() {
        assert_eq!(content_length(b"0").unwrap(), 0);
        assert_eq!(content_length(b"123456789012345678").unwrap(), 123_456_789_012_345_678);
        for odd in [&b""[..], b"+1", b"-1", b"1 ", b"0x1", b"1,1", b"1234567890123456789", b"\xd9\xa1"] {
            assert!(content_length(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn connection_cannot_take_away_what_frames_or_identifies() {
        let field = |value| Field { name: "Connection", value };
        let fields = [field(b"close, X-Drop, Host, content-length, Cookie")];
        assert!(nominates(&fields, "x-drop"));
        for kept in ["Host", "Content-Length", "cookie", "x-other"] {
            assert!(!nominates(&fields, kept), "{kept}");
        }
    }

    #[test]
    fn decimals() {
        for n in [0, 7, 10, 18_446_744_073_709_551_615] {
            let mut out = Vec::new();
            write_decimal(&mut out, n);
            assert_eq!(out, n.to_string().into_bytes());
        }
    }
}
