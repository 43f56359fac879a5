//! `host[:port]`, as `Host` and absolute targets carry it.

/// An authority taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// A name, an IPv4 address, or an IPv6 address with its brackets.
    pub host: &'a str,
    /// None = the scheme's.
    pub port: Option<u16>,
}

/// Takes an authority apart; `None` for anything else (user info, spaces, an empty host, a port out of range).
#[must_use]
pub fn parse(text: &str) -> Option<Authority<'_>> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']')?;
            inside.parse::<std::net::Ipv6Addr>().ok()?;
            (text.get(..inside.len() + 2)?, after)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (host, port) = text.split_at_checked(end)?;
            if host.is_empty() || host.len() > 253 || !host.bytes().all(is_host_byte) {
                return None;
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    Some(Authority { host, port })
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_taken_apart_or_refused() {
        assert_eq!(parse("orders"), Some(Authority { host: "orders", port: None }));
        assert_eq!(parse("a.b:80"), Some(Authority { host: "a.b", port: Some(80) }));
        assert_eq!(parse("[::1]:8"), Some(Authority { host: "[::1]", port: Some(8) }));
        for bad in ["", ":80", "a:b", "a:99999", "u@h", "a b", "[::1", "[x]", "[::1]x", "a/b", "a:80:80", "a\u{e9}"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
