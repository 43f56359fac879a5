//! What replaces a request's path, and where a redirect leads.

use std::fmt::Write;

use crate::matching::after_prefix;
use crate::rules::Rule;
use crate::schema::routes::Redirect;

/// The target for the next hop; none if it stays as it is. The query stays.
#[must_use]
pub fn rewritten(rule: &Rule, target: &str) -> Option<String> {
    let rewrite = rule.rewrite.as_ref()?;
    replaced(rewrite.path.as_deref(), rewrite.prefix.as_deref(), &rule.prefixes, target)
}

fn replaced(path: Option<&str>, prefix: Option<&str>, prefixes: &[Box<str>], target: &str) -> Option<String> {
    let query = target.find('?').and_then(|at| target.get(at..)).unwrap_or("");
    if let Some(path) = path {
        return Some(format!("{path}{query}"));
    }
    let prefix = prefix?;
    let rest = prefixes.iter().find_map(|matched| after_prefix(target, matched))?;
    let whole = format!("{}{rest}", prefix.trim_end_matches('/'));
    Some(if whole.starts_with('/') { whole } else { format!("/{whole}") })
}

/// The `Location` of a redirect, of what was asked for at `host` and `port`.
#[must_use]
pub fn location(redirect: &Redirect, rule: &Rule, host: &str, port: u16, target: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let usual = if scheme == "https" { 443 } else { 80 };
    // Another scheme has another usual port; the one that was asked for means nothing there.
    let port = redirect.port.unwrap_or(if redirect.scheme.is_some() || redirect.host.is_some() { usual } else { port });
    let mut location = format!("{scheme}://{}", redirect.host.as_deref().unwrap_or(host));
    if port != usual {
        let _ = write!(location, ":{port}");
    }
    let path = replaced(redirect.path.as_deref(), redirect.prefix.as_deref(), &rule.prefixes, target);
    location.push_str(path.as_deref().unwrap_or(target));
    location
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::schema::routes::{Match, Rewrite, Rule as Described};

    fn rule(prefix: &str, rewrite: Rewrite) -> Rule {
        let one = Match { prefix: Some(prefix.into()), ..Match::default() };
        let rule = Described { matches: vec![one], rewrite: Some(rewrite), ..Described::default() };
        Rule::compile(&rule, |_| Ok(0)).unwrap()
    }

    #[test]
    fn a_prefix_is_replaced_and_the_query_stays() {
        let to = |prefix: &str| Rewrite { prefix: Some(prefix.into()), ..Rewrite::default() };
        for (from, prefix, target, expected) in [
            ("/v1", "/v2", "/v1/orders?x=1", "/v2/orders?x=1"),
            ("/v1", "/", "/v1", "/"),
            ("/v1", "/", "/v1?x", "/?x"),
            ("/v1", "/", "/v1/a", "/a"),
            ("/", "/api", "/a", "/api/a"),
        ] {
            assert_eq!(rewritten(&rule(from, to(prefix)), target).as_deref(), Some(expected));
        }
        let whole = Rewrite { path: Some("/x".into()), ..Rewrite::default() };
        assert_eq!(rewritten(&rule("/", whole), "/a?b=c").as_deref(), Some("/x?b=c"));
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let rule = rule("/old", Rewrite::default());
        let plain = Redirect { status: 302, scheme: None, host: None, port: None, path: None, prefix: None };
        let at = |redirect: &Redirect| location(redirect, &rule, "shop", 8080, "/old/a?b");
        assert_eq!(at(&plain), "http://shop:8080/old/a?b");
        assert_eq!(at(&Redirect { scheme: Some("https".into()), ..plain.clone() }), "https://shop/old/a?b");
        let moved = Redirect { host: Some("new".into()), prefix: Some("/n".into()), ..plain };
        assert_eq!(at(&moved), "http://new/n/a?b");
    }
}
