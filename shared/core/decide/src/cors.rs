//! Cross-origin requests (Fetch standard): preflights are answered, answers to allowed origins are marked. A request of an
//! origin that is not allowed goes on unmarked: it is the browser that refuses.

use std::fmt::Write;

use crate::schema::routes::Cors;

/// The fields for an answer to `origin`, each line ended; none if it is not allowed.
#[must_use]
pub fn marks(cors: &Cors, origin: &[u8]) -> Option<String> {
    let any = cors.origins.iter().any(|known| known == "*");
    // What is written is ours, never the caller's bytes.
    let allowed = cors.origins.iter().find(|known| known.as_bytes() == origin);
    let shown = match allowed {
        Some(known) => known,
        None if any => "*",
        None => return None,
    };
    let mut fields = format!("access-control-allow-origin: {shown}\r\n");
    if shown != "*" {
        fields.push_str("vary: origin\r\n");
    }
    if cors.credentials {
        fields.push_str("access-control-allow-credentials: true\r\n");
    }
    if !cors.expose.is_empty() {
        let _ = write!(fields, "access-control-expose-headers: {}\r\n", cors.expose.join(", "));
    }
    Some(fields)
}

/// The fields of the answer to a preflight of `origin`; none if it is not allowed.
#[must_use]
pub fn preflight(cors: &Cors, origin: &[u8]) -> Option<String> {
    let mut fields = marks(cors, origin)?;
    let _ = write!(fields, "access-control-allow-methods: {}\r\n", cors.methods.join(", "));
    if !cors.headers.is_empty() {
        let _ = write!(fields, "access-control-allow-headers: {}\r\n", cors.headers.join(", "));
    }
    if cors.max_age_s > 0 {
        let _ = write!(fields, "access-control-max-age: {}\r\n", cors.max_age_s);
    }
    Some(fields)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_origins_are_marked() {
        let cors = Cors {
            origins: vec!["https://shop.example".into()],
            methods: vec!["GET".into(), "PUT".into()],
            headers: vec!["x-a".into()],
            credentials: true,
            max_age_s: 60,
            ..Cors::default()
        };
        let fields = preflight(&cors, b"https://shop.example").unwrap();
        for line in ["allow-origin: https://shop.example", "allow-methods: GET, PUT", "max-age: 60", "vary: origin"] {
            assert!(fields.contains(line), "{fields}");
        }
        assert_eq!(marks(&cors, b"https://evil.example"), None);
        let any = Cors { origins: vec!["*".into()], ..Cors::default() };
        assert_eq!(marks(&any, b"https://x\r\nevil: 1").unwrap(), "access-control-allow-origin: *\r\n");
    }
}
