//! Heads: found the same way however they arrive, refused or parsed, and what is written of them reads the same again.

use pannier_http::body::Framing;
use pannier_http::fields::room;
use pannier_http::forwarding::{Client, Peer};
use pannier_http::head::HeadScanner;
use pannier_http::refusal::Refusal;
use pannier_http::request::{self, Edits, Request};
use pannier_http::response::{self, Asked, Response, Toward};
use pannier_http::{authority, limits};

/// A request that is nearer than this to a limit may go over it when our own fields are added.
const ROOM: usize = 256;

/// Where the head ends: at once, and byte by byte. A head that is refused is refused in both ways, though perhaps for
/// another of its faults.
fn scan(data: &[u8]) -> Option<usize> {
    let whole = HeadScanner::default().scan(data);
    let mut scanner = HeadScanner::default();
    let bytewise = (1..=data.len()).find_map(|n| scanner.scan(&data[..n]).transpose()).transpose();
    match (whole, bytewise) {
        (Err(a), Err(b)) => {
            assert!((400..500).contains(&a.status) && (400..500).contains(&b.status));
            None
        }
        (whole, bytewise) => {
            assert_eq!(whole, bytewise, "where the head ends depends on how it arrives");
            whole.unwrap_or(None)
        }
    }
}

fn is_status(refusal: &Refusal) {
    assert!((400..600).contains(&refusal.status), "{refusal}");
}

const EDITS: Edits<'static> = Edits {
    path: None,
    authority: None,
    headers: None,
    deadline_ms: None,
    request_id: b"fuzz",
    trace_parent: None,
    drop_trace_state: false,
    strip_ours: false,
    client: None,
};

fn written(request: &Request<'_, '_>) -> Vec<u8> {
    let mut out = Vec::new();
    let id = request.request_id.unwrap_or(b"fuzz");
    request.write(&mut out, &Edits { request_id: id, ..EDITS });
    out
}

/// A request's head.
pub fn request(data: &[u8]) {
    let Some(end) = scan(data) else { return };
    let (head, mut fields) = (&data[..end], room());
    let parsed = match request::parse(head, &mut fields) {
        Ok(parsed) => parsed,
        Err(refusal) => return is_status(&refusal),
    };
    assert!(parsed.version <= 1);
    assert!(parsed.path.starts_with('/') || parsed.path == "*", "{:?}", parsed.path);
    assert_ne!(parsed.framing, Framing::UntilClose);
    assert_eq!(parsed.authority.is_empty(), parsed.host.host.is_empty());
    assert!(parsed.authority.is_empty() || authority::parse(parsed.authority) == Some(parsed.host));

    let peer = Peer::new(None);
    for trusted_hops in 0..2 {
        let mut out = Vec::new();
        let client = Client { peer: &peer, trusted_hops };
        parsed.write(&mut out, &Edits { client: Some(client), strip_ours: true, ..EDITS });
        let told = client.address(parsed.fields());
        assert!(!told.is_empty() && told.bytes().all(|b| b.is_ascii_graphic() && b != b'"'), "{told:?}");
        let named = |name: &str| parsed.fields().iter().any(|field| field.name.eq_ignore_ascii_case(name));
        let claims = ["forwarded", "x-forwarded-for"].into_iter().filter(|name| named(name)).count();
        let lines = out.windows(2).filter(|pair| pair == b"\r\n").count();
        assert!(lines <= parsed.fields().len() + 8 - claims, "a value became a line: {out:?}");
    }

    let out = written(&parsed);
    let crowded = parsed.fields().len() + 2 > limits::FIELDS || head.len() + ROOM > limits::REQUEST_LINE;
    match HeadScanner::default().scan(&out) {
        Err(refusal) if crowded => return is_status(&refusal),
        found => assert_eq!(found, Ok(Some(out.len())), "{:?}", String::from_utf8_lossy(&out)),
    }
    let mut fields = room();
    let again = match request::parse(&out, &mut fields) {
        Ok(again) => again,
        Err(refusal) => {
            assert!(crowded, "what was written is refused, {refusal}: {:?}", String::from_utf8_lossy(&out));
            return;
        }
    };
    let model = |r: &Request<'_, '_>| {
        (r.method.to_string(), r.path.to_string(), r.authority.to_string(), r.framing, r.expects_continue)
    };
    assert_eq!(model(&parsed), model(&again));
    assert_eq!(parsed.upgrade, again.upgrade);
    assert_eq!(again.request_id, Some(parsed.request_id.unwrap_or(b"fuzz")));
    assert_eq!(parsed.trace_state, again.trace_state.or(parsed.trace_state));
    assert!(again.keep_alive && again.version == 1, "how long a connection lives is this hop's own");
    assert_eq!(out, written(&again), "written again, it is the same");
    edited(&parsed);
}

/// With everything else that a hop may change, the framing stays what it was.
fn edited(parsed: &Request<'_, '_>) {
    let mut out = Vec::new();
    let edits = Edits {
        path: Some("/else?where"),
        authority: Some("other:81"),
        deadline_ms: Some(u64::from(u32::MAX)),
        trace_parent: Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        drop_trace_state: true,
        strip_ours: true,
        ..EDITS
    };
    parsed.write(&mut out, &edits);
    request::renew_deadline(&mut out, 7);
    let mut fields = room();
    if let Ok(again) = request::parse(&out, &mut fields) {
        assert_eq!((again.path, again.authority, again.framing), ("/else?where", "other:81", parsed.framing));
        assert_eq!(again.deadline, Some(&b"7"[..]));
    }
}

/// An answer's head. The first byte says to what.
pub fn response(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let asked = Asked { head: first & 1 != 0, upgrade: (first & 2 != 0).then_some(&b"websocket"[..]) };
    let Some(end) = scan(data) else { return };
    let (head, mut fields) = (&data[..end], room());
    let parsed = match response::parse(head, &mut fields, asked) {
        Ok(parsed) => parsed,
        Err(refusal) => return is_status(&refusal),
    };
    assert!((100..1000).contains(&parsed.status));
    let bodiless = asked.head || parsed.status < 200 || matches!(parsed.status, 204 | 304);
    assert!(!bodiless || parsed.framing == Framing::None);
    for version in [0, 1] {
        let toward = Toward {
            headers: None,
            extra: b"",
            replaces_cors: first & 4 != 0,
            version,
            keep_alive: first & 8 != 0,
            strip_ours: first & 16 != 0,
        };
        rewritten(&parsed, &toward, asked);
    }
}

fn rewritten(parsed: &Response<'_, '_>, toward: &Toward<'_>, asked: Asked<'_>) {
    let write = |response: &Response<'_, '_>| {
        let mut out = Vec::new();
        response.write(&mut out, toward);
        out
    };
    let out = write(parsed);
    match HeadScanner::default().scan(&out) {
        // Our own fields may take it over a limit.
        Err(refusal) => return assert_eq!(refusal.status, 431),
        found => assert_eq!(found, Ok(Some(out.len())), "{:?}", String::from_utf8_lossy(&out)),
    }
    let mut fields = room();
    let Ok(again) = response::parse(&out, &mut fields, asked) else {
        assert!(out.len() + ROOM > limits::HEAD || out.windows(2).filter(|w| w == b"\r\n").count() > limits::FIELDS);
        return;
    };
    let expected = match (parsed.framing, toward.version) {
        (Framing::UntilClose | Framing::Chunked, 1) => Framing::Chunked,
        (Framing::UntilClose | Framing::Chunked, _) => Framing::UntilClose,
        (framing, _) => framing,
    };
    assert_eq!((parsed.status, parsed.phrase, parsed.upgrade), (again.status, again.phrase, again.upgrade));
    if expected != Framing::None {
        assert_eq!(again.framing, expected);
    }
    assert_eq!(out, write(&again), "written again, it is the same");
}
