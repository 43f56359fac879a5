//! As much of protobuf as xDS needs here: fields one after the other.

use super::msgpack::Unreadable;

/// What a field holds; other kinds are passed over.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Its bytes; none if it is a number.
    pub const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => &[],
        }
    }

    /// Its number; 0 if it is none.
    pub const fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bytes(_) => 0,
        }
    }

    /// Its text; empty if it is none.
    pub fn text(self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

/// Gives each field of a message to `each`.
///
/// # Errors
/// It is no message, or `each` fails.
pub fn fields<'a>(
    mut message: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)?),
            1 => Value::Bytes(take(&mut message, 8)?),
            2 => {
                let length = varint(&mut message)?;
                Value::Bytes(take(&mut message, usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Value::Bytes(take(&mut message, 4)?),
            _ => return Err(Unreadable("no field")),
        };
        each(tag >> 3, value)?;
    }
    Ok(())
}

/// The last field of that number.
///
/// # Errors
/// It is no message.
pub fn field(message: &[u8], number: u64) -> Result<Value<'_>, Unreadable> {
    let mut found = Value::Bytes(&[]);
    fields(message, |tag, value| {
        if tag == number {
            found = value;
        }
        Ok(())
    })?;
    Ok(found)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Unreadable> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Unreadable("it ends too early"))?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut sum = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?.first().copied().unwrap_or_default();
        sum |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(sum);
        }
    }
    Err(Unreadable("a number without an end"))
}

/// Adds a field of bytes.
pub fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut left = bytes.len();
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::{Value, field, fields, put_bytes};
    use crate::fleet::msgpack::Unreadable;

    #[test]
    fn fields_are_read_as_they_were_written() -> Result<(), Unreadable> {
        let long = [7; 300];
        let mut out = Vec::new();
        put_bytes(&mut out, 1, b"a");
        put_bytes(&mut out, 2, &long);
        out.extend([3 << 3, 0xac, 0x02]);
        let mut found = Vec::new();
        fields(&out, |number, value| {
            found.push((number, value));
            Ok(())
        })?;
        assert_eq!(found, [(1, Value::Bytes(b"a")), (2, Value::Bytes(&long)), (3, Value::Number(300))]);
        assert_eq!((field(&out, 3)?.number(), field(&out, 1)?.text(), field(&out, 9)?.bytes()), (300, "a", &[][..]));
        assert!(fields(&[0x0a, 5, 1], |_, _| Ok(())).is_err());
        Ok(())
    }
}
