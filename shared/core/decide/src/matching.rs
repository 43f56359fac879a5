//! The first route that matches a request.
//!
//! Compiled so that ten thousand routes cost no more than the length of the path: an index by host, in it one by whole
//! path and one by path prefix. Of what the indexes lead to, the route that comes first in the file is taken. Routes by
//! regular expression, and those without a path, are looked at one by one, in their order.
//!
//! Regular expressions are those of the `regex` crate: linear in the text, over bytes, matching the whole of it.

use pannier_http::fields::Field;
use pannier_http::target;
use regex::bytes::{Regex, RegexBuilder};
use rustc_hash::FxHashMap;

use crate::schema::routes::{Match, Rule, Text};

/// Memory of a compiled expression, and of its cache.
const REGEX_BYTES: usize = 256 << 10;
/// Expressions in one table.
const REGEXES: usize = 512;

/// What of a request can be matched.
pub struct View<'a> {
    /// The authority without port; routes know hosts in lower case.
    pub host: &'a str,
    #[allow(missing_docs)]
    pub port: u16,
    #[allow(missing_docs)]
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Its fields.
    pub fields: &'a [Field<'a>],
}

impl<'a> View<'a> {
    /// Every value of a field: one that is sent twice cannot hide the one that is looked for.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |field: &&Field<'_>| field.name.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|field| field.value)
    }

    fn query(&self, name: &str) -> Option<&'a str> {
        let (_, query) = target::split(self.target);
        if query.is_empty() {
            return None;
        }
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

/// A route that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'r> {
    /// Its number.
    pub route: usize,
    /// The prefix that it matched by, without a slash at its end; none if it was not by prefix.
    pub prefix: Option<&'r str>,
}

/// All routes of one side.
#[derive(Debug, Default)]
pub struct Routes {
    by_host: FxHashMap<Box<str>, usize>,
    hosts: Vec<Index>,
    /// `*.example.com`, by what follows the star.
    by_suffix: Vec<(Box<str>, Index)>,
    any_host: Index,
    conditions: Vec<Condition>,
}

/// A match of a route, and the route that it is of. Conditions are in the order of the routes.
#[derive(Debug)]
struct Condition {
    route: usize,
    /// Nothing has to be looked at.
    is_everything: bool,
    path: PathCondition,
    method: Option<Box<str>>,
    headers: Vec<(Box<str>, TextCondition)>,
    query: Vec<(Box<str>, TextCondition)>,
    port: Option<u16>,
}

#[derive(Debug)]
enum PathCondition {
    Any,
    Exact(Box<str>),
    /// Without a slash at its end; empty for `/`.
    Prefix(Box<str>),
    Regex(Regex),
}

#[derive(Debug)]
enum TextCondition {
    Exact(Box<[u8]>),
    Regex(Regex),
    Present(bool),
}

/// So few conditions are looked at one by one: that is cheaper than any index.
const FEW: usize = 6;

/// Conditions by what their path must be, each list in order.
#[derive(Debug, Default)]
struct Index {
    all: Vec<usize>,
    exact: FxHashMap<Box<str>, Vec<usize>>,
    prefix: FxHashMap<u64, Vec<usize>>,
    /// The most segments that a prefix has.
    deepest: usize,
    rest: Vec<usize>,
}

impl Routes {
    /// Compiles the routes of one side. Who calls is known outbound only, where it is `service`: a match for another one is
    /// left out, and one of inbound routes refused.
    ///
    /// # Errors
    /// One line that names the route and what does not hold.
    pub fn compile<'a>(rules: impl Iterator<Item = &'a Rule>, service: &str) -> Result<Routes, String> {
        let mut routes = Routes::default();
        let mut expressions = 0;
        for (route, rule) in rules.enumerate() {
            let everything = [Match::default()];
            let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
            if rule.inbound && matches.iter().any(|m| m.source.is_some()) {
                return Err(format!("route {:?}: who calls from outside is not known, leave `source` out", rule.name));
            }
            for one in matches.iter().filter(|m| m.source.as_deref().is_none_or(|source| source == service)) {
                let condition = Condition::compile(route, one, &mut expressions)
                    .map_err(|reason| format!("route {:?}: {reason}", rule.name))?;
                let number = routes.conditions.len();
                for host in &rule.hosts {
                    routes.index_of(host).add(number, &condition.path);
                }
                routes.conditions.push(condition);
            }
        }
        if expressions > REGEXES {
            return Err(format!("{expressions} regular expressions, at most {REGEXES} are allowed"));
        }
        Ok(routes)
    }

    fn index_of(&mut self, host: &str) -> &mut Index {
        let host = host.to_ascii_lowercase();
        if host == "*" {
            return &mut self.any_host;
        }
        if let Some(suffix) = host.strip_prefix('*') {
            let at = match self.by_suffix.iter().position(|(known, _)| **known == *suffix) {
                Some(at) => at,
                None => {
                    self.by_suffix.push((suffix.into(), Index::default()));
                    self.by_suffix.len() - 1
                }
            };
            if let Some((_, index)) = self.by_suffix.get_mut(at) {
                return index;
            }
        }
        let fresh = self.hosts.len();
        let at = *self.by_host.entry(host.into()).or_insert(fresh);
        if at == fresh {
            self.hosts.push(Index::default());
        }
        self.hosts.get_mut(at).unwrap_or(&mut self.any_host)
    }

    /// The routes that name a host, in lower case; to be given to [`Routes::find`].
    #[must_use]
    pub fn of_host(&self, host: &str) -> Option<usize> {
        self.by_host.get(host).copied()
    }

    /// The first route that matches; `of_host` are those that name the host.
    #[must_use]
    #[inline]
    pub fn find(&self, view: &View<'_>, of_host: Option<usize>) -> Option<Found<'_>> {
        if self.conditions.is_empty() {
            return None;
        }
        let mut best = usize::MAX;
        if let Some(index) = of_host.and_then(|at| self.hosts.get(at)) {
            self.first(index, view, &mut best);
        }
        for (suffix, index) in &self.by_suffix {
            if view.host.ends_with(&**suffix) {
                self.first(index, view, &mut best);
            }
        }
        self.first(&self.any_host, view, &mut best);
        let condition = self.conditions.get(best)?;
        let prefix = match &condition.path {
            PathCondition::Any => Some(""),
            PathCondition::Prefix(prefix) => Some(&**prefix),
            PathCondition::Exact(_) | PathCondition::Regex(_) => None,
        };
        Some(Found { route: condition.route, prefix })
    }

    /// Lowers `best` to the first condition of an index that holds.
    #[inline]
    fn first(&self, index: &Index, view: &View<'_>, best: &mut usize) {
        if index.all.len() <= FEW {
            self.first_of(&index.all, view, best);
        } else {
            self.first_indexed(index, view, best);
        }
    }

    #[inline(never)]
    fn first_indexed(&self, index: &Index, view: &View<'_>, best: &mut usize) {
        let (path, _) = target::split(view.target);
        if let Some(numbers) = index.exact.get(path) {
            self.first_of(numbers, view, best);
        }
        if !index.prefix.is_empty() {
            for (hash, _) in prefixes(path).take(index.deepest + 1) {
                if let Some(numbers) = index.prefix.get(&hash) {
                    self.first_of(numbers, view, best);
                }
            }
        }
        self.first_of(&index.rest, view, best);
    }

    /// The same among these conditions, which are in their order.
    #[inline]
    fn first_of(&self, numbers: &[usize], view: &View<'_>, best: &mut usize) {
        for number in numbers {
            if number >= best {
                return;
            }
            if self.conditions.get(*number).is_some_and(|condition| condition.holds(view)) {
                *best = *number;
                return;
            }
        }
    }
}

impl Index {
    fn add(&mut self, number: usize, path: &PathCondition) {
        self.all.push(number);
        match path {
            PathCondition::Exact(path) => self.exact.entry(path.clone()).or_default().push(number),
            PathCondition::Prefix(prefix) => {
                let (hash, segments) = prefixes(prefix).fold((0, 0), |_, prefix| prefix);
                self.deepest = self.deepest.max(segments);
                self.prefix.entry(hash).or_default().push(number);
            }
            PathCondition::Any | PathCondition::Regex(_) => self.rest.push(number),
        }
    }
}

/// The hash of each prefix of whole segments, and how many it has: of ``, `/a`, `/a/b`. FNV-1a goes on where it was.
fn prefixes(path: &str) -> impl Iterator<Item = (u64, usize)> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut rest = path.as_bytes();
    let mut segments = 0;
    let mut begun = false;
    std::iter::from_fn(move || {
        if !begun {
            begun = true;
            return Some((hash, 0));
        }
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().skip(1).position(|b| *b == b'/').map_or(rest.len(), |at| at + 1);
        let (segment, after) = rest.split_at_checked(end)?;
        for byte in segment {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        rest = after;
        segments += 1;
        Some((hash, segments))
    })
}

impl Condition {
    fn compile(route: usize, one: &Match, expressions: &mut usize) -> Result<Condition, String> {
        let path = match (one.path.as_deref(), one.prefix.as_deref(), one.regex.as_deref()) {
            (Some(path), None, None) => PathCondition::Exact(path.into()),
            (None, Some("/"), None) => PathCondition::Any,
            (None, Some(prefix), None) => PathCondition::Prefix(prefix.trim_end_matches('/').into()),
            (None, None, Some(regex)) => PathCondition::Regex(whole(regex, expressions)?),
            (None, None, None) => PathCondition::Any,
            _ => return Err("path, prefix and regex exclude one another".into()),
        };
        let mut texts = |texts: &std::collections::BTreeMap<String, Text>| {
            texts
                .iter()
                .map(|(name, text)| Ok((name.as_str().into(), TextCondition::compile(text, expressions)?)))
                .collect::<Result<Vec<(Box<str>, _)>, String>>()
        };
        let is_everything = matches!(path, PathCondition::Any)
            && one.method.is_none()
            && one.port.is_none()
            && one.headers.is_empty()
            && one.query.is_empty();
        Ok(Condition {
            route,
            is_everything,
            path,
            method: one.method.as_deref().map(Into::into),
            headers: texts(&one.headers)?,
            query: texts(&one.query)?,
            port: one.port,
        })
    }

    fn holds(&self, view: &View<'_>) -> bool {
        self.is_everything || self.path.holds(view.target) && self.holds_beyond(view)
    }

    fn holds_beyond(&self, view: &View<'_>) -> bool {
        self.method.as_deref().is_none_or(|method| method == view.method)
            && self.port.is_none_or(|port| port == view.port)
            && self.headers.iter().all(|(name, text)| text.holds(view.values(name)))
            && self.query.iter().all(|(name, text)| text.holds(view.query(name).map(str::as_bytes).into_iter()))
    }
}

impl PathCondition {
    /// Whether a target's path is as it should be.
    fn holds(&self, target: &str) -> bool {
        match self {
            PathCondition::Any => true,
            PathCondition::Exact(exact) => {
                target.strip_prefix(&**exact).is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
            }
            PathCondition::Prefix(prefix) => after_prefix(target, prefix).is_some(),
            PathCondition::Regex(regex) => regex.is_match(target::split(target).0.as_bytes()),
        }
    }
}

/// What follows a prefix of whole segments; none if the path does not begin with it.
#[must_use]
pub fn after_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/') || rest.starts_with('?'))
}

impl TextCondition {
    fn compile(text: &Text, expressions: &mut usize) -> Result<TextCondition, String> {
        match (&text.exact, &text.regex, text.present) {
            (Some(exact), None, None) => Ok(TextCondition::Exact(exact.as_bytes().into())),
            (None, Some(regex), None) => Ok(TextCondition::Regex(whole(regex, expressions)?)),
            (None, None, Some(present)) => Ok(TextCondition::Present(present)),
            _ => Err("a condition is one of exact, regex, present".into()),
        }
    }

    /// Whether one of the values is as it should be; `present` = false: there is none.
    fn holds<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        match self {
            TextCondition::Exact(exact) => values.any(|value| *value == **exact),
            TextCondition::Regex(regex) => values.any(|value| regex.is_match(value)),
            TextCondition::Present(present) => values.next().is_some() == *present,
        }
    }
}

fn whole(regex: &str, expressions: &mut usize) -> Result<Regex, String> {
    *expressions += 1;
    let build = |regex: &str| {
        RegexBuilder::new(regex).unicode(false).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build()
    };
    // Alone first: in the frame, `a)|(b` would be an expression, too.
    build(regex)
        .and_then(|_| build(&format!("^(?:{regex})$")))
        .map_err(|error| format!("regular expression {regex:?}: {}", one_line(&error)))
}

fn one_line(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => format!("compiles to more than {limit} bytes"),
        other => other.to_string().lines().last().unwrap_or("malformed").trim_start_matches("error: ").into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn rule(name: &str, hosts: &[&str], matches: Vec<Match>) -> Rule {
        Rule { name: name.into(), hosts: hosts.iter().map(ToString::to_string).collect(), matches, ..Rule::default() }
    }

    fn path(path: &str) -> Match {
        Match { path: Some(path.into()), ..Match::default() }
    }

    fn prefix(prefix: &str) -> Match {
        Match { prefix: Some(prefix.into()), ..Match::default() }
    }

    fn find(routes: &Routes, host: &str, method: &str, target: &str) -> Option<usize> {
        let fields = [("x-user", "bob"), ("x-user", "alice")].map(|(name, v)| Field { name, value: v.as_bytes() });
        let host = host.to_ascii_lowercase();
        let view = View { host: &host, port: 80, method, target, fields: &fields };
        routes.find(&view, routes.of_host(&host)).map(|found| found.route)
    }

    #[test]
    fn the_first_in_the_file_wins_whatever_its_kind() {
        let regex = Match { regex: Some("/orders/[0-9]+".into()), ..Match::default() };
        let rules = [
            rule("a", &["orders"], vec![prefix("/orders/special")]),
            rule("b", &["*"], vec![regex]),
            rule("c", &["orders"], vec![path("/orders/7")]),
            rule("d", &["*.example.com"], vec![]),
            rule("e", &["*"], vec![prefix("/")]),
        ];
        let routes = Routes::compile(rules.iter(), "shop").unwrap();
        assert_eq!(find(&routes, "ORDERS", "GET", "/orders/7?x=/orders/special"), Some(1));
        assert_eq!(find(&routes, "orders", "GET", "/orders/special/x"), Some(0));
        assert_eq!(find(&routes, "orders", "GET", "/orders/specials"), Some(4), "whole segments only");
        assert_eq!(find(&routes, "a.example.com", "GET", "/x"), Some(3));
        assert_eq!(find(&routes, "other", "GET", "/orders/7x"), Some(4), "a regex matches the whole path");
    }

    #[test]
    fn all_conditions_of_a_match_must_hold_and_one_match_of_a_route() {
        let mut by_header = path("/x");
        by_header.headers.insert("X-User".into(), Text { exact: Some("alice".into()), ..Text::default() });
        by_header.method = Some("POST".into());
        let mut by_query = path("/x");
        by_query.query.insert("beta".into(), Text { present: Some(true), ..Text::default() });
        let mut foreign = path("/x");
        foreign.source = Some("elsewhere".into());
        let rules = [rule("a", &["*"], vec![foreign, by_header, by_query])];
        let routes = Routes::compile(rules.iter(), "shop").unwrap();
        assert_eq!(find(&routes, "a", "POST", "/x"), Some(0));
        assert_eq!(find(&routes, "a", "GET", "/x"), None);
        assert_eq!(find(&routes, "a", "GET", "/x?beta"), Some(0));
        assert_eq!(find(&routes, "a", "GET", "/x?alphabeta=1"), None);
    }

    #[test]
    fn a_bad_expression_is_refused_with_its_route() {
        for bad in ["(", "/a)|(?:/b", "a{1000}{1000}{1000}", "\\p{Greek}"] {
            let rules = [rule("r", &["*"], vec![Match { regex: Some(bad.into()), ..Match::default() }])];
            let error = Routes::compile(rules.iter(), "shop").unwrap_err();
            assert!(error.starts_with("route \"r\": regular expression"), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn ten_thousand_routes_are_found_by_their_index() {
        let rules: Vec<_> = (0..10_000)
            .map(|i| {
                let one = if i % 2 == 0 { path(&format!("/p{i}/x")) } else { prefix(&format!("/p{i}")) };
                rule(&format!("r{i}"), &["*"], vec![one])
            })
            .collect();
        let routes = Routes::compile(rules.iter(), "shop").unwrap();
        for i in [0, 1, 4_998, 4_999, 9_999] {
            assert_eq!(find(&routes, "a", "GET", &format!("/p{i}/x")), Some(i));
        }
        assert_eq!(find(&routes, "a", "GET", "/p0/y"), None);
        assert!(routes.any_host.rest.is_empty());
    }

    #[test]
    fn prefixes_are_hashed_as_they_stand_alone() {
        let all: Vec<_> = prefixes("/a/b/c").collect();
        assert_eq!(all.len(), 4);
        assert_eq!(all[2], prefixes("/a/b").last().unwrap());
        assert_eq!(prefixes("/a/").last().unwrap().1, 2, "an empty last segment is one");
    }
}
