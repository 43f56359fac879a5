//! Changes of an input that need no instrumentation: the same ones for the same number.

use pannier_decide::random::Random;

const TOKENS: [&[u8]; 28] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b":",
    b",",
    b";",
    b"\"",
    b"0",
    b"1",
    b"-",
    b"_",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"chunked",
    b"HTTP/1.1",
    b"\r\nContent-Length: 5\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n",
    b"\r\nConnection: close, x\r\n",
    b"http://",
    b"\xdf\xff\xff\xff\xff",
];

/// One of `corpus`, changed in a few places, or spliced with another.
pub fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| corpus.get(random.below(corpus.len())).cloned().unwrap_or_default();
    let mut data = pick(random);
    for _ in 0..=random.below(4) {
        let (at, other) = (random.below(data.len() + 1), random.below(data.len() + 1));
        let (from, to) = (at.min(other), at.max(other));
        match random.below(8) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.bits() as u8,
            2 => {
                data.drain(from..to.min(from + 16));
            }
            3 => {
                let part = data[from..to.min(from + 64)].to_vec();
                data.splice(other..other, part);
            }
            4 => {
                let rest = pick(random);
                data.truncate(at);
                data.extend_from_slice(&rest[random.below(rest.len() + 1)..]);
            }
            5 => data.truncate(at),
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                data.splice(at..at, token.iter().copied());
            }
        }
    }
    data
}
