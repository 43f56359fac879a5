//! Netlink's messages as bytes: a kind, a fixed body, then attributes, which nest.
//!
//! An attribute is its length and type (native order), then its value, filled up to four bytes. Numbers in
//! nf_tables' attributes are in network order, those of routing in native order.

/// An attribute whose value is attributes.
const NESTED: u16 = 0x8000;

/// One message without its header, which gets its number only when it is sent.
pub struct Message {
    /// What it asks for, for errors: "the table", "a rule".
    pub what: &'static str,
    /// The kernel's number of it.
    pub kind: u16,
    /// Besides `NLM_F_REQUEST`.
    pub flags: u16,
    /// The fixed part and the attributes.
    pub body: Vec<u8>,
}

/// Attributes that are being written, after whatever they were begun with.
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// After the fixed part of a message; its length is a multiple of four.
    pub fn after(fixed: &[u8]) -> Attributes {
        Attributes(fixed.to_vec())
    }

    /// Any bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Attributes {
        // 4 for the length itself and the type. No caller has a value that is longer than a name or an address.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number of nf_tables.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text, which ends with a zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Attributes {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// What `write` writes, as one attribute.
    pub fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Attributes)) -> &mut Attributes {
        let mut inner = Attributes(Vec::new());
        write(&mut inner);
        self.bytes(kind | NESTED, &inner.0)
    }

    /// All of it.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The attributes in some bytes, as far as they are whole: type without flags, and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The number at an offset, in native order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*found))
}

/// The number at an offset, in native order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*found))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_are_filled_up_and_lengths_are_not() {
        let mut written = Attributes::after(&[2, 0, 0, 0]);
        written.text(1, "abcd").number(2, 7).nested(4, |inner| {
            inner.bytes(1, &[6]);
        });
        let expected = [
            [2, 0, 0, 0].as_slice(),
            &[9, 0, 1, 0, b'a', b'b', b'c', b'd', 0, 0, 0, 0],
            &[8, 0, 2, 0, 0, 0, 0, 7],
            &[12, 0, 4, 0x80, 5, 0, 1, 0, 6, 0, 0, 0],
        ];
        assert_eq!(written.finish(), expected.concat());
    }

    #[test]
    fn what_was_written_is_read() {
        let mut written = Attributes::after(&[]);
        written.bytes(3, &[1, 2, 3]).number(4, 9).nested(5, |inner| {
            inner.bytes(1, &[6]);
        });
        let bytes = written.finish();
        let read: Vec<_> = attributes(&bytes).collect();
        let inner: &[u8] = &[5, 0, 1, 0, 6, 0, 0, 0];
        assert_eq!(read, [(3, [1, 2, 3].as_slice()), (4, &[0, 0, 0, 9]), (5, inner)]);
    }

    #[test]
    fn attributes_that_are_cut_or_lie_end_the_reading() {
        let mut written = Attributes::after(&[]);
        written.number(4, 9);
        let bytes = written.finish();
        for end in 0..bytes.len() {
            assert_eq!(attributes(bytes.get(..end).unwrap()).count(), 0, "cut at {end}");
        }
        assert_eq!(attributes(&[0, 0, 1, 0, 0, 0, 0, 0]).count(), 0, "a length below the header's");
        assert_eq!(attributes(&[255, 255, 1, 0, 0, 0, 0, 0]).count(), 0, "a length beyond the end");
    }
}
