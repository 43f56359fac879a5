//! What a connection between a host and a Central says of itself before anything else: a PROXY protocol header, version 2,
//! whose family is UNSPEC and which has our own TLVs (types 0xE0 to 0xEF are for applications).
//!
//! Whoever accepts it answers with one byte, [`ACCEPTED`]; anything else (the beginning of an HTTP answer, the end) is a no.

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_AND_PROXY: u8 = 0x21;
const UNSPEC: u8 = 0;
/// Bytes before the TLVs.
pub const FIXED: usize = 16;
/// The longest that is read.
pub const MOST: usize = 512;
/// The answer of whoever accepts.
pub const ACCEPTED: u8 = 0x06;

const ROLE: u8 = 0xE0;
const SERVICE: u8 = 0xE1;
const INSTANCE: u8 = 0xE2;
const REVISION: u8 = 0xE3;
const HOPS: u8 = 0xE4;
const DRAW: u8 = 0xE5;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The link on which tokens are granted.
    Control,
    /// Calls of a host's app.
    Outbound,
    /// Calls of an instance, by way of a Central.
    Inbound,
    /// From a Central to the app of an instance.
    PassThrough,
}

impl Role {
    const ALL: [(Role, u8); 4] =
        [(Role::Control, b'c'), (Role::Outbound, b'o'), (Role::Inbound, b'i'), (Role::PassThrough, b'p')];
}

/// The header.
#[derive(Clone, Debug, PartialEq)]
pub struct Preface {
    #[allow(missing_docs)]
    pub role: Role,
    /// Whose policy holds: the caller's own, or that of the instance that is called.
    pub service: String,
    /// The instance that speaks, or that is called.
    pub instance: String,
    /// The revision of its policy; 0 where it does not matter.
    pub revision: u64,
    /// Centrals that the requests have come through before.
    pub hops: u8,
    /// Where the connection stands in the order of leaving, 0…1.
    pub draw: f64,
}

impl Preface {
    /// Of a connection to an instance, that has come through so many Centrals.
    #[must_use]
    pub fn to(role: Role, service: &str, instance: &str, hops: u8) -> Preface {
        let (service, instance) = (service.to_string(), instance.to_string());
        Preface { role, service, instance, revision: 0, hops, draw: 0.0 }
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let role = Role::ALL.iter().find(|(role, _)| *role == self.role).map_or(0, |(_, byte)| *byte);
        let draw = (self.draw.clamp(0.0, 1.0) * f64::from(u16::MAX)) as u16;
        let mut tlvs = Vec::with_capacity(128);
        for (kind, value) in [
            (ROLE, [role].as_slice()),
            (SERVICE, self.service.as_bytes()),
            (INSTANCE, self.instance.as_bytes()),
            (REVISION, &self.revision.to_be_bytes()),
            (HOPS, &[self.hops]),
            (DRAW, &draw.to_be_bytes()),
        ] {
            let value = value.get(..value.len().min(128)).unwrap_or(value);
            tlvs.push(kind);
            tlvs.extend_from_slice(&(value.len() as u16).to_be_bytes());
            tlvs.extend_from_slice(value);
        }
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[VERSION_AND_PROXY, UNSPEC]);
        bytes.extend_from_slice(&(tlvs.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&tlvs);
        bytes
    }

    /// Reads one from the beginning of `bytes`: it and its length, or none while more has to come.
    ///
    /// # Errors
    /// One line saying what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Preface, usize)>, &'static str> {
        if !SIGNATURE.starts_with(bytes.get(..SIGNATURE.len()).unwrap_or(bytes)) {
            return Err("it does not begin with a PROXY protocol header");
        }
        let Some(fixed) = bytes.get(..FIXED) else {
            return Ok(None);
        };
        let [.., version, family, high, low] = *fixed else {
            return Err("its header is cut");
        };
        if (version, family) != (VERSION_AND_PROXY, UNSPEC) {
            return Err("it is another kind of PROXY protocol header");
        }
        let end = FIXED + usize::from(u16::from_be_bytes([high, low]));
        if end > MOST {
            return Err("its header is too long");
        }
        let Some(mut tlvs) = bytes.get(FIXED..end) else {
            return Ok(None);
        };
        let (mut role, mut revision, mut hops, mut draw) = (None, 0, 0, 0.0);
        let (mut service, mut instance) = (String::new(), String::new());
        while let [kind, high, low, rest @ ..] = tlvs {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (value, after) = rest.split_at_checked(length).ok_or("a part of its header is cut")?;
            match (*kind, value) {
                (ROLE, [byte]) => role = Role::ALL.iter().find(|(_, known)| known == byte).map(|(role, _)| *role),
                (SERVICE, name) => service = named(name)?,
                (INSTANCE, name) => instance = named(name)?,
                (REVISION, value) => {
                    revision = u64::from_be_bytes(value.try_into().map_err(|_| "its revision is no number")?);
                }
                (HOPS, [count]) => hops = *count,
                (DRAW, [high, low]) => {
                    draw = f64::from(u16::from_be_bytes([*high, *low])) / f64::from(u16::MAX);
                }
                _ => {}
            }
            tlvs = after;
        }
        if !tlvs.is_empty() {
            return Err("a part of its header is cut");
        }
        let role = role.ok_or("it does not say what it is for")?;
        if service.is_empty() {
            return Err("it does not say whose it is");
        }
        Ok(Some((Preface { role, service, instance, revision, hops, draw }, end)))
    }
}

fn named(bytes: &[u8]) -> Result<String, &'static str> {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let text = std::str::from_utf8(bytes).ok().filter(|_| bytes.len() <= 128 && bytes.iter().all(is_plain));
    text.map(str::to_owned).ok_or("a name in its header is none")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn preface() -> Preface {
        Preface {
            role: Role::Outbound,
            service: "shop".into(),
            instance: "host-18080".into(),
            revision: 0x0102_0304_0506_0708,
            hops: 0,
            draw: 1.0,
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_follows_is_left() {
        let mut bytes = preface().encode();
        let length = bytes.len();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        assert_eq!(Preface::parse(&bytes), Ok(Some((preface(), length))));
    }

    #[test]
    fn a_part_of_it_waits_for_the_rest() {
        let bytes = preface().encode();
        for end in 0..bytes.len() {
            assert_eq!(Preface::parse(&bytes[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = preface().encode();
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        for (bytes, why) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no signature"),
            (changed(3, b'x'), "a signature with an error"),
            (changed(12, 0x11), "version 1"),
            (changed(12, 0x20), "LOCAL"),
            (changed(13, 0x11), "a family"),
            (changed(14, 9), "too long"),
            (changed(15, good[15] - 1), "cut within a part"),
            (changed(19, b'x'), "no role"),
            (Preface { service: String::new(), ..preface() }.encode(), "no service"),
            (Preface { service: "a b".into(), ..preface() }.encode(), "a name that is none"),
        ] {
            assert!(Preface::parse(&bytes).is_err(), "{why}");
        }
    }

    #[test]
    fn a_part_that_is_not_known_is_passed_over() {
        let mut bytes = preface().encode();
        bytes.extend_from_slice(&[0xEE, 0, 2, 7, 7]);
        bytes[15] += 5;
        assert_eq!(Preface::parse(&bytes).unwrap().unwrap().0, preface());
    }
}
