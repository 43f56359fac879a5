//! Answers: read strictly from the upstream, written for the caller's version.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

use pannier_http::body::{Coding, Framing};
use pannier_http::fields::room;
use pannier_http::response::{self, Asked, Response, Toward};
use proptest::prelude::*;

const GET: Asked<'static> = Asked { head: false, upgrade: None };
const HEAD: Asked<'static> = Asked { head: true, upgrade: None };
const UPGRADE: Asked<'static> = Asked { head: false, upgrade: Some(b"websocket") };
const KEPT: Toward<'_> =
    Toward { headers: None, extra: &[], replaces_cors: false, version: 1, keep_alive: true, strip_ours: true };

fn parsed<T>(head: &str, asked: Asked<'_>, look: impl FnOnce(Response<'_, '_>) -> T) -> T {
    look(response::parse(head.as_bytes(), &mut room(), asked).unwrap())
}

fn is_refused(head: &[u8], asked: Asked<'_>) -> bool {
    response::parse(head, &mut room(), asked).is_err()
}

fn written(head: &str, asked: Asked<'_>, toward: &Toward) -> String {
    parsed(head, asked, |answer| {
        let mut out = Vec::new();
        answer.write(&mut out, toward);
        String::from_utf8(out).unwrap()
    })
}

#[test]
fn framing_follows_status_method_and_fields() {
    const LENGTH: &str = "Content-Length: 5\r\n";
    const CHUNKED: &str = "Transfer-Encoding: Chunked\r\n";
    for (asked, status, lines, expected) in [
        (GET, 200, LENGTH, Framing::Length(5)),
        (GET, 200, "Content-Length: 0\r\n", Framing::None),
        (GET, 200, CHUNKED, Framing::Chunked),
        (GET, 200, "", Framing::UntilClose),
        (GET, 999, LENGTH, Framing::Length(5)),
        (HEAD, 200, LENGTH, Framing::None),
        (HEAD, 200, CHUNKED, Framing::None),
        (HEAD, 200, "", Framing::None),
        (GET, 204, LENGTH, Framing::None),
        (GET, 204, CHUNKED, Framing::None),
        (GET, 304, LENGTH, Framing::None),
        (GET, 304, "", Framing::None),
        (GET, 100, LENGTH, Framing::None),
        (GET, 103, "", Framing::None),
        (UPGRADE, 101, "Upgrade: websocket\r\n", Framing::None),
        (UPGRADE, 200, "", Framing::UntilClose),
    ] {
        let head = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
        parsed(&head, asked, |a| assert_eq!((a.framing, a.status), (expected, status), "{asked:?} {head:?}"));
    }
}

#[test]
fn ambiguous_answers_are_refused() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length:\r\n",
        "Content_Length: 5\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
        "Content-Length : 5\r\n",
        "A: b\r\n c\r\n",
        "A: b\0\r\n",
        "A b: c\r\n",
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        for asked in [GET, HEAD, UPGRADE] {
            assert!(is_refused(head.as_bytes(), asked), "{asked:?} {lines:?}");
        }
    }
    assert!(is_refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", GET));
    for line in [
        "HTTP/2.0 200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 X",
        "HTTP/1.1 000 X",
        "HTTP/1.1 abc X",
        "HTTP/1.1",
        "ICY 200 OK",
        "200 OK",
        "",
    ] {
        assert!(is_refused(format!("{line}\r\n\r\n").as_bytes(), GET), "{line:?}");
    }
    assert!(is_refused(b"HTTP/1.1 200 OK\r\nA: b\r\n", GET), "no end");
    let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(n)).into_bytes();
    assert!(!is_refused(&fields(100), GET));
    assert!(is_refused(&fields(101), GET));
}

#[test]
fn protocols_are_switched_only_when_that_was_asked_for() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nA: b\r\n\r\n";
    assert!(is_refused(head.as_bytes(), GET));
    assert!(is_refused(head.as_bytes(), HEAD));
    parsed(head, UPGRADE, |a| assert_eq!(a.upgrade, Some(&b"websocket"[..])));
    for keep_alive in [true, false] {
        assert_eq!(
            written(head, UPGRADE, &Toward { keep_alive, ..KEPT }),
            "HTTP/1.1 101 Switching Protocols\r\nA: b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        );
    }
    let declined = "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n";
    parsed(declined, UPGRADE, |a| assert_eq!(a.upgrade, None));
    assert_eq!(written(declined, UPGRADE, &KEPT), "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n");
}

#[test]
fn an_upstream_connection_is_kept_only_if_both_ends_can_tell() {
    for (expected, version, lines) in [
        (true, 1, "Content-Length: 1\r\n"),
        (true, 1, "Transfer-Encoding: chunked\r\n"),
        (true, 1, "Content-Length: 0\r\nConnection: keep-alive\r\n"),
        (false, 1, "Content-Length: 1\r\nConnection: close\r\n"),
        (false, 1, "Content-Length: 1\r\nConnection: a\r\nConnection: keep-alive, CLOSE\r\n"),
        (false, 1, ""),
        (false, 1, "Connection: keep-alive\r\n"),
        (false, 0, "Content-Length: 1\r\n"),
        (true, 0, "Content-Length: 1\r\nConnection: keep-alive\r\n"),
        (false, 0, "Content-Length: 1\r\nConnection: keep-alive, close\r\n"),
        (false, 0, "Connection: keep-alive\r\n"),
    ] {
        let head = format!("HTTP/1.{version} 200 OK\r\n{lines}\r\n");
        parsed(&head, GET, |a| assert_eq!(a.keep_alive, expected, "{head:?}"));
    }
}

#[test]
fn this_hops_fields_stay_and_the_others_pass() {
    let head = "HTTP/1.1 200 Très bien\r\nServer: s\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: 5\r\n\
                Proxy-Authenticate: x\r\nConnection: X-Drop, set-cookie, x-pannier-reason\r\nx-drop: 1\r\n\
                Trailer: T\r\nX-Pannier-Reason: UH\r\nx_pannier_reason: UH\r\nContent-Length: 5\r\n\r\n";
    let phrase = parsed(head, GET, |a| a.phrase.to_string());
    let start = format!("HTTP/1.1 200 {phrase}\r\nServer: s\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nTrailer: T\r\n");
    assert_eq!(written(head, GET, &KEPT), format!("{start}content-length: 5\r\n\r\n"));
    let trusted = Toward { strip_ours: false, ..KEPT };
    assert!(written(head, GET, &trusted).contains("X-Pannier-Reason: UH\r\n"));
}

#[test]
fn the_head_fits_the_callers_version_and_the_connections_fate() {
    let closing = Toward { keep_alive: false, ..KEPT };
    let old = Toward { version: 0, keep_alive: false, ..KEPT };
    let old_kept = Toward { version: 0, ..KEPT };
    for (asked, answer, toward, expected) in [
        (GET, "200 OK\r\nContent-Length: 5", KEPT, "200 OK\r\ncontent-length: 5"),
        (GET, "200 OK\r\nContent-Length: 0", KEPT, "200 OK\r\ncontent-length: 0"),
        (GET, "200 OK\r\nContent-Length: 5", closing, "200 OK\r\ncontent-length: 5\r\nconnection: close"),
        (GET, "200 OK\r\nContent-Length: 5", old, "200 OK\r\ncontent-length: 5\r\nconnection: close"),
        (GET, "200 OK\r\nContent-Length: 5", old_kept, "200 OK\r\ncontent-length: 5\r\nconnection: keep-alive"),
        (GET, "200 OK\r\nTransfer-Encoding: chunked", KEPT, "200 OK\r\ntransfer-encoding: chunked"),
        (GET, "200 OK\r\nTransfer-Encoding: chunked", old, "200 OK\r\nconnection: close"),
        (GET, "200 OK\r\nA: b", KEPT, "200 OK\r\nA: b\r\ntransfer-encoding: chunked"),
        (GET, "200 OK\r\nA: b", old, "200 OK\r\nA: b\r\nconnection: close"),
        (HEAD, "200 OK\r\nContent-Length: 5", KEPT, "200 OK\r\ncontent-length: 5"),
        (HEAD, "200 OK\r\nTransfer-Encoding: chunked", KEPT, "200 OK"),
        (GET, "204 No Content\r\nContent-Length: 5", KEPT, "204 No Content"),
        (GET, "204 No Content\r\nTransfer-Encoding: chunked", KEPT, "204 No Content"),
        (GET, "304 Not Modified\r\nContent-Length: 5", KEPT, "304 Not Modified\r\ncontent-length: 5"),
        (GET, "304 Not Modified", closing, "304 Not Modified\r\nconnection: close"),
        (GET, "100 Continue", closing, "100 Continue"),
        (GET, "103 Early Hints\r\nLink: l\r\nContent-Length: 5", KEPT, "103 Early Hints\r\nLink: l"),
        (GET, "200\r\nContent-Length: 5", KEPT, "200 \r\ncontent-length: 5"),
    ] {
        let head = format!("HTTP/1.1 {answer}\r\n\r\n");
        assert_eq!(written(&head, asked, &toward), format!("HTTP/1.1 {expected}\r\n\r\n"), "{toward:?} {head:?}");
    }
    let from_old = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(written(from_old, GET, &KEPT), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(written("HTTP/1.0 200 OK\r\n\r\n", GET, &KEPT), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
}

#[test]
fn the_coding_toward_the_caller_is_one_that_it_understands() {
    for (lines, new, old, delimited_for_old) in [
        ("Content-Length: 5\r\n", Coding::Plain, Coding::Plain, true),
        ("Content-Length: 0\r\n", Coding::Plain, Coding::Plain, true),
        ("Transfer-Encoding: chunked\r\n", Coding::Chunked, Coding::Plain, false),
        ("", Coding::Chunked, Coding::Plain, false),
    ] {
        parsed(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), GET, |a| {
            assert_eq!((a.coding(1), a.coding(0)), (new, old), "{lines:?}");
            assert_eq!((a.is_delimited(1), a.is_delimited(0)), (true, delimited_for_old), "{lines:?}");
        });
    }
    parsed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HEAD, |a| {
        assert_eq!(a.coding(1), Coding::Plain);
        assert!(a.is_delimited(0));
    });
}

fn nearly_an_answer() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Content-Length: 3".to_string()),
        Just("Transfer-Encoding: chunked".to_string()),
        Just("Connection: close, x-a".to_string()),
        Just("Upgrade: websocket".to_string()),
        "[a-zA-Z_-]{1,12}: ?[ -~\t]{0,20}",
    ];
    ("HTTP/1.[01] [1-5]0[0-4] [ -~]{0,10}", prop::collection::vec(line, 0..6), any::<u16>(), any::<Option<u8>>())
        .prop_map(|(start, lines, place, value)| {
            let mut head =
                format!("{start}\r\n{}\r\n", lines.iter().map(|l| format!("{l}\r\n")).collect::<String>()).into_bytes();
            let place = usize::from(place) % head.len();
            head[place] = value.unwrap_or(head[place]);
            head
        })
}

fn asked() -> impl Strategy<Value = Asked<'static>> {
    prop_oneof![Just(GET), Just(HEAD), Just(UPGRADE)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_panics_nobody(noise in prop::collection::vec(any::<u8>(), 0..300), asked in asked()) {
        let _ = response::parse(&noise, &mut room(), asked);
    }

    #[test]
    fn what_is_written_is_framed_as_the_body_is_coded(head in nearly_an_answer(), asked in asked()) {
        let mut first_room = room();
        let Ok(first) = response::parse(&head, &mut first_room, asked) else { return Ok(()) };
        let mut written = Vec::new();
        first.write(&mut written, &KEPT);
        let mut second_room = room();
        let second = response::parse(&written, &mut second_room, asked);
        prop_assert!(second.is_ok(), "{:?} became {:?}", String::from_utf8_lossy(&head), String::from_utf8_lossy(&written));
        let second = second.unwrap();
        prop_assert_eq!(first.status, second.status);
        let framing = if first.framing == Framing::UntilClose { Framing::Chunked } else { first.framing };
        prop_assert_eq!(framing, second.framing);
        prop_assert!(second.keep_alive);
    }
}
