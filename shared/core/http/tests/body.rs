//! Bodies on their way from one coding to another: the same bytes arrive however they are cut, and nothing after them is
//! touched.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic, missing_docs)]

use pannier_http::body::{Coding, Framing, Relay};
use pannier_http::chunked::{Decoder, Step};
use pannier_http::limits;
use pannier_http::refusal::Refusal;
use proptest::prelude::*;

/// What became of a stream of bytes.
#[derive(Debug, PartialEq, Eq)]
struct Relayed {
    taken: usize,
    done: bool,
    out: Vec<u8>,
}

/// Relays `input`, which arrives in pieces that end at `cuts`.
fn relay(framing: Framing, coding: Coding, input: &[u8], cuts: &[usize]) -> Result<Relayed, Refusal> {
    let mut relay = Relay::new(framing, coding);
    let (mut taken, mut out) = (0, Vec::new());
    for end in cuts.iter().copied().chain([input.len()]) {
        let end = end.clamp(taken, input.len());
        if relay.is_done() || end == taken {
            continue;
        }
        let piece = &input[taken..end];
        let used = relay.relay(piece, &mut out)?;
        assert!(used <= piece.len(), "more taken than there was");
        assert!(used == piece.len() || relay.is_done(), "less taken before the end");
        taken += used;
    }
    Ok(Relayed { taken, done: relay.is_done(), out })
}

fn chunked(input: &[u8]) -> Result<Relayed, Refusal> {
    relay(Framing::Chunked, Coding::Plain, input, &[])
}

fn status(input: &[u8]) -> u16 {
    let every: Vec<usize> = (0..input.len()).collect();
    let (whole, bytewise) = (chunked(input), relay(Framing::Chunked, Coding::Plain, input, &every));
    assert_eq!(whole, bytewise, "{:?}", String::from_utf8_lossy(&input[..input.len().min(80)]));
    match whole {
        Ok(relayed) => {
            assert!(relayed.done, "unfinished: {:?}", String::from_utf8_lossy(input));
            200
        }
        Err(refusal) => refusal.status,
    }
}

/// Takes a chunked body apart, in the plain form that we write; the body, its trailers, and what follows.
fn decoded(mut input: &[u8]) -> (Vec<u8>, Vec<u8>, &[u8]) {
    let mut body = Vec::new();
    loop {
        let end = input.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = std::str::from_utf8(&input[..end]).unwrap();
        assert!(size.bytes().all(|b| b.is_ascii_hexdigit()) && (size == "0" || !size.starts_with('0')), "{size:?}");
        let size = usize::from_str_radix(size, 16).unwrap();
        input = &input[end + 2..];
        if size == 0 {
            break;
        }
        body.extend_from_slice(&input[..size]);
        assert_eq!(&input[size..size + 2], b"\r\n");
        input = &input[size + 2..];
    }
    let mut trailers = Vec::new();
    loop {
        let end = input.windows(2).position(|w| w == b"\r\n").unwrap() + 2;
        let (line, rest) = input.split_at(end);
        input = rest;
        if line == b"\r\n" {
            return (body, trailers, input);
        }
        trailers.extend_from_slice(line);
    }
}

#[test]
fn malformed_chunks_are_refused() {
    for (expected, input) in [
        (200, "0\r\n\r\n"),
        (200, "5\r\nhello\r\n0\r\n\r\n"),
        (200, "005\r\nhello\r\n000\r\n\r\n"),
        (200, "A\r\n0123456789\r\n0\r\n\r\n"),
        (200, "a\r\n0123456789\r\n0\r\n\r\n"),
        (200, "5;a=b;c=\"d e\";\t\u{e9}\r\nhello\r\n0;last\r\n\r\n"),
        (200, "5 ;a\r\nhello\r\n0\t\r\n\r\n"),
        (200, "0\r\nX-Sum: 1\r\nY: \r\n\r\n"),
        (400, "\r\n"),
        (400, "g\r\n"),
        (400, "0x5\r\nhello\r\n0\r\n\r\n"),
        (400, "+5\r\nhello\r\n0\r\n\r\n"),
        (400, "-5\r\n"),
        (400, " 5\r\nhello\r\n0\r\n\r\n"),
        (400, ";a\r\n\r\n"),
        (400, "5 5\r\nhello\r\n0\r\n\r\n"),
        (400, "5\tx\r\nhello\r\n0\r\n\r\n"),
        (400, "5_0\r\n"),
        (400, "5,5\r\n"),
        (400, "5\nhello\r\n0\r\n\r\n"),
        (400, "5\r\nhello\n0\r\n\r\n"),
        (400, "5\rhello\r\n0\r\n\r\n"),
        (400, "5\r\r\nhello\r\n0\r\n\r\n"),
        (400, "5;a\nhello\r\n0\r\n\r\n"),
        (400, "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        (400, "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        (400, "5;a\u{7f}\r\nhello\r\n0\r\n\r\n"),
        (400, "5\r\nhello0\r\n\r\n"),
        (400, "5\r\nhellohello\r\n0\r\n\r\n"),
        (400, "5\r\nhell\r\n0\r\n\r\n"),
        (400, "5\r\nhello\r\n\r\n"),
        (400, "0\r\n\n"),
        (400, "0\r\n\rX"),
        (400, "0\r\nX: y\n\r\n"),
        (400, "0\r\nX: y\rZ: 1\r\n\r\n"),
        (400, "0\r\nX : y\r\n\r\n"),
        (400, "0\r\n X: y\r\n\r\n"),
        (400, "0\r\nX: y\r\n z\r\n\r\n"),
        (400, "0\r\nX\r\n\r\n"),
        (400, "0\r\n: y\r\n\r\n"),
        (400, "0\r\nX: y\0\r\n\r\n"),
        (400, "ffffffffffffffff\r\n"),
        (400, "10000000000000000\r\n"),
        (400, "0000000000000000\r\n\r\n"),
    ] {
        assert_eq!(status(input.as_bytes()), expected, "{input:?}");
    }
}

#[test]
fn framing_fields_have_no_place_in_trailers_and_ours_are_dropped() {
    for name in ["Content-Length", "transfer-encoding", "Content_Length", "TRANSFER_ENCODING"] {
        assert_eq!(status(format!("0\r\n{name}: 1\r\n\r\n").as_bytes()), 400, "{name}");
    }
    let dropped = [
        "Host",
        "Connection",
        "TE",
        "Upgrade",
        "Keep-Alive",
        "X-Pannier-Reason",
        "x_pannier_reason",
        "Traceparent",
        "X-Request-Id",
        "Expect",
        "Proxy-Authorization",
    ];
    let lines: String = dropped.iter().map(|name| format!("{name}: x\r\n")).collect();
    let input = format!("3\r\nabc\r\n0\r\nGrpc-Status: 0\r\n{lines}Digest:  x \r\n\r\nGET");
    let relayed = relay(Framing::Chunked, Coding::Chunked, input.as_bytes(), &[]).unwrap();
    assert_eq!(relayed.taken, input.len() - 3);
    assert_eq!(String::from_utf8(relayed.out).unwrap(), "3\r\nabc\r\n0\r\nGrpc-Status: 0\r\nDigest: x\r\n\r\n");
}

#[test]
fn extensions_and_trailers_have_a_limit_over_the_whole_body() {
    let extension = |n: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(n - 1)).into_bytes();
    assert_eq!(status(&extension(limits::CHUNK_OVERHEAD)), 200);
    assert_eq!(status(&extension(limits::CHUNK_OVERHEAD + 1)), 431);
    let spread = |chunks: usize| {
        let mut input = format!("1;{}\r\nx\r\n", "e".repeat(1023)).repeat(chunks);
        input.push_str("0\r\n\r\n");
        input.into_bytes()
    };
    assert_eq!(status(&spread(16)), 200);
    assert_eq!(status(&spread(17)), 431);
    let trailer = |n: usize| format!("0\r\nX: {}\r\n\r\n", "t".repeat(n - 3)).into_bytes();
    assert_eq!(status(&trailer(limits::CHUNK_OVERHEAD)), 200);
    assert_eq!(status(&trailer(limits::CHUNK_OVERHEAD + 1)), 431);
    let trailers = |n: usize| format!("0\r\n{}\r\n", "X: y\r\n".repeat(n)).into_bytes();
    assert_eq!(status(&trailers(limits::FIELDS)), 200);
    assert_eq!(status(&trailers(limits::FIELDS + 1)), 431);
    let unfinished = format!("1;{}", "e".repeat(limits::CHUNK_OVERHEAD + 1));
    assert_eq!(chunked(unfinished.as_bytes()).unwrap_err().status, 431, "before the line ends");
}

#[test]
fn ten_thousand_messages_of_a_stream_pass() {
    let message = format!("258\r\n{}\r\n", "m".repeat(600));
    let input = message.repeat(10_000) + "0\r\nGrpc-Status: 0\r\n\r\n";
    let cuts: Vec<usize> = (0..input.len()).step_by(4096).collect();
    let relayed = relay(Framing::Chunked, Coding::Chunked, input.as_bytes(), &cuts).unwrap();
    assert!(relayed.done);
    let (body, trailers, rest) = decoded(&relayed.out);
    assert_eq!((body.len(), rest.len()), (6_000_000, 0));
    assert_eq!(trailers, b"Grpc-Status: 0\r\n");
}

#[test]
fn no_body_is_done_at_once() {
    for framing in [Framing::None, Framing::Length(0)] {
        let relay = Relay::new(framing, Coding::Plain);
        assert!(relay.is_done());
        assert_eq!(relay.plain(10), 0);
    }
}

#[test]
fn a_body_that_ends_early_is_not_complete() {
    let mut out = Vec::new();
    for (framing, input) in [
        (Framing::Length(5), &b"hell"[..]),
        (Framing::Chunked, b"5\r\nhello\r\n"),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n"),
        (Framing::Chunked, b"5\r\nhe"),
    ] {
        for coding in [Coding::Plain, Coding::Chunked] {
            let mut relay = Relay::new(framing, coding);
            relay.relay(input, &mut out).unwrap();
            out.clear();
            assert!(!relay.close(&mut out), "{framing:?} {input:?}");
            assert!(out.is_empty(), "a last chunk would call it complete");
        }
    }
}

#[test]
fn what_can_be_passed_on_as_it_is_is_counted() {
    let mut relay = Relay::new(Framing::Length(10), Coding::Plain);
    assert_eq!((relay.plain(4), relay.plain(100)), (4, 10));
    relay.passed(4);
    assert_eq!((relay.plain(100), relay.is_done()), (6, false));
    let mut out = Vec::new();
    assert_eq!(relay.relay(b"ab", &mut out), Ok(2));
    relay.passed(relay.plain(100));
    assert!(relay.is_done());
    assert_eq!(relay.plain(100), 0);

    let mut open = Relay::new(Framing::UntilClose, Coding::Plain);
    assert_eq!(open.plain(7), 7);
    open.passed(7);
    assert!(!open.is_done());
    assert!(open.close(&mut out));
    for relay in [
        Relay::new(Framing::Chunked, Coding::Plain),
        Relay::new(Framing::Chunked, Coding::Chunked),
        Relay::new(Framing::UntilClose, Coding::Chunked),
    ] {
        assert_eq!(relay.plain(100), 0);
    }
}

/// A chunked body as some peer might write it: sizes in either case, with zeros, spaces and extensions.
#[derive(Clone, Debug)]
struct Written {
    body: Vec<u8>,
    trailers: Vec<u8>,
    bytes: Vec<u8>,
}

fn written() -> impl Strategy<Value = Written> {
    let size = prop_oneof![
        Just((|n| format!("{n:x}")) as fn(usize) -> String),
        Just((|n| format!("{n:X}")) as fn(usize) -> String),
        Just((|n| format!("{n:08x}")) as fn(usize) -> String),
        Just((|n| format!("{n:x} ")) as fn(usize) -> String),
        Just((|n| format!("{n:x};name=\"a value\"")) as fn(usize) -> String),
        Just((|n| format!("{n:x} ; a ; b=c")) as fn(usize) -> String),
    ];
    let chunk = (prop::collection::vec(any::<u8>(), 1..80), size.clone());
    let trailer = prop_oneof![Just("Grpc-Status: 0"), Just("X-Sum: abc"), Just("y:"), Just("Digest: \t z")];
    (prop::collection::vec(chunk, 0..12), size, prop::collection::vec(trailer, 0..4)).prop_map(
        |(chunks, last, trailers)| {
            let mut written = Written { body: Vec::new(), trailers: Vec::new(), bytes: Vec::new() };
            for (data, size) in chunks {
                written.bytes.extend(size(data.len()).bytes().chain(*b"\r\n"));
                written.bytes.extend(data.iter().chain(b"\r\n"));
                written.body.extend(data);
            }
            written.bytes.extend(last(0).bytes().chain(*b"\r\n"));
            for line in trailers {
                written.bytes.extend(line.bytes().chain(*b"\r\n"));
                let (name, value) = line.split_once(':').unwrap();
                written.trailers.extend(format!("{name}: {}\r\n", value.trim()).bytes());
            }
            written.bytes.extend(b"\r\n");
            written
        },
    )
}

/// Where a stream is cut, in ascending order.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        prop::collection::vec(0..1_500_usize, 0..20).prop_map(|mut cuts| {
            cuts.sort_unstable();
            cuts
        }),
        Just((0..1_500).collect()),
    ]
}

fn what_follows() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), Just(b"GET / HTTP/1.1\r\n".to_vec()), prop::collection::vec(any::<u8>(), 0..20)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_arrive_as_they_were_however_they_are_cut(
        written in written(), follows in what_follows(), cuts in cuts(),
    ) {
        let input = [written.bytes.clone(), follows].concat();
        let plain = relay(Framing::Chunked, Coding::Plain, &input, &cuts).unwrap();
        prop_assert_eq!(plain, Relayed { taken: written.bytes.len(), done: true, out: written.body.clone() });

        let chunked = relay(Framing::Chunked, Coding::Chunked, &input, &cuts).unwrap();
        prop_assert_eq!((chunked.taken, chunked.done), (written.bytes.len(), true));
        let (body, trailers, rest) = decoded(&chunked.out);
        prop_assert_eq!((body, trailers, rest.len()), (written.body.clone(), written.trailers, 0));

        let again = relay(Framing::Chunked, Coding::Plain, &chunked.out, &cuts).unwrap();
        prop_assert_eq!(again.out, written.body);
    }

    #[test]
    fn a_body_of_a_length_arrives_and_leaves_what_follows(
        body in prop::collection::vec(any::<u8>(), 1..1_000), follows in what_follows(), cuts in cuts(),
    ) {
        let input = [body.clone(), follows].concat();
        let framing = Framing::Length(body.len() as u64);
        let relayed = relay(framing, Coding::Plain, &input, &cuts).unwrap();
        prop_assert_eq!(relayed, Relayed { taken: body.len(), done: true, out: body.clone() });
        let chunked = relay(framing, Coding::Chunked, &input, &cuts).unwrap();
        prop_assert_eq!(chunked.taken, body.len());
        let (arrived, trailers, rest) = decoded(&chunked.out);
        prop_assert_eq!((arrived, trailers.len(), rest.len()), (body, 0, 0));
    }

    #[test]
    fn a_body_until_the_end_is_complete_at_the_end(
        body in prop::collection::vec(any::<u8>(), 0..1_000), cuts in cuts(),
    ) {
        for coding in [Coding::Plain, Coding::Chunked] {
            let mut relay = Relay::new(Framing::UntilClose, coding);
            let (mut taken, mut out) = (0, Vec::new());
            for end in cuts.iter().copied().chain([body.len()]) {
                let end = end.clamp(taken, body.len());
                prop_assert_eq!(relay.relay(&body[taken..end], &mut out), Ok(end - taken));
                taken = end;
                prop_assert!(!relay.is_done());
            }
            prop_assert!(relay.close(&mut out) && relay.is_done());
            let length = out.len();
            prop_assert!(relay.close(&mut out));
            prop_assert_eq!(out.len(), length, "a second end writes nothing");
            if coding == Coding::Plain {
                prop_assert_eq!(&out, &body);
            } else {
                let (arrived, trailers, rest) = decoded(&out);
                prop_assert_eq!((&arrived, trailers.len(), rest.len()), (&body, 0, 0));
            }
        }
    }

    #[test]
    fn a_changed_byte_is_read_the_same_however_it_arrives(
        written in written(), place in any::<prop::sample::Index>(), value in any::<u8>(), cuts in cuts(),
    ) {
        let mut input = written.bytes;
        let place = place.index(input.len());
        input[place] = value;
        let whole = relay(Framing::Chunked, Coding::Plain, &input, &[]);
        let pieces = relay(Framing::Chunked, Coding::Plain, &input, &cuts);
        prop_assert_eq!(&whole, &pieces);
        if let Ok(relayed) = &whole {
            prop_assert!(relayed.taken <= input.len());
            let chunked = relay(Framing::Chunked, Coding::Chunked, &input, &cuts).unwrap();
            prop_assert_eq!((chunked.taken, chunked.done), (relayed.taken, relayed.done));
            if relayed.done {
                prop_assert_eq!(&decoded(&chunked.out).0, &relayed.out);
            }
        }
    }

    #[test]
    fn noise_panics_nobody(noise in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1')], 1..200)) {
        let (mut decoder, mut trailers, mut taken) = (Decoder::default(), Vec::new(), 0);
        while taken < noise.len() {
            let Ok((step, used)) = decoder.step(&noise[taken..], &mut trailers) else { break };
            prop_assert!(used > 0 && used <= noise.len() - taken);
            taken += used;
            if step == Step::End {
                break;
            }
        }
        let _ = relay(Framing::Chunked, Coding::Chunked, &noise, &[]);
    }
}

#[test]
fn every_byte_changed_to_every_value_is_survived() {
    let input = b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET /";
    for place in 0..input.len() {
        for value in 0..=255 {
            let mut changed = *input;
            changed[place] = value;
            if let Ok(relayed) = chunked(&changed) {
                assert!(relayed.taken <= changed.len() && relayed.out.len() <= changed.len());
            }
        }
    }
}
