//! Requests as the next hop gets them: this hop's fields gone, what frames and identifies a message kept.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

use pannier_http::fields::room;
use pannier_http::request::{self, Edits};

const PLAIN: Edits<'static> = Edits {
    path: None,
    authority: None,
    headers: None,
    deadline_ms: None,
    request_id: b"id",
    trace_parent: None,
    drop_trace_state: false,
    strip_ours: true,
    client: None,
};

fn written_with(head: &str, edits: &Edits<'_>) -> String {
    let mut out = b"before|".to_vec();
    request::parse(head.as_bytes(), &mut room()).unwrap().write(&mut out, edits);
    String::from_utf8(out).unwrap().strip_prefix("before|").unwrap().to_string()
}

fn written(head: &str) -> String {
    written_with(head, &PLAIN)
}

/// What becomes of these lines of a POST without a body, between `host` and `x-request-id`.
fn forwarded(lines: &str) -> String {
    let out = written(&format!("POST /p HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    let out = out.strip_prefix("POST /p HTTP/1.1\r\nhost: a\r\n").unwrap();
    out.strip_suffix("x-request-id: id\r\n\r\n").unwrap().to_string()
}

#[test]
fn fields_of_others_pass_as_they_came() {
    let lines = "Accept: */*\r\nX-A: one\r\nx-a: two\r\nCookie: a=1\r\nCookie: b=2\r\nAuthorization: s\r\nX-Empty: \r\n\
                 Trailer: X-T\r\nForwarded: for=1\r\nTraceparent: x\r\nTracestate: y\r\n";
    assert_eq!(forwarded(lines), lines);
    assert_eq!(forwarded("A:b\r\nC: \t d\t \r\n"), "A: b\r\nC: d\r\n", "spaces around a value are no part of it");
}

#[test]
fn fields_of_this_hop_are_left_out() {
    for line in [
        "Connection: close",
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "proxy-authenticate: Basic",
        "Upgrade: websocket",
        "X-Request-Id: theirs",
        "x-request-id: a b",
        "TE: gzip",
        "TE:",
        "X-Pannier-Reason: UH",
        "x-pannier-deadline: 1",
    ] {
        assert_eq!(forwarded(&format!("{line}\r\n")), "", "{line}");
    }
}

#[test]
fn what_connection_nominates_is_left_out() {
    for (lines, expected) in [
        ("Connection: X-Drop\r\nX-Drop: 1\r\nX-Keep: 2\r\n", "X-Keep: 2\r\n"),
        ("x-drop: 1\r\nConnection: close , X-DROP\r\n", ""),
        ("Connection: a\r\nConnection: b\r\nA: 1\r\nB: 2\r\nC: 3\r\n", "C: 3\r\n"),
        ("Connection: ,, a ,\r\nA: 1\r\n", ""),
        ("Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n", ""),
        ("Connection: keep-alive\r\nKeep: 1\r\nAlive: 2\r\n", "Keep: 1\r\nAlive: 2\r\n"),
        ("Connection: X-Drop\r\nX-Drop: 1\r\nX-Drop: 2\r\nX-Dropped: 3\r\n", "X-Dropped: 3\r\n"),
    ] {
        assert_eq!(forwarded(lines), expected, "{lines:?}");
    }
}

#[test]
fn connection_cannot_take_away_what_gives_a_message_its_meaning() {
    for line in ["Authorization: secret", "Cookie: a=1", "Expect: 100-continue", "Traceparent: x", "Tracestate: x"] {
        let name = line.split(':').next().unwrap();
        let line = format!("{line}\r\n");
        assert_eq!(forwarded(&format!("Connection: {name}, x\r\n{line}")), line, "{name}");
    }
    let head = |nominated: &str| {
        written(&format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: {nominated}\r\nContent-Length: 3\r\n\r\n"))
    };
    for nominated in ["host", "Content-Length", "content-length, host, x-request-id"] {
        assert_eq!(
            head(nominated),
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nx-request-id: id\r\n\r\n",
            "{nominated}"
        );
    }
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(written(chunked).contains("transfer-encoding: chunked\r\n"));
    let trusted = Edits { strip_ours: false, ..PLAIN };
    let ours = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-pannier-deadline\r\nX-Pannier-Deadline: 1\r\n\r\n";
    assert!(written_with(ours, &trusted).contains("X-Pannier-Deadline: 1\r\n"));
}

#[test]
fn te_is_trailers_or_nothing() {
    for (line, expected) in [
        ("TE: trailers\r\n", "te: trailers\r\n"),
        ("te: gzip;q=0.5, Trailers\r\n", "te: trailers\r\n"),
        ("TE: trailers\r\nConnection: TE\r\n", "te: trailers\r\n"),
        ("TE: trailersx\r\n", ""),
        ("TE: gzip, deflate\r\n", ""),
    ] {
        assert_eq!(forwarded(line), expected, "{line:?}");
    }
}

#[test]
fn framing_is_written_from_the_model() {
    for (lines, expected) in [
        ("", ""),
        ("Content-Length: 0\r\n", "content-length: 0\r\n"),
        ("Content-Length: 0012\r\n", "content-length: 12\r\n"),
        ("Content-Length: 3\r\nA: b\r\n", "A: b\r\ncontent-length: 3\r\n"),
        ("Transfer-Encoding: Chunked\r\n", "transfer-encoding: chunked\r\n"),
        ("Expect: 100-Continue\r\nContent-Length: 3\r\n", "Expect: 100-Continue\r\ncontent-length: 3\r\n"),
    ] {
        assert_eq!(forwarded(lines), expected, "{lines:?}");
    }
}

#[test]
fn upgrades_are_written_again_and_h2c_is_not() {
    for (lines, expected) in [
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", "connection: upgrade\r\nupgrade: websocket\r\n"),
        ("Connection: upgrade, x\r\nX: 1\r\nUpgrade: a/1\r\n", "connection: upgrade\r\nupgrade: a/1\r\n"),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", ""),
        ("Upgrade: websocket\r\n", ""),
        ("Connection: Upgrade\r\n", ""),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", "content-length: 3\r\n"),
    ] {
        assert_eq!(forwarded(lines), expected, "{lines:?}");
    }
}

#[test]
fn the_target_is_written_in_origin_form_with_one_host() {
    for (head, expected) in [
        ("GET http://b:81/c?d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /c?d HTTP/1.1\r\nhost: b:81\r\n"),
        ("GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: b\r\n"),
        ("GET http://b/ HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: b\r\n"),
        ("GET /x HTTP/1.0\r\n\r\n", "GET /x HTTP/1.1\r\nhost: \r\n"),
        ("GET /x HTTP/1.0\r\nHOST: b\r\n\r\n", "GET /x HTTP/1.1\r\nhost: b\r\n"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nhost: a\r\n"),
        ("GET //x/../y HTTP/1.1\r\nHost: a\r\n\r\n", "GET //x/../y HTTP/1.1\r\nhost: a\r\n"),
        ("GET / HTTP/1.1\r\nA: b\r\nHost: [::1]:8\r\n\r\n", "GET / HTTP/1.1\r\nhost: [::1]:8\r\nA: b\r\n"),
    ] {
        assert_eq!(written(head), format!("{expected}x-request-id: id\r\n\r\n"), "{head:?}");
    }
}

#[test]
fn a_caller_of_http_1_0_gets_what_its_version_allows() {
    let head = "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\
                Expect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(written(head), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nx-request-id: id\r\n\r\n");
}

#[test]
fn edits_replace_what_came() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nTraceparent: old\r\nTracestate: s\r\nX-Pannier-A: 1\r\n\r\n";
    let new =
        Edits { request_id: b"new", trace_parent: Some(b"tp"), drop_trace_state: true, strip_ours: false, ..PLAIN };
    assert_eq!(
        written_with(head, &new),
        "GET / HTTP/1.1\r\nhost: a\r\nX-Pannier-A: 1\r\nx-request-id: new\r\ntraceparent: tp\r\n\r\n"
    );
    let kept = Edits { drop_trace_state: false, ..new };
    assert!(written_with(head, &kept).contains("Tracestate: s\r\n"));
}

#[test]
fn idempotence_and_labels_of_methods() {
    for (method, idempotent, label) in [
        ("GET", true, "GET"),
        ("HEAD", true, "HEAD"),
        ("PUT", true, "PUT"),
        ("DELETE", true, "DELETE"),
        ("OPTIONS", true, "OPTIONS"),
        ("POST", false, "POST"),
        ("PATCH", false, "PATCH"),
        ("get", false, "_OTHER"),
        ("PURGE", false, "_OTHER"),
    ] {
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut room = room();
        let request = request::parse(head.as_bytes(), &mut room).unwrap();
        assert_eq!((request.is_idempotent(), request::method_label(method)), (idempotent, label), "{method}");
    }
}

#[test]
fn a_route_changes_the_line_the_host_and_fields() {
    let edits = pannier_http::edits::HeaderEdits::try_new(
        [("x-set", "1")].into_iter(),
        [("x-add", "2")].into_iter(),
        ["x-gone"].into_iter(),
    )
    .unwrap();
    let all = Edits {
        path: Some("/new?q"),
        authority: Some("other"),
        headers: pannier_http::edits::Changes::of(Some(&edits), None),
        deadline_ms: Some(250),
        ..PLAIN
    };
    let head = b"GET /old HTTP/1.1\r\nHost: a\r\nX-Set: 0\r\nx-gone: 1\r\nx-stays: 1\r\nx-pannier-deadline: 9\r\n\r\n";
    let mut room = pannier_http::fields::room();
    let mut out = Vec::new();
    pannier_http::request::parse(head, &mut room).unwrap().write(&mut out, &Edits { strip_ours: false, ..all });
    let written = String::from_utf8(out).unwrap();
    assert_eq!(
        written,
        "GET /new?q HTTP/1.1\r\nhost: other\r\nx-stays: 1\r\nx-request-id: id\r\nx-pannier-deadline:      250\r\nx-set: 1\r\nx-add: 2\r\n\r\n"
    );
}

#[test]
fn fields_are_found() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-User: alice\r\n\r\n";
    let mut room = pannier_http::fields::room();
    let request = pannier_http::request::parse(head, &mut room).unwrap();
    assert_eq!(request.field("x-user"), Some(&b"alice"[..]));
}

#[test]
fn a_later_attempt_says_what_is_left_by_then() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut room = pannier_http::fields::room();
    let mut out = Vec::new();
    let edits = Edits { deadline_ms: Some(2_000), ..PLAIN };
    pannier_http::request::parse(head, &mut room).unwrap().write(&mut out, &edits);
    pannier_http::request::renew_deadline(&mut out, 1_687);
    assert!(String::from_utf8(out).unwrap().contains("\r\nx-pannier-deadline:     1687\r\n"));
}
