//! Bodies: the same bytes come out however the input is cut, nothing behind the end is touched, and what was written for
//! the next hop reads as the same body there.

use pannier_decide::random::Random;
use pannier_http::body::{Coding, Framing, Relay};
use pannier_http::chunked::{Decoder, Step};

/// Longer input is cut at some places only: cutting it everywhere takes the square of its length.
const EVERYWHERE: usize = 256;
const SOME: usize = 16;

/// What a decoder made of its input.
#[derive(Debug, PartialEq, Eq)]
enum Decoded {
    /// Status of the refusal.
    Refused(u16),
    /// More would be needed.
    Open { body: Vec<u8>, trailers: Vec<u8> },
    /// The end was found behind so many bytes.
    Whole { body: Vec<u8>, trailers: Vec<u8>, taken: usize },
}

fn decode(pieces: &[&[u8]]) -> Decoded {
    let mut decoder = Decoder::default();
    let (mut body, mut trailers, mut taken) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (step, used) = match decoder.step(rest, &mut trailers) {
                Ok(done) => done,
                Err(refusal) => return Decoded::Refused(refusal.status),
            };
            assert!(used > 0 && used <= rest.len(), "no step, or one beyond the input");
            taken += used;
            match step {
                Step::Skipped => {}
                Step::Data => body.extend_from_slice(&rest[..used]),
                Step::End => return Decoded::Whole { body, trailers, taken },
            }
            rest = &rest[used..];
        }
    }
    Decoded::Open { body, trailers }
}

/// Where to cut: everywhere, or at some places that follow from the input.
fn cuts(data: &[u8]) -> Vec<usize> {
    if data.len() <= EVERYWHERE {
        return (0..=data.len()).collect();
    }
    let seed = data.iter().fold(1_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let mut random = Random::new(seed);
    (0..SOME).map(|_| random.below(data.len() + 1)).collect()
}

/// The chunked coding.
pub fn chunked(data: &[u8]) {
    let whole = decode(&[data]);
    for cut in cuts(data) {
        assert_eq!(whole, decode(&[&data[..cut], &data[cut..]]), "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(whole, decode(&bytes), "byte by byte");
    let Decoded::Whole { body, trailers, taken } = whole else { return };

    let mut relay = Relay::new(Framing::Chunked, Coding::Chunked);
    let mut out = Vec::new();
    assert_eq!(relay.relay(data, &mut out).map_err(|refusal| refusal.status), Ok(taken));
    assert!(relay.is_done());
    let length = out.len();
    assert_eq!(decode(&[&out]), Decoded::Whole { body, trailers, taken: length }, "written again, it is the same");
}

/// A relay of any framing to any coding. The first two bytes say which, and how it is cut.
pub fn relay(data: &[u8]) {
    let [first, second, data @ ..] = data else { return };
    // A length of 0 is no body: a head's framing never says it.
    let length = 1 + u64::from(*second) * (1 + u64::from(first >> 6));
    let framing = match first & 3 {
        0 => Framing::None,
        1 => Framing::Length(length),
        2 => Framing::Chunked,
        _ => Framing::UntilClose,
    };
    let coding = if first & 4 == 0 { Coding::Plain } else { Coding::Chunked };
    let whole = relayed(framing, coding, &[data], false);
    let payload = |out: &[u8], done: bool| match coding {
        Coding::Plain => out.to_vec(),
        Coding::Chunked => match decode(&[out]) {
            Decoded::Whole { body, trailers, taken } => {
                assert!(done && taken == out.len(), "an end before the end");
                [body, trailers].concat()
            }
            Decoded::Open { body, .. } => {
                assert!(!done, "an end without an end");
                body
            }
            Decoded::Refused(status) => panic!("what was written is refused: {status}"),
        },
    };
    for cut in cuts(data) {
        for plainly in [false, true] {
            let halves = relayed(framing, coding, &[&data[..cut], &data[cut..]], plainly);
            match (&whole, &halves) {
                (Ok((out, taken, done)), Ok((out_2, taken_2, done_2))) => {
                    assert_eq!((taken, done), (taken_2, done_2), "cut at {cut}");
                    if framing != Framing::None {
                        assert_eq!(payload(out, *done), payload(out_2, *done), "cut at {cut}");
                    }
                }
                (whole, halves) => assert_eq!(whole.as_ref().err(), halves.as_ref().err(), "cut at {cut}"),
            }
        }
    }
    if let (Ok((out, taken, done)), Framing::Length(_), Coding::Plain) = (&whole, framing, coding) {
        let expected = data.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        assert_eq!((out.as_slice(), *taken, *done), (&data[..expected], expected, expected as u64 == length));
    }
}

/// What was written, how much was taken, and whether the body has ended; or the status of a refusal. `plainly`: as much as
/// may be is written on as it is.
fn relayed(framing: Framing, coding: Coding, pieces: &[&[u8]], plainly: bool) -> Result<(Vec<u8>, usize, bool), u16> {
    let mut relay = Relay::new(framing, coding);
    let (mut out, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !relay.is_done() {
            let _ = relay.may_be_whole(rest);
            let plain = if plainly { relay.plain(rest.len()) } else { 0 };
            let used = if plain > 0 {
                out.extend_from_slice(&rest[..plain]);
                relay.passed(plain);
                plain
            } else {
                relay.relay(rest, &mut out).map_err(|refusal| refusal.status)?
            };
            assert!(used <= rest.len() && (used > 0 || relay.is_done()), "no step, or one beyond the input");
            taken += used;
            rest = &rest[used..];
        }
    }
    if framing == Framing::UntilClose {
        assert!(!relay.is_done() && relay.close(&mut out), "only its end ends it");
    }
    Ok((out, taken, relay.is_done()))
}
