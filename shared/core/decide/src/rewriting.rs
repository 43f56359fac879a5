//! What replaces a request's path, and where a redirect leads.

use std::fmt::Write;

use pannier_http::authority;

use crate::matching::after_prefix;
use crate::schema::routes::{Redirect, Rewrite};

/// The target for the next hop; none if it stays as it is. The query stays. `matched` is the prefix that the route matched.
#[must_use]
pub fn rewritten(rewrite: &Rewrite, matched: Option<&str>, target: &str) -> Option<String> {
    replaced(rewrite.path.as_deref(), rewrite.prefix.as_deref(), matched, target)
}

fn replaced(path: Option<&str>, prefix: Option<&str>, matched: Option<&str>, target: &str) -> Option<String> {
    let query = target.find('?').and_then(|at| target.get(at..)).unwrap_or("");
    if let Some(path) = path {
        return Some(format!("{path}{query}"));
    }
    let prefix = prefix?;
    let rest = after_prefix(target, matched?)?;
    let whole = format!("{}{rest}", prefix.trim_end_matches('/'));
    Some(if whole.starts_with('/') { whole } else { format!("/{whole}") })
}

/// The `Location` of a redirect, of what was asked for at `host` and `port`.
#[must_use]
pub fn location(redirect: &Redirect, matched: Option<&str>, host: &str, port: u16, target: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let usual = if scheme == "https" { 443 } else { 80 };
    // Another scheme has another usual port; the one that was asked for means nothing there.
    let named = redirect.host.as_deref().and_then(authority::parse);
    let is_elsewhere = redirect.scheme.is_some() || named.is_some();
    let implied = named.and_then(|named| named.port).unwrap_or(if is_elsewhere { usual } else { port });
    let port = redirect.port.unwrap_or(implied);
    let mut location = format!("{scheme}://{}", named.map_or(host, |named| named.host));
    if port != usual {
        let _ = write!(location, ":{port}");
    }
    let path = replaced(redirect.path.as_deref(), redirect.prefix.as_deref(), matched, target);
    location.push_str(path.as_deref().unwrap_or(if target.starts_with('/') { target } else { "/" }));
    location
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_and_the_query_stays() {
        for (matched, prefix, target, expected) in [
            ("/v1", "/v2", "/v1/orders?x=1", "/v2/orders?x=1"),
            ("/v1", "/", "/v1", "/"),
            ("/v1", "/", "/v1?x", "/?x"),
            ("/v1", "/", "/v1/a", "/a"),
            ("", "/api", "/a", "/api/a"),
        ] {
            let rewrite = Rewrite { prefix: Some(prefix.into()), ..Rewrite::default() };
            assert_eq!(rewritten(&rewrite, Some(matched), target).as_deref(), Some(expected));
            assert_eq!(rewritten(&rewrite, None, target), None, "nothing was matched by its prefix");
        }
        let whole = Rewrite { path: Some("/x".into()), ..Rewrite::default() };
        assert_eq!(rewritten(&whole, None, "/a?b=c").as_deref(), Some("/x?b=c"));
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let plain = Redirect { status: 302, scheme: None, host: None, port: None, path: None, prefix: None };
        let at = |redirect: &Redirect| location(redirect, Some("/old"), "shop", 8080, "/old/a?b");
        assert_eq!(at(&plain), "http://shop:8080/old/a?b");
        assert_eq!(at(&Redirect { scheme: Some("https".into()), ..plain.clone() }), "https://shop/old/a?b");
        let moved = Redirect { host: Some("new:81".into()), prefix: Some("/n".into()), ..plain.clone() };
        assert_eq!(at(&moved), "http://new:81/n/a?b");
        assert_eq!(at(&Redirect { port: Some(82), ..moved }), "http://new:82/n/a?b");
        assert_eq!(location(&plain, None, "shop", 80, "*"), "http://shop/");
    }
}
