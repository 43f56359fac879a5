//! What a host and a Central say to each other on the link: frames of a length (4 bytes, little endian) and a msgpack map.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

/// The longest frame with a policy; a table has at most 16 MiB, and most have some kilobytes.
pub const MOST_POLICY: usize = 20 << 20;
/// The longest of all others.
pub const MOST: usize = 16 << 10;

/// A host to a Central.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs)]
pub enum Said {
    /// First of all.
    Hello(Hello),
    Policy(Policy),
    Want(Want),
}

/// Who it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Hello {
    /// The service, and which instance of it.
    pub service: String,
    #[allow(missing_docs)]
    pub instance: String,
    /// Where its app is reached.
    pub passthrough: Option<String>,
    /// Its kernel may send connections that have no preface.
    pub redirects: bool,
}

/// Its tables, as they are in its memory.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Policy {
    pub revision: u64,
    /// Services that it has endpoints of.
    pub services: Vec<String>,
    #[serde(with = "bytes")]
    pub base: Vec<u8>,
    #[serde(with = "bytes")]
    pub routes: Vec<u8>,
    #[serde(with = "bytes")]
    pub limits: Vec<u8>,
    #[serde(with = "bytes")]
    pub headers: Vec<u8>,
}

/// What it asks for, four times a second.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Want {
    #[allow(missing_docs)]
    pub sequence: u64,
    /// Requests a second that it would send if it may.
    pub rate: f64,
    /// Its weight, 0…100.
    pub weight: f64,
    /// The revision of its policy.
    pub revision: u64,
    /// Its callers are to come by way of the Central, too.
    pub inbound: bool,
    /// Its own calls leave.
    pub outbound: bool,
    /// Where its kernel lets the Central in to its app, without a preface.
    pub direct: Option<SocketAddrV4>,
}

/// A Central to a host: the answer to what it asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Grant {
    /// That of the question.
    pub sequence: u64,
    /// Requests a second that it may send.
    pub rate: f64,
    /// For so long, milliseconds.
    pub lease_ms: u64,
    /// Requests that the Central has served for this host, since the link began.
    pub served: u64,
    /// It has the policy of that revision.
    pub knows_policy: bool,
    /// It takes connections of this host's kernel.
    pub takes_redirect: bool,
    /// Why nothing may be sent; empty: something may.
    pub trouble: String,
}

/// Appends a frame.
pub fn write<T: Serialize>(out: &mut Vec<u8>, message: &T) {
    let from = out.len();
    out.extend_from_slice(&[0; 4]);
    if rmp_serde::encode::write_named(out, message).is_err() {
        out.truncate(from);
        return;
    }
    let length = u32::try_from(out.len() - from - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(from..from + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// Takes a frame from the beginning of `input`, if a whole one is there.
///
/// # Errors
/// One line for a frame that is too long, or is none.
pub fn read<T: for<'de> Deserialize<'de>>(input: &mut Vec<u8>, most: usize) -> Result<Option<T>, String> {
    let Some(head) = input.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length > most {
        return Err(format!("a frame of {length} bytes"));
    }
    let Some(body) = input.get(4..4 + length) else {
        return Ok(None);
    };
    let message = rmp_serde::from_slice(body).map_err(|error| error.to_string())?;
    input.drain(..4 + length);
    Ok(Some(message))
}

/// As msgpack's own bytes, not as a list of numbers.
mod bytes {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_and_one_at_a_time() {
        let policy = Said::Policy(Policy { revision: 7, base: vec![0xff; 300], ..Policy::default() });
        let want = Said::Want(Want { rate: 12.5, ..Want::default() });
        let mut bytes = Vec::new();
        write(&mut bytes, &policy);
        write(&mut bytes, &want);
        let mut input = Vec::new();
        let mut heard: Vec<Said> = Vec::new();
        for byte in bytes {
            input.push(byte);
            heard.extend(read(&mut input, MOST_POLICY).unwrap());
        }
        assert_eq!(heard, [policy, want]);
        assert!(input.is_empty());
    }

    #[test]
    fn a_frame_that_is_too_long_or_none_is_refused() {
        assert!(read::<Said>(&mut vec![0xff, 0xff, 0xff, 0x7f], MOST_POLICY).is_err());
        assert!(read::<Said>(&mut vec![1, 0, 0, 0, 0xc1], MOST).is_err());
    }
}
