//! Byte by byte what nft sends for the same rules, and the arithmetic of several Centrals.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

const TABLE: &str = "pannier-15001-123";
const LISTENER: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 15001);

fn central(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new([10, 77, 0, last].into(), 15090)
}

/// Kind and body of each message, in hexadecimal as in `nft.hex`.
fn lines(messages: &[Message]) -> Vec<String> {
    let hex = |body: &[u8]| body.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    messages.iter().map(|message| format!("{:04x} {}", message.kind, hex(&message.body))).collect()
}

/// The messages that flush, of which nft has none in a new table.
fn without_flush(messages: Vec<Message>) -> Vec<Message> {
    messages.into_iter().filter(|message| message.kind != DELETE_RULE).collect()
}

/// nft was given the ruleset in the head of `rules.rs` with the process 123, and both sides of the guard for eth0.
#[test]
fn the_bytes_are_those_of_nft() {
    let [out, source, masquerade] = chains(TABLE, LISTENER).try_into().ok().unwrap();
    let mut messages = vec![owned_table(TABLE), out, source];
    messages.extend(without_flush(draws(TABLE, LISTENER, &[(central(2), 3000)])));
    messages.push(masquerade);
    messages.extend(without_flush(guard("eth0")));
    let expected: Vec<&str> = include_str!("nft.hex").lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines(&messages), expected);
}

/// The shares that come out when each rule draws `share` from `modulus` for what the ones before have left.
#[test]
fn several_centrals_get_exactly_their_shares() {
    let cases: &[&[u32]] =
        &[&[10_000], &[1], &[3000, 2000], &[5000, 5000], &[9999, 1], &[3333, 3333, 3334], &[1; 64], &[]];
    for shares in cases {
        let wanted: Vec<_> = (0..).zip(*shares).map(|(last, share)| (central(last), *share)).collect();
        let mut left = f64::from(WHOLE);
        let mut got = Vec::new();
        for message in draws(TABLE, LISTENER, &wanted) {
            let Some(below) = drawn(&message) else { continue };
            got.push((left * below).round());
            left -= left * below;
        }
        let given: Vec<_> = shares.iter().map(|share| f64::from(*share)).collect();
        assert_eq!(got, given, "{shares:?}");
    }
}

/// How likely a rule is to apply, by its numgen and the comparison after it; 1 without; None for what is no rule.
fn drawn(message: &Message) -> Option<f64> {
    let after = |name: &str| {
        let text = [name.as_bytes(), b"\0"].concat();
        message.body.windows(text.len()).position(|part| part == text).map(|at| &message.body[at..])
    };
    let number = |bytes: &[u8]| f64::from(u32::from_be_bytes(*bytes.first_chunk().unwrap()));
    if message.kind != NEW_RULE {
        return None;
    }
    let Some(numgen) = after("numgen") else { return Some(1.0) };
    // Name and filling 8, header of the data 4, register 8, header of the modulus 4.
    let modulus = number(&numgen[24..]);
    // Byteorder's data are five numbers; then cmp, whose value is its last attribute, like numgen's.
    let compared = after("byteorder")?;
    // Name and filling 12, data 4 + 5 * 8; then of cmp: element 4, name 8, data 4, register 8, operator 8, value 4 + 4.
    Some(number(&compared[96..]) / modulus)
}

#[test]
fn a_change_begins_with_the_removal_of_what_was() {
    for shares in [&[][..], &[(central(2), 5)]] {
        let messages = draws(TABLE, LISTENER, shares);
        assert_eq!((messages[0].kind, messages.len()), (DELETE_RULE, 1 + shares.len()));
    }
}
