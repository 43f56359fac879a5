//! What is said to the pilot and what it says: `shared/pilot_stream.py` in Rust, as much of it as a load needs.

use super::msgpack::{Reader, Unreadable, put_map, put_text, put_unsigned};

/// A life that says that it is there.
pub struct Register<'a> {
    /// The number of the request.
    pub n: u64,
    /// Of the instance.
    pub service: &'a str,
    /// Of the instance.
    pub id: &'a str,
    /// Where it is.
    pub address: &'a str,
    /// Its life.
    pub epoch: u64,
    /// UP or another one.
    pub state: &'a str,
    /// How long it lives without a renewal.
    pub ttl_ms: u64,
    /// How often it has been changed: in its metadata.
    pub stamp: u64,
}

/// An instance as it is told.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Told<'a> {
    /// Its name within the service.
    pub id: &'a str,
    /// Where it is.
    pub address: &'a str,
    /// UP or another one.
    pub state: &'a str,
    /// Its life.
    pub epoch: u64,
    /// When it was written.
    pub revision: u64,
    /// How often it has been changed.
    pub stamp: u64,
    /// Its renewals are missed.
    pub suspect: bool,
}

/// A message of the pilot.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// All of a service, or what has changed of it (then `whole` is false).
    Service { name: &'a str, revision: u64, instances: Vec<Told<'a>>, gone: Vec<&'a str>, whole: bool },
    /// All that was to be told has been.
    Current { revision: u64 },
    /// To a request.
    Answer { n: u64, verdict: &'a str, error: &'a str },
    /// To a ping.
    Pong,
}

/// Adds a frame to `out`.
pub fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(start..start + 4) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
}

/// Adds `ping`.
pub fn put_ping(out: &mut Vec<u8>) {
    frame(out, |out| {
        put_map(out, 1);
        put_pair(out, "type", "ping");
    });
}

/// Adds `follow` of these services from these revisions.
pub fn put_follow(out: &mut Vec<u8>, services: &[(&str, u64)]) {
    frame(out, |out| {
        put_map(out, 2);
        put_pair(out, "type", "follow");
        put_text(out, "services");
        put_map(out, u16::try_from(services.len()).unwrap_or(u16::MAX));
        for (name, revision) in services {
            put_text(out, name);
            put_unsigned(out, *revision);
        }
    });
}

/// Adds `register`.
pub fn put_register(out: &mut Vec<u8>, asked: &Register<'_>) {
    frame(out, |out| {
        put_map(out, 9);
        put_pair(out, "type", "register");
        for (name, text) in
            [("service", asked.service), ("id", asked.id), ("address", asked.address), ("state", asked.state)]
        {
            put_pair(out, name, text);
        }
        for (name, number) in [("n", asked.n), ("ttl_ms", asked.ttl_ms), ("epoch", asked.epoch)] {
            put_text(out, name);
            put_unsigned(out, number);
        }
        put_text(out, "metadata");
        put_map(out, 4);
        put_pair(out, "stamp", &asked.stamp.to_string());
        put_pair(out, "weight", &(asked.stamp + 1).to_string()); // what xDS tells of it
        put_pair(out, "version", "v1");
        put_pair(out, "zone", "eu-west-1a");
    });
}

fn put_pair(out: &mut Vec<u8>, name: &str, text: &str) {
    put_text(out, name);
    put_text(out, text);
}

/// Reads a message of the pilot.
///
/// # Errors
/// It is none that is known.
pub fn said(body: &[u8]) -> Result<Said<'_>, Unreadable> {
    let mut reader = Reader::new(body);
    let (mut kind, mut name, mut verdict, mut error) = ("", "", "", "");
    let (mut revision, mut n) = (0, 0);
    let (mut instances, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..reader.map()? {
        match reader.text()? {
            "type" => kind = reader.text()?,
            "service" => name = reader.text()?,
            "verdict" => verdict = reader.text()?,
            "error" => error = reader.text()?,
            "revision" => revision = reader.unsigned()?,
            "n" => n = reader.unsigned()?,
            "instances" => instances = many(&mut reader, told)?,
            "gone" => gone = many(&mut reader, |reader| Ok(told(reader)?.id))?,
            _ => reader.skip()?,
        }
    }
    match kind {
        "told" | "changed" => Ok(Said::Service { name, revision, instances, gone, whole: kind == "told" }),
        "current" => Ok(Said::Current { revision }),
        "answer" => Ok(Said::Answer { n, verdict, error }),
        "pong" => Ok(Said::Pong),
        _ => Err(Unreadable("a message that is not known")),
    }
}

fn many<'a, T>(
    reader: &mut Reader<'a>,
    one: impl Fn(&mut Reader<'a>) -> Result<T, Unreadable>,
) -> Result<Vec<T>, Unreadable> {
    (0..reader.array()?).map(|_| one(reader)).collect()
}

fn told<'a>(reader: &mut Reader<'a>) -> Result<Told<'a>, Unreadable> {
    let mut found = Told::default();
    for _ in 0..reader.map()? {
        match reader.text()? {
            "id" => found.id = reader.text()?,
            "address" => found.address = reader.text()?,
            "state" => found.state = reader.text()?,
            "epoch" => found.epoch = reader.unsigned()?,
            "revision" => found.revision = reader.unsigned()?,
            "suspect" => {
                found.suspect = true; // left out where it is false
                reader.skip()?;
            }
            "metadata" => {
                for _ in 0..reader.map()? {
                    let key = reader.text()?;
                    let value = reader.text()?;
                    if key == "stamp" {
                        found.stamp = value.parse().map_err(|_| Unreadable("no stamp of ours"))?;
                    }
                }
            }
            _ => reader.skip()?,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Register, Said, Told, put_follow, put_ping, put_register, said};
    use crate::fleet::msgpack::Unreadable;

    #[test]
    fn frames_say_how_long_they_are() {
        let mut out = Vec::new();
        put_ping(&mut out);
        put_follow(&mut out, &[("s-1", 7)]);
        let (mut rest, mut count) = (out.as_slice(), 0);
        while let Some((prefix, body)) = rest.split_first_chunk::<4>() {
            rest = body.get(u32::from_be_bytes(*prefix) as usize..).unwrap_or(&[0]);
            count += 1;
        }
        assert_eq!((rest, count), (&[][..], 2));
    }

    #[test]
    fn an_instance_comes_back_as_it_was_registered() -> Result<(), Unreadable> {
        let asked = Register {
            n: 3,
            service: "s-1",
            id: "i-2",
            address: "10.0.0.1:1024",
            epoch: 5,
            state: "UP",
            ttl_ms: 10_000,
            stamp: 9,
        };
        let mut out = Vec::new();
        put_register(&mut out, &asked);
        // A register has all the fields of an instance, so that it reads as one.
        let mut told = vec![0x83, 0xa4];
        told.extend(b"type\xa7changed\xa7service\xa3s-1\xa9instances\x91");
        told.extend(out.get(4..).unwrap_or_default());
        let expected = Told { id: "i-2", address: "10.0.0.1:1024", state: "UP", epoch: 5, stamp: 9, ..Told::default() };
        let instances = vec![expected];
        assert_eq!(said(&told)?, Said::Service { name: "s-1", revision: 0, instances, gone: Vec::new(), whole: false });
        Ok(())
    }

    #[test]
    fn a_message_that_is_not_known_is_refused() {
        assert!(said(b"\x81\xa4type\xa3new").is_err());
    }
}
