//! Networks, and whether an address is in one of them.

use std::net::IpAddr;

/// Networks in which a connection may be unencrypted; loopback always is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// Reads `10.77.0.0/24`, `fd00::/8`, `10.0.0.1`.
    ///
    /// # Errors
    /// One line naming the one that is none.
    pub fn parse(texts: &[String]) -> Result<Networks, String> {
        let one = |text: &String| {
            let (address, length) = text.split_once('/').map_or((text.as_str(), None), |(a, l)| (a, Some(l)));
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = length.map_or(Some(most), |length| length.parse().ok()).filter(|length| *length <= most)?;
            Some((address, length))
        };
        let all = texts.iter().map(|text| one(text).ok_or_else(|| format!("plain: {text:?} is no network")));
        all.collect::<Result<_, _>>().map(Networks)
    }

    /// Whether `ip` is in one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.0.iter().any(|(network, length)| same(*network, ip, *length))
    }
}

/// Whether the first `length` bits of two addresses are the same.
fn same(a: IpAddr, b: IpAddr, length: u8) -> bool {
    let (a, b, bits) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let shift = bits - u32::from(length);
    a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Result<Networks, String> {
        Networks::parse(&texts.iter().map(|text| (*text).to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn an_address_is_in_a_network_or_not() {
        let some = networks(&["10.77.0.0/24", "fd00::/8", "192.0.2.1", "0.0.0.0/32"]).unwrap();
        for inside in ["10.77.0.9", "::ffff:10.77.0.9", "fd12::1", "192.0.2.1", "127.0.0.9", "::1", "0.0.0.0"] {
            assert!(some.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.77.1.9", "fe80::1", "192.0.2.2", "8.8.8.8"] {
            assert!(!some.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(networks(&["0.0.0.0/0"]).unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!(networks(&["::/0"]).unwrap().contains("fe80::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_said() {
        for bad in ["10.0.0.0/33", "10.0.0/8", "host", "", "fd00::/129", "10.0.0.0/"] {
            assert!(networks(&[bad]).unwrap_err().contains("is no network"), "{bad}");
        }
    }
}
