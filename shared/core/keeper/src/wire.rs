//! Fields of a message: little-endian integers, text with a u16 length, bytes with a u32 length.
//!
//! Every reader checks that what it wants is there, nothing is allocated by a count that a message only claims.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Why a message could not be read; the text goes back to whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Takes fields off the front of one message.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `body` from its first byte.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Malformed("the message ends inside a field"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed("the message ends inside a field"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// A flag: 0 or 1, nothing else.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    /// UTF-8 text.
    pub fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.short()?.to_vec()).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// Text for the operating system (argument, environment, path), which need not be UTF-8.
    pub fn os_text(&mut self) -> Result<OsString, Malformed> {
        Ok(OsString::from_vec(self.short()?.to_vec()))
    }

    /// Bytes with a u32 length.
    pub fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = self.u32()?;
        let length = usize::try_from(length).map_err(|_| Malformed("a length beyond the address space"))?;
        Ok(self.take(length)?.to_vec())
    }

    /// A list whose items `item` reads.
    pub fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = self.u16()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Refuses what is left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes after the last field")) }
    }

    fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// Appends fields to a message.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn i32(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn i64(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Text, cut at the last whole character that fits a u16 length.
    pub fn text(self, value: &str) -> Self {
        let end = (0..=value.len().min(usize::from(u16::MAX))).rev().find(|end| value.is_char_boundary(*end));
        let value = value.get(..end.unwrap_or(0)).unwrap_or_default();
        let mut next = self.u16(u16::try_from(value.len()).unwrap_or(0));
        next.0.extend_from_slice(value.as_bytes());
        next
    }

    /// Bytes with a u32 length.
    pub fn bytes(self, value: &[u8]) -> Self {
        let mut next = self.u32(u32::try_from(value.len()).unwrap_or(0));
        next.0.extend_from_slice(value);
        next
    }

    /// A list whose items `item` writes; never more than a u16 counts.
    pub fn list<T>(self, items: &[T], item: impl Fn(Self, &T) -> Self) -> Self {
        let count = u16::try_from(items.len()).unwrap_or(u16::MAX);
        items.iter().take(usize::from(count)).fold(self.u16(count), item)
    }

    /// The message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
