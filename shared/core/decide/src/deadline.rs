//! How much time a caller still gives: `x-pannier-deadline` in milliseconds, `grpc-timeout` in its own units.

/// The shorter of what both fields leave, in milliseconds; a field that cannot be read says nothing.
#[must_use]
pub fn left_ms(ours: Option<&[u8]>, grpc: Option<&[u8]>) -> Option<u64> {
    let ours = ours.and_then(number);
    let grpc = grpc.and_then(grpc_timeout_ms);
    match (ours, grpc) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// At most eight digits and a unit, rounded up (gRPC over HTTP/2, "Timeout").
fn grpc_timeout_ms(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    let amount = number(digits)?;
    Some(match unit {
        b'H' => amount * 3_600_000,
        b'M' => amount * 60_000,
        b'S' => amount * 1_000,
        b'm' => amount,
        b'u' => amount.div_ceil(1_000),
        b'n' => amount.div_ceil(1_000_000),
        _ => return None,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_one_holds_and_nonsense_does_not() {
        assert_eq!(left_ms(Some(b"250"), Some(b"1S")), Some(250));
        assert_eq!(left_ms(Some(b"2500"), Some(b"1S")), Some(1_000));
        assert_eq!(left_ms(None, Some(b"1500u")), Some(2));
        assert_eq!(left_ms(None, Some(b"1H")), Some(3_600_000));
        for odd in [&b""[..], b"-1", b"1.5", b"123456789", b"S", b"1x"] {
            assert_eq!(left_ms(Some(odd), Some(odd)), None, "{odd:?}");
        }
    }
}
