//! A header policy, compiled: which rule holds for a request, and what that edits.
//!
//! A rule is found by looking at one after the other, which is why there are few: a comparison of two names costs less than
//! any index, and a rule for every host needs neither.

use pannier_http::edits::HeaderEdits;

use crate::rules::edits;
use crate::schema::headers::{Direction, Headers, Rule};
use crate::schema::routes;

/// Rules of one direction.
const RULES: usize = 64;
/// Fields that a rule sets, adds and removes in one head, and the bytes of their names and values.
const FIELDS: usize = 32;
const BYTES: usize = 8 << 10;

/// The rules by direction.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct HeaderPolicy {
    pub inbound: HeaderRules,
    pub outbound: HeaderRules,
}

/// The rules of one direction, in their order.
#[derive(Debug, Default)]
pub struct HeaderRules(Vec<HeaderRule>);

/// What a rule does.
#[derive(Debug)]
pub struct HeaderRule {
    host: Option<Box<str>>,
    route: Option<Box<str>>,
    /// Edits of the request, and of the answer.
    pub request: Option<HeaderEdits>,
    #[allow(missing_docs)]
    pub response: Option<HeaderEdits>,
}

impl HeaderPolicy {
    /// Compiles the table.
    ///
    /// # Errors
    /// One line that names the rule by its number, the first being 1, and what does not hold.
    pub fn compile(table: &Headers) -> Result<HeaderPolicy, String> {
        let mut policy = HeaderPolicy::default();
        for (index, rule) in table.rules.iter().enumerate() {
            let compiled = HeaderRule::compile(rule).map_err(|reason| format!("rule {}: {reason}", index + 1))?;
            let HeaderRules(rules) = match rule.direction {
                Direction::Inbound => &mut policy.inbound,
                Direction::Outbound => &mut policy.outbound,
            };
            if rules.len() == RULES {
                return Err(format!("rule {}: at most {RULES} rules a direction are allowed", index + 1));
            }
            rules.push(compiled);
        }
        Ok(policy)
    }
}

impl HeaderRules {
    /// The first rule that matches the host and the name of the route taken, if one was.
    #[must_use]
    pub fn find(&self, host: &str, route: Option<&str>) -> Option<&HeaderRule> {
        self.0.iter().find(|rule| {
            rule.host.as_deref().is_none_or(|known| known.eq_ignore_ascii_case(host))
                && rule.route.as_deref().is_none_or(|known| Some(known) == route)
        })
    }
}

impl HeaderRule {
    fn compile(rule: &Rule) -> Result<HeaderRule, String> {
        for (name, text) in [("host", &rule.host), ("route", &rule.route)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > 255) {
                return Err(format!("{name}: expected 1 to 255 bytes, or none for any {name}"));
            }
        }
        let compiled = |headers: &Option<routes::Headers>| headers.as_ref().map(bounded).transpose();
        let (request, response) = (compiled(&rule.request)?, compiled(&rule.response)?);
        if request.is_none() && response.is_none() {
            return Err("it edits nothing: give `request` or `response`".into());
        }
        let boxed = |text: &Option<String>| text.as_deref().map(Into::into);
        Ok(HeaderRule { host: boxed(&rule.host), route: boxed(&rule.route), request, response })
    }
}

fn bounded(headers: &routes::Headers) -> Result<HeaderEdits, String> {
    let written = headers.set.iter().chain(&headers.add);
    let fields = written.clone().count() + headers.remove.len();
    let bytes: usize = written.map(|(name, value)| name.len() + value.len()).sum();
    match fields {
        0 => Err("edits of nothing: give `set`, `add` or `remove`".into()),
        1..=FIELDS if bytes <= BYTES => edits(headers),
        _ => Err(format!("{fields} fields of {bytes} bytes; at most {FIELDS} of {BYTES} are allowed in one head")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rule(host: Option<&str>, route: Option<&str>, set: &[(&str, &str)]) -> Rule {
        let set = set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Rule {
            direction: Direction::Outbound,
            host: host.map(Into::into),
            route: route.map(Into::into),
            request: Some(routes::Headers { set, ..routes::Headers::default() }),
            response: None,
        }
    }

    fn compile(rules: Vec<Rule>) -> Result<HeaderPolicy, String> {
        HeaderPolicy::compile(&Headers { rules })
    }

    #[test]
    fn the_first_rule_that_matches_holds() {
        let one = |host, route| rule(host, route, &[("x-a", "1")]);
        let policy = compile(vec![
            one(Some("Orders"), Some("canary")),
            one(Some("orders"), None),
            Rule { direction: Direction::Inbound, ..one(None, None) },
            one(None, Some("canary")),
        ])
        .unwrap();
        let at = |host: &str, route| {
            let found = policy.outbound.find(host, route)?;
            policy.outbound.0.iter().position(|rule| std::ptr::eq(rule, found))
        };
        assert_eq!(at("orders", Some("canary")), Some(0));
        assert_eq!(at("ORDERS", Some("other")), Some(1));
        assert_eq!(at("stock", Some("canary")), Some(2));
        assert_eq!(at("stock", None), None);
        assert!(policy.inbound.find("anything", None).is_some());
    }

    #[test]
    fn what_frames_a_message_or_is_too_much_is_refused_with_its_rule() {
        let refused = |rules| compile(rules).unwrap_err();
        let set = |name: &str, value: &str| vec![rule(None, None, &[("x-a", "1")]), rule(None, None, &[(name, value)])];
        for name in ["Connection", "te", "Transfer-Encoding", "content-length", "host", "X-Pannier-Reason", "a b", ""] {
            assert!(refused(set(name, "1")).starts_with("rule 2: "), "{name}");
        }
        for value in ["a\r\nx-b: 1", "a\nb", "\0", "\u{7f}", "é"] {
            assert!(refused(set("x-a", value)).starts_with("rule 2: "), "{value:?}");
        }
        assert!(refused(set("x-a", &"a".repeat(BYTES))).contains("at most"));
        assert!(refused(vec![rule(Some(""), None, &[("x-a", "1")])]).contains("host"));
        assert!(refused(vec![rule(None, None, &[])]).contains("nothing"));
        assert!(refused(vec![Rule { request: None, ..rule(None, None, &[]) }]).contains("nothing"));
        assert!(compile(vec![rule(None, None, &[("x-a", "1")]); RULES]).is_ok());
        assert!(refused(vec![rule(None, None, &[("x-a", "1")]); RULES + 1]).starts_with("rule 65: "));
        let names: Vec<String> = (0..=FIELDS).map(|number| format!("x-{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        assert!(refused(vec![rule(None, None, &many)]).contains("33 fields"));
    }
}
