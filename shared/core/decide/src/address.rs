//! Where bytes can be sent.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// An address of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A name to be resolved when it is dialled, and a port.
    Name(String, u16),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `1.2.3.4:80`, `[::1]:80`, `name:80` or `unix:/path`.
    ///
    /// # Errors
    /// One line that says what was expected.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') && path.len() <= 107 {
                Ok(Address::Unix(path.into()))
            } else {
                Err(format!("{text:?}: a Unix socket needs an absolute path of at most 107 bytes"))
            };
        }
        if let Ok(ip) = text.parse() {
            return Ok(Address::Ip(ip));
        }
        let expected = || format!("{text:?}: expected host:port or unix:/path");
        let (name, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let port = port.parse().map_err(|_| expected())?;
        if name.is_empty() || name.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c))) {
            return Err(expected());
        }
        Ok(Address::Name(name.to_ascii_lowercase(), port))
    }
}

/// Addresses that no request may be passed through to: link-local, and the metadata services of clouds.
#[must_use]
pub fn is_forbidden(ip: IpAddr) -> bool {
    match unwrapped(ip.to_canonical()) {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.octets() == [100, 100, 100, 200],
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.is_unspecified() || v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

/// The IPv4 address that a translator (NAT64, RFC 6052) or an old stack (`::a.b.c.d`) makes of an IPv6 one.
fn unwrapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if !v6.is_unspecified() => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => {
                IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into())
            }
            _ => ip,
        },
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        assert_eq!(Address::parse("unix:/run/a.sock"), Ok(Address::Unix("/run/a.sock".into())));
        assert!(matches!(Address::parse("[::1]:80"), Ok(Address::Ip(_))));
        assert_eq!(Address::parse("Orders.local:80"), Ok(Address::Name("orders.local".into(), 80)));
        for bad in ["", "orders", "orders:", ":80", "orders:99999", "unix:x", "a b:1", "a@b:1"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_services_are_forbidden_in_every_notation() {
        for ip in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::6464:64c8",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "100.100.100.200",
        ] {
            assert!(ip.parse().is_ok_and(is_forbidden), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "64:ff9b::8.8.8.8", "2001:db8::1"] {
            assert!(ip.parse().is_ok_and(|ip| !is_forbidden(ip)), "{ip}");
        }
    }
}
