//! An answer's head: parsed strictly once it is whole, and written again for the caller.

use crate::body::{Coding, Framing};
use crate::edits::Changes;
use crate::fields::{self, Connection, Field, Name, Room};
use crate::refusal::Refusal;
use crate::request::write_length;

/// An answer's head.
#[derive(Debug)]
pub struct Response<'h, 'b> {
    /// 100…999.
    pub status: u16,
    /// The reason phrase, as it came.
    pub phrase: &'b str,
    /// How long the body is.
    pub framing: Framing,
    /// The upstream means to take another request on this connection.
    pub keep_alive: bool,
    /// The protocol that was switched to, for 101.
    pub upgrade: Option<&'b [u8]>,
    length: Option<u64>,
    head: &'b [u8],
    fields: &'h [Field<'b>],
    names: &'h [Name],
    nominated: bool,
}

/// What the answer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// It was HEAD: a length without a body.
    pub head: bool,
    /// The protocols that an upgrade was asked for to.
    pub upgrade: Option<&'a [u8]>,
}

/// Parses a whole head of an answer.
///
/// # Errors
/// A refusal, whatever its status; the caller is told 502.
pub fn parse<'h, 'b>(head: &'b [u8], room: &'h mut Room<'b>, asked: Asked<'_>) -> Result<Response<'h, 'b>, Refusal> {
    let mut raw = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut raw, head, &mut room.fields)
        .is_ok_and(|status| status.is_complete());
    let (true, Some(status), Some(version)) = (complete, raw.code, raw.version) else {
        return Err(Refusal::bad("malformed answer"));
    };
    let (mut length, mut transfer_encoding, mut upgrade) = (None, None, None);
    let mut connection = Connection::default();
    for (field, name) in raw.headers.iter().zip(&mut room.names) {
        *name = fields::name(field.name);
        match name {
            Name::ContentLength => {
                if length.replace(fields::content_length(field.value)?).is_some() {
                    return Err(Refusal::bad("more than one Content-Length field"));
                }
            }
            Name::TransferEncoding => {
                if transfer_encoding.replace(field.value).is_some() {
                    return Err(Refusal::bad("more than one Transfer-Encoding field"));
                }
            }
            Name::FramingAlias => return Err(Refusal::bad("an alias of a framing field")),
            Name::Connection => connection.add(field.value)?,
            Name::Upgrade => upgrade = Some(field.value),
            _ => {}
        }
    }
    if status < 100 {
        return Err(Refusal::bad("malformed status"));
    }
    if status == 101 && !is_answer_to(asked.upgrade, upgrade) {
        return Err(Refusal::bad("an upgrade that nobody asked for"));
    }
    let bodiless = asked.head || status < 200 || status == 204 || status == 304;
    let framing = match (transfer_encoding, length) {
        (Some(_), Some(_)) => {
            return Err(Refusal::bad("both Transfer-Encoding and Content-Length"));
        }
        (Some(_), None) if version == 0 => {
            return Err(Refusal::bad("Transfer-Encoding on HTTP/1.0"));
        }
        (Some(coding), None) if !coding.eq_ignore_ascii_case(b"chunked") => {
            return Err(Refusal::bad("an unknown transfer coding"));
        }
        _ if bodiless => Framing::None,
        (Some(_), None) => Framing::Chunked,
        (None, Some(0)) => Framing::None,
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    };
    Ok(Response {
        status,
        phrase: raw.reason.unwrap_or(""),
        framing,
        keep_alive: framing != Framing::UntilClose
            && if version == 1 { !connection.close } else { connection.keep_alive && !connection.close },
        upgrade: upgrade.filter(|_| status == 101),
        length,
        head,
        names: room.names.get(..raw.headers.len()).unwrap_or(&[]),
        fields: raw.headers,
        nominated: connection.others,
    })
}

/// Whether a protocol that was switched to is one of those that were asked for.
fn is_answer_to(asked: Option<&[u8]>, switched: Option<&[u8]>) -> bool {
    let (Some(asked), Some(switched)) = (asked, switched) else { return false };
    fields::tokens(asked).any(|protocol| protocol.eq_ignore_ascii_case(switched))
}

/// How the answer is written to the caller.
#[derive(Clone, Copy, Debug)]
pub struct Toward<'a> {
    /// What a route and a header policy change.
    pub headers: Option<Changes<'a>>,
    /// Further fields, written already.
    pub extra: &'a [u8],
    /// `extra` says which origins are allowed: what the upstream says of them is left out, since browsers refuse two answers.
    pub replaces_cors: bool,
    /// Minor version of the caller's HTTP/1.
    pub version: u8,
    /// The connection to the caller goes on after this answer.
    pub keep_alive: bool,
    /// Leave out `x-pannier-*` that the upstream made up.
    pub strip_ours: bool,
}

impl<'b> Response<'_, 'b> {
    /// The first value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// How the body goes to a caller of that version. A caller of HTTP/1.0 gets it plain, ended by the connection.
    #[must_use]
    pub fn coding(&self, version: u8) -> Coding {
        match self.framing {
            Framing::Chunked | Framing::UntilClose if version == 1 => Coding::Chunked,
            _ => Coding::Plain,
        }
    }

    /// Whether the caller can tell the end of the body without the connection's end.
    #[must_use]
    pub fn is_delimited(&self, version: u8) -> bool {
        version == 1 || !matches!(self.framing, Framing::Chunked | Framing::UntilClose)
    }

    /// Appends the head for the caller.
    pub fn write(&self, out: &mut Vec<u8>, toward: &Toward<'_>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        fields::write_decimal(out, u64::from(self.status));
        out.push(b' ');
        out.extend_from_slice(self.phrase.as_bytes());
        out.extend_from_slice(b"\r\n");
        for (field, name) in self.fields.iter().zip(self.names) {
            match name {
                Name::ContentLength
                | Name::TransferEncoding
                | Name::Connection
                | Name::Upgrade
                | Name::HopByHop
                | Name::FramingAlias => continue,
                Name::Ours if toward.strip_ours => continue,
                _ => {}
            }
            if toward.headers.is_some_and(|headers| headers.drops(field.name))
                || (toward.replaces_cors && is_cors(field.name))
            {
                continue;
            }
            if self.nominated && fields::nominates(self.fields, field.name) {
                continue;
            }
            fields::forward(out, self.head, field);
        }
        if let Some(headers) = toward.headers {
            headers.write(out);
        }
        out.extend_from_slice(toward.extra);
        let may_have_length = self.status >= 200 && self.status != 204;
        match (self.framing, self.length) {
            (Framing::Chunked | Framing::UntilClose, _) if toward.version == 1 => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
            (_, Some(length)) if may_have_length => write_length(out, length),
            _ => {}
        }
        if let Some(protocol) = self.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\n");
            fields::write(out, b"upgrade", protocol);
        } else if self.status >= 200 && !toward.keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.status >= 200 && toward.version == 0 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn is_cors(name: &str) -> bool {
    const PREFIX: &str = "access-control-";
    name.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

/// The phrase of a status that the proxy answers with itself.
#[must_use]
pub fn phrase(status: u16) -> &'static str {
    match status {
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
