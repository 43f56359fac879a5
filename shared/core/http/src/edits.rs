//! Changes of a head that a route or a header policy asks for.

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
        for (name, value) in self.written() {
            fields::write(out, name.as_bytes(), value.as_bytes());
        }
    }

    fn written(&self) -> impl Iterator<Item = &(Box<str>, Box<str>)> {
        self.set.iter().chain(&self.add)
    }
}

/// What changes one head: the edits of a route, of a header policy, or of both.
#[derive(Clone, Copy, Debug)]
pub enum Changes<'a> {
    /// One of them.
    One(&'a HeaderEdits),
    /// One after the other: the second sees what the first has made, and has the last word.
    Both(&'a HeaderEdits, &'a HeaderEdits),
}

impl<'a> Changes<'a> {
    /// `first`, then `last`; none if there is neither.
    #[must_use]
    #[inline]
    pub fn of(first: Option<&'a HeaderEdits>, last: Option<&'a HeaderEdits>) -> Option<Self> {
        match (first, last) {
            (Some(first), Some(last)) => Some(Changes::Both(first, last)),
            (one, other) => one.or(other).map(Changes::One),
        }
    }

    /// Whether a field of that name is left out.
    #[must_use]
    pub fn drops(&self, name: &str) -> bool {
        match self {
            Changes::One(edits) => edits.drops(name),
            Changes::Both(first, last) => first.drops(name) || last.drops(name),
        }
    }

    /// Appends what is set and added.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Changes::One(edits) => edits.write(out),
            Changes::Both(first, last) => {
                for (name, value) in first.written().filter(|(name, _)| !last.drops(name)) {
                    fields::write(out, name.as_bytes(), value.as_bytes());
                }
                last.write(out);
            }
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

    #[test]
    fn the_last_word_is_had_about_what_was_written_before() {
        let edits = |set: &[(&'static str, &'static str)], remove: &'static [&'static str]| {
            HeaderEdits::try_new(set.iter().copied(), std::iter::empty(), remove.iter().copied()).unwrap()
        };
        let (route, policy) =
            (edits(&[("x-a", "1"), ("x-b", "1"), ("x-c", "1")], &[]), edits(&[("X-A", "2")], &["x-b"]));
        let both = Changes::of(Some(&route), Some(&policy)).unwrap();
        assert!(both.drops("x-a") && both.drops("x-c") && !both.drops("x-d"));
        let mut out = Vec::new();
        both.write(&mut out);
        assert_eq!(out, b"x-c: 1\r\nX-A: 2\r\n");
        assert!(matches!(Changes::of(None, Some(&policy)), Some(Changes::One(one)) if *one == policy));
        assert!(Changes::of(None, None).is_none());
    }
}
