//! A request's head: parsed strictly once it is whole, and written again for the next hop.

use crate::authority::{self, Authority};
use crate::body::Framing;
use crate::edits::Changes;
use crate::fields::{self, Connection, Field, Name, Room};
use crate::forwarding::Client;
use crate::limits;
use crate::refusal::Refusal;

/// A request's head.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// Any token.
    pub method: &'b str,
    /// Path and query, beginning with `/`; or `*`.
    pub path: &'b str,
    /// From an absolute target, else from `Host`; empty for HTTP/1.0 without either.
    pub authority: &'b str,
    /// The same, taken apart.
    pub host: Authority<'b>,
    /// Minor version of HTTP/1.
    pub version: u8,
    /// How long the body is.
    pub framing: Framing,
    /// The caller means to send another request on this connection.
    pub keep_alive: bool,
    /// The protocol asked for, if an upgrade is asked for.
    pub upgrade: Option<&'b [u8]>,
    /// The caller waits for `100 Continue`.
    pub expects_continue: bool,
    /// `x-request-id`, if it is printable and short enough to keep.
    pub request_id: Option<&'b [u8]>,
    /// `traceparent`, if there is exactly one.
    pub trace_parent: Option<&'b [u8]>,
    /// The first `tracestate`.
    pub trace_state: Option<&'b [u8]>,
    /// `x-pannier-deadline`, and `grpc-timeout`.
    pub deadline: Option<&'b [u8]>,
    #[allow(missing_docs)]
    pub grpc_timeout: Option<&'b [u8]>,
    head: &'b [u8],
    fields: &'h [Field<'b>],
    names: &'h [Name],
    nominated: bool,
}

/// Parses a whole head, as [`HeadScanner`](crate::head::HeadScanner) delimits it.
///
/// # Errors
/// 400 for whatever could be read in two ways; 414, 417, 431, 501 as named.
pub fn parse<'h, 'b>(head: &'b [u8], room: &'h mut Room<'b>) -> Result<Request<'h, 'b>, Refusal> {
    let mut raw = httparse::Request::new(&mut []);
    raw.parse_with_uninit_headers(head, &mut room.fields)
        .map_err(|error| refuse(error, head))
        .and_then(|status| if status.is_complete() { Ok(()) } else { Err(Refusal::bad("malformed request")) })?;
    let (Some(method), Some(target), Some(version)) = (raw.method, raw.path, raw.version) else {
        return Err(Refusal::bad("malformed request line"));
    };
    if target.len() > limits::TARGET {
        return Err(Refusal::with(414, "the target is longer than 8 KiB"));
    }
    let mut seen = Seen::default();
    for (field, name) in raw.headers.iter().zip(&mut room.names) {
        *name = fields::name(field.name);
        seen.take(field, *name)?;
    }
    let framing = seen.framing(version)?;
    let (path, absolute) = take_target(method, target)?;
    let authority = match (absolute, seen.host) {
        (_, None) if version == 1 => return Err(Refusal::bad("no Host field")),
        (Some(authority), Some(host)) if host != authority && !host.is_empty() && authority::parse(host).is_none() => {
            return Err(Refusal::bad("Host is malformed"));
        }
        (Some(authority), _) => authority,
        (None, host) => host.unwrap_or(""),
    };
    let host = match authority {
        "" => Authority { host: "", port: None },
        text => authority::parse(text).ok_or(Refusal::bad("the authority is malformed"))?,
    };
    let upgrade = if seen.connection.upgrade && version == 1 && framing == Framing::None { seen.upgrade } else { None };
    Ok(Request {
        method,
        path,
        authority,
        host,
        version,
        framing,
        keep_alive: if version == 1 {
            !seen.connection.close
        } else {
            seen.connection.keep_alive && !seen.connection.close
        },
        upgrade: upgrade.filter(|protocols| !offers_h2c(protocols)),
        expects_continue: seen.expects_continue && version == 1,
        request_id: seen.request_id,
        trace_parent: if seen.trace_parents == 1 { seen.trace_parent } else { None },
        trace_state: seen.trace_state,
        deadline: seen.deadline,
        grpc_timeout: seen.grpc_timeout,
        head,
        names: room.names.get(..raw.headers.len()).unwrap_or(&[]),
        fields: raw.headers,
        nominated: seen.connection.others,
    })
}

/// Whether a list of protocols has HTTP/2 in it: requests in it would pass unseen once the connection is a tunnel.
fn offers_h2c(protocols: &[u8]) -> bool {
    fields::tokens(protocols)
        .filter_map(|protocol| protocol.split(|b| *b == b'/').next())
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

fn refuse(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::with(431, "more than 100 fields"),
        httparse::Error::Version if names_a_version(head) => {
            Refusal::with(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        }
        httparse::Error::HeaderName => Refusal::bad("malformed field name"),
        httparse::Error::HeaderValue => Refusal::bad("malformed field value"),
        _ => Refusal::bad("malformed request line"),
    }
}

/// Whether the request line is one but for its version: `METHOD target HTTP/…`. A space within the target is no version.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let mut parts = line.split(|byte| *byte == b' ');
    parts.nth(2).is_some_and(|version| version.starts_with(b"HTTP/")) && parts.next().is_none()
}

fn take_target<'b>(method: &str, target: &'b str) -> Result<(&'b str, Option<&'b str>), Refusal> {
    // No early end: so the loop becomes a few vector instructions.
    if target.bytes().fold(false, |odd, byte| odd | (byte == b'#') | !byte.is_ascii()) {
        return Err(Refusal::bad("the target has a fragment or bytes beyond ASCII"));
    }
    if method == "CONNECT" {
        return Err(Refusal::with(501, "CONNECT is not offered"));
    }
    if target.starts_with('/') {
        return Ok((target, None));
    }
    if target == "*" {
        return if method == "OPTIONS" {
            Ok((target, None))
        } else {
            Err(Refusal::bad("target * is for OPTIONS only"))
        };
    }
    let rest = match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ => {
            return Err(Refusal::bad("the target is neither a path nor an http:// URL"));
        }
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if authority.is_empty() {
        return Err(Refusal::bad("the target has no authority"));
    }
    match path.bytes().next() {
        Some(b'/') => Ok((path, Some(authority))),
        None if method == "OPTIONS" => Ok(("*", Some(authority))),
        None => Ok(("/", Some(authority))),
        _ => Err(Refusal::bad("the target has a query but no path")),
    }
}

/// What the fields said, while they are looked at.
#[derive(Default)]
struct Seen<'b> {
    host: Option<&'b str>,
    length: Option<u64>,
    transfer_encoding: Option<&'b [u8]>,
    connection: Connection,
    upgrade: Option<&'b [u8]>,
    expects_continue: bool,
    request_id: Option<&'b [u8]>,
    trace_parent: Option<&'b [u8]>,
    trace_parents: usize,
    trace_state: Option<&'b [u8]>,
    deadline: Option<&'b [u8]>,
    grpc_timeout: Option<&'b [u8]>,
}

impl<'b> Seen<'b> {
    fn take(&mut self, field: &Field<'b>, name: Name) -> Result<(), Refusal> {
        match name {
            Name::Other | Name::Te | Name::HopByHop | Name::Forwarding | Name::ForwardingAlias => {}
            Name::Ours if is_deadline(field.name) => self.deadline = self.deadline.or(Some(field.value)),
            Name::Ours => {}
            Name::GrpcTimeout => self.grpc_timeout = self.grpc_timeout.or(Some(field.value)),
            Name::Host => {
                let host = std::str::from_utf8(field.value).map_err(|_| Refusal::bad("Host is malformed"))?;
                if self.host.replace(host).is_some() {
                    return Err(Refusal::bad("more than one Host field"));
                }
            }
            Name::ContentLength => {
                if self.length.replace(fields::content_length(field.value)?).is_some() {
                    return Err(Refusal::bad("more than one Content-Length field"));
                }
            }
            Name::TransferEncoding => {
                if self.transfer_encoding.replace(field.value).is_some() {
                    return Err(Refusal::bad("more than one Transfer-Encoding field"));
                }
            }
            Name::FramingAlias => {
                return Err(Refusal::bad("a field name that some servers read as a framing field"));
            }
            Name::Connection => self.connection.add(field.value)?,
            Name::Upgrade => self.upgrade = Some(field.value),
            Name::Expect => {
                if !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::with(417, "only 100-continue can be expected"));
                }
                self.expects_continue = true;
            }
            Name::RequestId => {
                let fits = !field.value.is_empty() && field.value.len() <= limits::REQUEST_ID;
                if fits && field.value.iter().all(|b| b.is_ascii_graphic()) && self.request_id.is_none() {
                    self.request_id = Some(field.value);
                }
            }
            Name::TraceParent => {
                self.trace_parents += 1;
                self.trace_parent = Some(field.value);
            }
            Name::TraceState => self.trace_state = self.trace_state.or(Some(field.value)),
        }
        Ok(())
    }

    fn framing(&self, version: u8) -> Result<Framing, Refusal> {
        match (self.transfer_encoding, self.length) {
            (Some(_), Some(_)) => Err(Refusal::bad("both Transfer-Encoding and Content-Length")),
            (Some(_), None) if version == 0 => Err(Refusal::bad("Transfer-Encoding on HTTP/1.0")),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (Some(_), None) => Err(Refusal::with(501, "the only transfer coding known here is chunked")),
            (None, Some(0) | None) => Ok(Framing::None),
            (None, Some(length)) => Ok(Framing::Length(length)),
        }
    }
}

/// What the next hop is told in place of what was received.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'a> {
    /// Replaces path and query.
    pub path: Option<&'a str>,
    /// Replaces the authority.
    pub authority: Option<&'a str>,
    /// What a route and a header policy change.
    pub headers: Option<Changes<'a>>,
    /// What is left of the caller's time, in milliseconds: `x-pannier-deadline`.
    pub deadline_ms: Option<u64>,
    /// `x-request-id`
    pub request_id: &'a [u8],
    /// Replaces `traceparent`; none = it is forwarded as it came.
    pub trace_parent: Option<&'a [u8]>,
    /// A new trace began here: the caller's `tracestate` says nothing about it.
    pub drop_trace_state: bool,
    /// Leave out `x-pannier-*`: the request came from the untrusted side.
    pub strip_ours: bool,
    /// What is said of where it came from, in place of what it says itself; none = it may say what it likes.
    pub client: Option<Client<'a>>,
}

/// What is left of a caller's time, in milliseconds. It is written anew at each hop.
pub const DEADLINE: &str = "x-pannier-deadline";

/// As wide as any, so that a later attempt can write a smaller number in its place. Blanks before a value mean nothing; gRPC
/// wants digits alone.
fn deadline_digits(left_ms: u64, filler: u8) -> [u8; 8] {
    let mut digits = [filler; 8];
    let mut left = left_ms.min(99_999_999);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    digits
}

/// Writes what is left now into a head, without a body behind it, that [`Request::write`] made with a deadline.
pub fn renew_deadline(head: &mut [u8], left_ms: u64) {
    const LINES: [(&[u8], u8); 2] = [(b"\r\nx-pannier-deadline: ", b' '), (b"\r\ngrpc-timeout: ", b'0')];
    for (line, filler) in LINES {
        if let Some(at) = memchr::memmem::find(head, line).map(|at| at + line.len())
            && let Some(digits) = head.get_mut(at..at + 8)
        {
            digits.copy_from_slice(&deadline_digits(left_ms, filler));
        }
    }
}

fn is_deadline(name: &str) -> bool {
    name.len() == DEADLINE.len()
        && name.bytes().zip(DEADLINE.bytes()).all(|(a, b)| a.eq_ignore_ascii_case(&b) || (b == b'-' && a == b'_'))
}

impl<'b> Request<'_, 'b> {
    /// All fields, as they came.
    #[must_use]
    pub fn fields(&self) -> &[Field<'b>] {
        self.fields
    }

    /// The first value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// Whether a lost attempt may be repeated without harm (RFC 9110, 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// Appends the head for the next hop: HTTP/1.1, this hop's fields left out, the framing from the model.
    pub fn write(&self, out: &mut Vec<u8>, edits: &Edits<'_>) {
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(edits.path.unwrap_or(self.path).as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        fields::write(out, b"host", edits.authority.unwrap_or(self.authority).as_bytes());
        let mut had_length = false;
        for (field, name) in self.fields.iter().zip(self.names) {
            match name {
                Name::Host
                | Name::Connection
                | Name::TransferEncoding
                | Name::Upgrade
                | Name::HopByHop
                | Name::RequestId
                | Name::FramingAlias => continue,
                Name::ContentLength => {
                    had_length = true;
                    continue;
                }
                Name::Te if !fields::tokens(field.value).any(|t| t.eq_ignore_ascii_case(b"trailers")) => {
                    continue;
                }
                Name::Te => {
                    fields::write(out, b"te", b"trailers");
                    continue;
                }
                Name::Expect if !self.expects_continue => continue,
                Name::GrpcTimeout if edits.deadline_ms.is_some() => continue,
                Name::TraceParent if edits.trace_parent.is_some() => continue,
                Name::TraceState if edits.drop_trace_state => continue,
                Name::Forwarding | Name::ForwardingAlias
                    if edits.client.is_some_and(|client| client.drops(*name, field.name)) =>
                {
                    continue;
                }
                Name::Ours if edits.strip_ours || (edits.deadline_ms.is_some() && is_deadline(field.name)) => {
                    continue;
                }
                _ => {}
            }
            if edits.headers.is_some_and(|headers| headers.drops(field.name)) {
                continue;
            }
            if self.nominated && fields::nominates(self.fields, field.name) {
                continue;
            }
            fields::forward(out, self.head, field);
        }
        match self.framing {
            Framing::Length(length) => write_length(out, length),
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::None if had_length => write_length(out, 0),
            Framing::None | Framing::UntilClose => {}
        }
        if let Some(protocol) = self.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\n");
            fields::write(out, b"upgrade", protocol);
        }
        fields::write(out, b"x-request-id", edits.request_id);
        if let Some(trace_parent) = edits.trace_parent {
            fields::write(out, b"traceparent", trace_parent);
        }
        if let Some(left) = edits.deadline_ms {
            fields::write(out, DEADLINE.as_bytes(), &deadline_digits(left, b' '));
            if self.grpc_timeout.is_some() {
                out.extend_from_slice(b"grpc-timeout: ");
                out.extend_from_slice(&deadline_digits(left, b'0'));
                out.extend_from_slice(b"m\r\n");
            }
        }
        if let Some(client) = edits.client {
            client.write(out, self.fields, edits.headers);
        }
        if let Some(headers) = edits.headers {
            headers.write(out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

pub(crate) fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    fields::write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// The method as a label of few values: the ones of RFC 9110 and PATCH; anything else is `_OTHER`.
#[must_use]
pub fn method_label(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}
