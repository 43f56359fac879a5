//! What a route does, compiled: names become indices, percentages are checked, edits are proved harmless.

use pannier_http::edits::HeaderEdits;

use crate::random::Random;
use crate::schema::routes::{Cors, Fault, Headers, Mirror, Redirect, Rewrite, Rule as Described};

/// What a route does with the requests that match it.
#[derive(Debug)]
pub struct Rule {
    #[allow(missing_docs)]
    pub name: Box<str>,
    /// Where they go, if not where their host says.
    pub to: Option<Split>,
    #[allow(missing_docs)]
    pub rewrite: Option<Rewrite>,
    #[allow(missing_docs)]
    pub redirect: Option<Redirect>,
    /// Edits of the request, and of the answer.
    pub request: Option<HeaderEdits>,
    #[allow(missing_docs)]
    pub response: Option<HeaderEdits>,
    /// Milliseconds for everything, and for one attempt; 0 = off.
    pub request_ms: Option<u64>,
    #[allow(missing_docs)]
    pub backend_request_ms: Option<u64>,
    #[allow(missing_docs)]
    pub retries: Option<u8>,
    #[allow(missing_docs)]
    pub mirror: Option<MirrorTo>,
    #[allow(missing_docs)]
    pub fault: Option<Injection>,
    #[allow(missing_docs)]
    pub cors: Option<Cors>,
}

impl Rule {
    /// Compiles a route; `cluster` gives the index of a target's cluster.
    ///
    /// # Errors
    /// One line that names the route and what does not hold.
    pub fn compile(rule: &Described, mut cluster: impl FnMut(&str) -> Result<usize, String>) -> Result<Rule, String> {
        Self::build(rule, &mut cluster).map_err(|reason| format!("route {:?}: {reason}", rule.name))
    }

    fn build(rule: &Described, cluster: &mut impl FnMut(&str) -> Result<usize, String>) -> Result<Rule, String> {
        if let Some(host) = rule.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_deref()) {
            pannier_http::authority::parse(host).ok_or(format!("rewrite: {host:?} is no authority"))?;
        }
        if let Some(host) = rule.redirect.as_ref().and_then(|redirect| redirect.host.as_deref()) {
            pannier_http::authority::parse(host).ok_or(format!("redirect: {host:?} is no authority"))?;
        }
        check_written(rule)?;
        Ok(Rule {
            name: rule.name.as_str().into(),
            to: match rule.to.is_empty() {
                true => None,
                false => {
                    Some(Split::compile(rule.to.iter().map(|(target, weight)| (target.as_str(), *weight)), cluster)?)
                }
            },
            rewrite: rule.rewrite.clone(),
            redirect: rule.redirect.clone(),
            request: rule.request.as_ref().map(edits).transpose()?,
            response: rule.response.as_ref().map(edits).transpose()?,
            request_ms: rule.request_ms.map(|ms| within_a_day("timeouts.request", ms)).transpose()?,
            backend_request_ms: rule
                .backend_request_ms
                .map(|ms| within_a_day("timeouts.backend_request", ms))
                .transpose()?,
            retries: rule.retries,
            mirror: rule.mirror.as_ref().map(|mirror| MirrorTo::compile(mirror, cluster)).transpose()?,
            fault: rule.fault.as_ref().map(Injection::compile).transpose()?,
            cors: rule.cors.clone(),
        })
    }
}

/// What is written into a head as it stands must not be able to end a line, or a target.
fn check_written(rule: &Described) -> Result<(), String> {
    let rewrite = rule.rewrite.iter().flat_map(|r| [("rewrite.path", &r.path), ("rewrite.prefix", &r.prefix)]);
    let redirect = rule.redirect.iter().flat_map(|r| [("redirect.path", &r.path), ("redirect.prefix", &r.prefix)]);
    for (name, path) in rewrite.chain(redirect) {
        if let Some(path) = path
            && !(path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'?'))
        {
            return Err(format!("{name}: {path:?} is no path"));
        }
    }
    if let Some(scheme) = rule.redirect.as_ref().and_then(|redirect| redirect.scheme.as_deref())
        && !matches!(scheme, "http" | "https")
    {
        return Err(format!("redirect.scheme: {scheme:?} is neither http nor https"));
    }
    let cors = rule.cors.iter().flat_map(|c| [&c.origins, &c.methods, &c.headers, &c.expose]).flatten();
    match cors.into_iter().find(|text| !text.bytes().all(|b| (b' '..=b'~').contains(&b))) {
        Some(text) => Err(format!("cors: {text:?} is no field value")),
        None => Ok(()),
    }
}

/// No timeout is longer than a day: more is a mistake in a unit.
pub(crate) fn within_a_day(name: &str, ms: u64) -> Result<u64, String> {
    if ms > 86_400_000 { Err(format!("{name} {ms} ms is longer than a day")) } else { Ok(ms) }
}

/// The edits, each proved harmless.
pub(crate) fn edits(headers: &Headers) -> Result<HeaderEdits, String> {
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    let (set, add) = (pairs(&headers.set), pairs(&headers.add));
    HeaderEdits::try_new(
        set.iter().map(|(n, v)| (n.as_str(), v.as_str())),
        add.iter().map(|(n, v)| (n.as_str(), v.as_str())),
        headers.remove.iter().map(String::as_str),
    )
}

/// Clusters with shares.
#[derive(Debug)]
pub struct Split {
    /// The end of each one's share, and its index.
    shares: Vec<(u64, usize)>,
    total: u64,
}

impl Split {
    /// Compiles weights; those of 0 get nothing.
    ///
    /// # Errors
    /// One line if all of them are 0, or a target is none.
    pub fn compile<'a>(
        weights: impl Iterator<Item = (&'a str, u32)>,
        cluster: &mut impl FnMut(&str) -> Result<usize, String>,
    ) -> Result<Split, String> {
        let (mut shares, mut total) = (Vec::new(), 0);
        for (target, weight) in weights {
            let index = cluster(target)?;
            if weight > 0 {
                total += u64::from(weight);
                shares.push((total, index));
            }
        }
        if total == 0 { Err("all weights are 0".into()) } else { Ok(Split { shares, total }) }
    }

    /// The cluster of a request with that draw: the same one for each of its attempts.
    #[must_use]
    pub fn pick(&self, draw: impl FnOnce() -> u64) -> Option<usize> {
        if let [(_, only)] = self.shares.as_slice() {
            return Some(*only);
        }
        let hash = draw();
        let point = ((u128::from(hash) * u128::from(self.total)) >> 64) as u64;
        self.shares.iter().find(|(end, _)| point < *end).map(|(_, index)| *index)
    }
}

/// A copy of some requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MirrorTo {
    /// The cluster that gets it.
    pub cluster: usize,
    /// Of so many percent of the requests.
    pub percent: f64,
}

impl MirrorTo {
    /// # Errors
    /// One line if the target is none.
    pub fn compile(
        mirror: &Mirror,
        cluster: &mut impl FnMut(&str) -> Result<usize, String>,
    ) -> Result<MirrorTo, String> {
        Ok(MirrorTo { cluster: cluster(&mirror.to)?, percent: percentage(mirror.percent)? })
    }
}

/// A fault that is injected while it lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injection {
    delay_ms: u64,
    abort: Option<u16>,
    percent: f64,
    until_unix_ms: u64,
}

/// What is done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// First it waits so long.
    pub delay_ms: u64,
    /// Then it is answered with this status.
    pub abort: Option<u16>,
}

impl Injection {
    /// # Errors
    /// One line for a number out of range.
    pub fn compile(fault: &Fault) -> Result<Injection, String> {
        if fault.abort.is_some_and(|status| !(400..=599).contains(&status)) {
            return Err("fault.abort is not within 400…599".into());
        }
        Ok(Injection {
            delay_ms: within_a_day("fault.delay", fault.delay_ms)?,
            abort: fault.abort,
            percent: percentage(fault.percent)?,
            until_unix_ms: fault.until_unix_ms.unwrap_or(u64::MAX),
        })
    }

    /// What to do to a request now.
    #[must_use]
    pub fn draw(&self, now_unix_ms: u64, random: &mut Random) -> Injected {
        if now_unix_ms >= self.until_unix_ms || !random.percent(self.percent) {
            return Injected::default();
        }
        Injected { delay_ms: self.delay_ms, abort: self.abort }
    }
}

fn percentage(percent: f64) -> Result<f64, String> {
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err(format!("{percent} is no percentage")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hashing::draw;

    #[test]
    fn a_split_keeps_its_shares_and_its_requests() {
        let mut index = |target: &str| Ok(usize::from(target == "b"));
        let split = Split::compile([("a", 90), ("b", 10), ("c", 0)].into_iter(), &mut index).unwrap();
        let canary =
            (0..20_000_u64).filter(|id| split.pick(|| draw(format!("{id:032x}").as_bytes())) == Some(1)).count();
        assert!((1_800..2_200).contains(&canary), "{canary}");
        assert_eq!(split.pick(|| 7), split.pick(|| 7));
        assert!(Split::compile([("a", 0)].into_iter(), &mut index).is_err());
    }

    #[test]
    fn what_is_written_as_it_stands_cannot_end_a_line() {
        let redirect = |scheme: &str, path: &str| Described {
            redirect: Some(Redirect {
                status: 302,
                scheme: Some(scheme.into()),
                host: None,
                port: None,
                path: Some(path.into()),
                prefix: None,
            }),
            ..Described::default()
        };
        let rewrite = |prefix: &str| Described {
            rewrite: Some(Rewrite { prefix: Some(prefix.into()), ..Rewrite::default() }),
            ..Described::default()
        };
        let cors = |origin: &str| Described {
            cors: Some(Cors { origins: vec![origin.into()], ..Cors::default() }),
            ..Described::default()
        };
        let compiles = |rule: &Described| Rule::compile(rule, |_| Ok(0)).is_ok();
        for good in [redirect("https", "/a;b=%20"), rewrite("/"), cors("https://a.example")] {
            assert!(compiles(&good), "{good:?}");
        }
        for bad in ["/a\r\nx: y", "/a b", "a", "", "/a?b", "/a#b", "/\u{e9}"] {
            assert!(!compiles(&redirect("http", bad)) && !compiles(&rewrite(bad)), "{bad:?}");
        }
        assert!(!compiles(&redirect("h\r\n\r\nttp", "/")) && !compiles(&redirect("ftp", "/")));
        assert!(!compiles(&cors("a\r\nset-cookie: b")));
    }

    #[test]
    fn a_fault_ends_by_itself() {
        let fault = Fault { delay_ms: 5, abort: Some(503), percent: 100.0, until_unix_ms: Some(1_000) };
        let (fault, mut random) = (Injection::compile(&fault).unwrap(), Random::new(1));
        assert_eq!(fault.draw(999, &mut random), Injected { delay_ms: 5, abort: Some(503) });
        assert_eq!(fault.draw(1_000, &mut random), Injected::default());
    }
}
