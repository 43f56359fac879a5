//! Changes of a head that a route asks for.

use crate::fields::{self, Name};

/// Fields to remove, to set (in place of those of that name), and to add; checked when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    set: Vec<(Box<str>, Box<str>)>,
    add: Vec<(Box<str>, Box<str>)>,
    remove: Vec<Box<str>>,
}

impl HeaderEdits {
    /// Edits from names and values.
    ///
    /// # Errors
    /// One line for a name that frames messages, routes them or is ours, and for what is no field.
    pub fn try_new<'a>(
        set: impl Iterator<Item = (&'a str, &'a str)>,
        add: impl Iterator<Item = (&'a str, &'a str)>,
        remove: impl Iterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let field =
            |(name, value): (&str, &str)| Ok::<_, String>((check_name(name)?.into(), check_value(value)?.into()));
        Ok(HeaderEdits {
            set: set.map(field).collect::<Result<_, _>>()?,
            add: add.map(field).collect::<Result<_, _>>()?,
            remove: remove.map(|name| check_name(name).map(Into::into)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether a field of that name is left out.
    #[must_use]
    pub fn drops(&self, name: &str) -> bool {
        self.set.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
            || self.remove.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Appends what is set and added.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in self.set.iter().chain(&self.add) {
            fields::write(out, name.as_bytes(), value.as_bytes());
        }
    }
}

fn check_name(name: &str) -> Result<&str, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("{name:?} is no field name"));
    }
    match fields::name(name) {
        Name::Other | Name::Forwarding | Name::ForwardingAlias => Ok(name),
        Name::Host => Err("rewrite the host instead of editing the field".into()),
        _ => Err(format!("the field {name:?} frames messages or is written by pannier: it cannot be edited")),
    }
}

fn check_value(value: &str) -> Result<&str, String> {
    if value.bytes().all(|b| (b' '..=b'~').contains(&b)) && value.trim() == value {
        Ok(value)
    } else {
        Err(format!("{value:?} is no field value"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_or_identifies_cannot_be_edited() {
        for bad in
            ["content-length", "traceparent", "Transfer-Encoding", "connection", "host", "x-pannier-reason", "a b", ""]
        {
            let none = std::iter::empty();
            assert!(HeaderEdits::try_new([(bad, "1")].into_iter(), none, std::iter::empty()).is_err(), "{bad}");
        }
        let smuggled = [("x-a", "1\r\nx-b: 2")];
        assert!(HeaderEdits::try_new(smuggled.into_iter(), std::iter::empty(), std::iter::empty()).is_err());
    }

    #[test]
    fn set_replaces_and_add_does_not() {
        let edits =
            HeaderEdits::try_new([("x-a", "1")].into_iter(), [("x-b", "2")].into_iter(), ["x-c"].into_iter()).unwrap();
        assert!(edits.drops("X-A") && !edits.drops("x-b") && edits.drops("x-c"));
        let mut out = Vec::new();
        edits.write(&mut out);
        assert_eq!(out, b"x-a: 1\r\nx-b: 2\r\n");
    }
}
