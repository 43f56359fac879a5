//! Which session a request belongs to, by a cookie or a header (GEP-1619).

use pannier_http::fields::Field;

use crate::hashing::hash;
use crate::hex;
use crate::schema::routes::Affinity;

/// The session of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Balances it, and draws its share of a split: a session stays with its subset.
    pub hash: u64,
    /// The cookie that the caller is given, if it has none.
    pub new_cookie: Option<[u8; 16]>,
}

/// The session of a request with these fields; none if it names none and gets none. `draw` follows from the request's id.
pub fn session(affinity: &Affinity, fields: &[Field<'_>], draw: impl FnOnce() -> u64) -> Option<Session> {
    let first = |name: &str| fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
    let known = |value: &[u8]| Session { hash: hash(value), new_cookie: None };
    if let Some(header) = &affinity.header {
        return first(header).map(known);
    }
    let name = affinity.cookie.as_deref()?;
    if let Some(value) = cookie(fields, name) {
        return Some(known(value));
    }
    let value = hex::digits(draw());
    Some(Session { hash: hash(&value), new_cookie: Some(value) })
}

fn cookie<'b>(fields: &[Field<'b>], name: &str) -> Option<&'b [u8]> {
    let cookies = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("cookie"));
    cookies.flat_map(|field| field.value.split(|b| *b == b';')).find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = pair.split_at_checked(at)?;
        (key.trim_ascii() == name.as_bytes()).then(|| value.get(1..).unwrap_or(&[]).trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_its_cookie_and_begun_without() {
        let affinity = Affinity { cookie: Some("sid".into()), header: None, ttl_s: None };
        let field = |value| Field { name: "Cookie", value };
        let known = session(&affinity, &[field(b"a=1; sid=x=y")], || 0);
        assert_eq!(known, Some(Session { hash: hash(b"x=y"), new_cookie: None }));
        let begun = session(&affinity, &[field(b"si=1")], || 7);
        assert_eq!(begun, Some(Session { hash: hash(b"0000000000000007"), new_cookie: Some(*b"0000000000000007") }));
        let by_header = Affinity { cookie: None, header: Some("x-user".into()), ttl_s: None };
        assert_eq!(session(&by_header, &[field(b"sid=1")], || 0), None);
    }
}
