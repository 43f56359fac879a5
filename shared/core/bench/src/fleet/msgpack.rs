//! As much of msgpack as the pilot's stream needs: maps, arrays, texts, whole numbers, booleans.

/// Bytes that are no msgpack, or not what was expected there.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(pub &'static str);

/// Reads values one after the other.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Unreadable("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        self.take(1)?.first().copied().ok_or(Unreadable("it ends too early"))
    }

    fn number(&mut self, width: usize) -> Result<u64, Unreadable> {
        Ok(self.take(width)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn length(&mut self, width: usize) -> Result<usize, Unreadable> {
        usize::try_from(self.number(width)?).map_err(|_| Unreadable("it is too long"))
    }

    /// How many pairs the map has that begins here.
    pub fn map(&mut self) -> Result<usize, Unreadable> {
        match self.byte()? {
            byte @ 0x80..=0x8f => Ok(usize::from(byte & 0x0f)),
            0xde => self.length(2),
            0xdf => self.length(4),
            _ => Err(Unreadable("no map")),
        }
    }

    /// How many values the array has that begins here.
    pub fn array(&mut self) -> Result<usize, Unreadable> {
        match self.byte()? {
            byte @ 0x90..=0x9f => Ok(usize::from(byte & 0x0f)),
            0xdc => self.length(2),
            0xdd => self.length(4),
            _ => Err(Unreadable("no array")),
        }
    }

    /// A text.
    pub fn text(&mut self) -> Result<&'a str, Unreadable> {
        let length = match self.byte()? {
            byte @ 0xa0..=0xbf => usize::from(byte & 0x1f),
            0xd9 => self.length(1)?,
            0xda => self.length(2)?,
            0xdb => self.length(4)?,
            _ => return Err(Unreadable("no text")),
        };
        std::str::from_utf8(self.take(length)?).map_err(|_| Unreadable("no UTF-8"))
    }

    /// A whole number, not negative.
    pub fn unsigned(&mut self) -> Result<u64, Unreadable> {
        match self.byte()? {
            byte @ 0x00..=0x7f => Ok(u64::from(byte)),
            0xcc => self.number(1),
            0xcd => self.number(2),
            0xce => self.number(4),
            0xcf => self.number(8),
            _ => Err(Unreadable("no number")),
        }
    }

    /// Passes a value over, whatever it is.
    pub fn skip(&mut self) -> Result<(), Unreadable> {
        let mut left = 1_usize;
        while left > 0 {
            left -= 1;
            let (bytes, values) = match self.byte()? {
                0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
                byte @ 0x80..=0x8f => (0, 2 * usize::from(byte & 0x0f)),
                byte @ 0x90..=0x9f => (0, usize::from(byte & 0x0f)),
                byte @ 0xa0..=0xbf => (usize::from(byte & 0x1f), 0),
                0xcc | 0xd0 => (1, 0),
                0xcd | 0xd1 => (2, 0),
                0xca | 0xce | 0xd2 => (4, 0),
                0xcb | 0xcf | 0xd3 => (8, 0),
                0xc4 | 0xd9 => (self.length(1)?, 0),
                0xc5 | 0xda => (self.length(2)?, 0),
                0xc6 | 0xdb => (self.length(4)?, 0),
                0xdc => (0, self.length(2)?),
                0xdd => (0, self.length(4)?),
                0xde => (0, 2 * self.length(2)?),
                0xdf => (0, self.length(4)?.saturating_mul(2)),
                _ => return Err(Unreadable("an extension")),
            };
            self.take(bytes)?;
            left = left.saturating_add(values);
        }
        Ok(())
    }
}

/// Begins a map of so many pairs.
pub fn put_map(out: &mut Vec<u8>, pairs: u16) {
    out.push(0xde);
    out.extend(pairs.to_be_bytes());
}

/// Adds a text of at most 65 535 bytes.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length @ 0..32) => out.push(0xa0 | length),
        Ok(length) => out.extend([0xd9, length]),
        Err(_) => {
            out.push(0xda);
            out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend(text.bytes().take(usize::from(u16::MAX)));
}

/// Adds a number.
pub fn put_unsigned(out: &mut Vec<u8>, number: u64) {
    if let Ok(small @ 0..0x80) = u8::try_from(number) {
        out.push(small);
    } else {
        out.push(0xcf);
        out.extend(number.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Unreadable, put_map, put_text, put_unsigned};

    #[test]
    fn what_is_written_is_read_and_passed_over() -> Result<(), Unreadable> {
        let long = "x".repeat(300);
        let mut out = Vec::new();
        put_map(&mut out, 3);
        for (key, value) in [("a", 1), ("b", 127), (long.as_str(), u64::MAX)] {
            put_text(&mut out, key);
            put_unsigned(&mut out, value);
        }
        let mut reader = Reader::new(&out);
        assert_eq!(reader.map()?, 3);
        assert_eq!((reader.text()?, reader.unsigned()?), ("a", 1));
        assert_eq!((reader.text()?, reader.unsigned()?), ("b", 127));
        assert_eq!((reader.text()?, reader.unsigned()?), (long.as_str(), u64::MAX));
        assert_eq!(reader.skip(), Err(Unreadable("it ends too early")));
        let mut reader = Reader::new(&out);
        reader.skip()?;
        assert!(reader.rest.is_empty());
        Ok(())
    }

    #[test]
    fn another_type_and_an_early_end_are_refused() {
        assert_eq!(Reader::new(&[0xc0]).map(), Err(Unreadable("no map")));
        assert_eq!(Reader::new(&[0xa5, b'a']).text(), Err(Unreadable("it ends too early")));
        assert_eq!(Reader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff]).skip(), Err(Unreadable("it ends too early")));
    }
}
