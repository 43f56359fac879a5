//! Tables: any payload is refused or compiled, with a bounded effort, and what was compiled routes any request.

use pannier_decide::cors;
use pannier_decide::live::Live;
use pannier_decide::matching::View;
use pannier_decide::policy::{Policy, Tables, floor, validate};
use pannier_decide::rewriting;
use pannier_decide::route::{self, Route};
use pannier_http::fields::Field;
use pannier_table::kind::Kind;

const HOSTS: [&str; 5] = ["orders", "ORDERS", "localhost", "[::1]", ""];
const TARGETS: [&str; 5] = ["/", "/a/b?c=d", "*", "/orders//7?", "/%00/é"];
const FIELDS: [Field<'static>; 3] = [
    Field { name: "x-a", value: b"1" },
    Field { name: "Cookie", value: b"session=7; a" },
    Field { name: "Origin", value: b"http://a.example\xff" },
];

/// A payload; the first byte says of which table.
pub fn tables(data: &[u8]) {
    let Some((first, payload)) = data.split_first() else { return };
    let kind = Kind::ALL[usize::from(*first) % Kind::ALL.len()];
    let mut tables = Tables::of(floor());
    let taken = tables.take(kind, Some(payload));
    let valid = validate(kind, payload);
    if let Err(reason) = taken.as_ref().and(valid.as_ref()) {
        assert!(!reason.is_empty(), "a refusal says why");
    }
    assert!(taken.is_ok() || valid.is_err());
    if taken.is_err() {
        return;
    }
    let Ok(policy) = Policy::compile(&tables, &Live::default()) else {
        assert!(valid.is_err());
        return;
    };
    for cluster in &policy.clusters {
        let cookie = cluster.affinity.as_ref().and_then(|affinity| affinity.cookie.as_deref()).unwrap_or("x");
        assert!(!cookie.is_empty() && !cookie.contains([';', '=', ' ', '\r', '\n']), "{cookie:?} is no cookie's name");
    }
    for host in HOSTS {
        for side in policy.headers.iter().flat_map(|headers| [&headers.inbound, &headers.outbound]) {
            for edits in
                side.find(host, Some("a")).into_iter().flat_map(|rule| [&rule.request, &rule.response]).flatten()
            {
                let mut out = Vec::new();
                edits.write(&mut out);
                let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                assert!(lines.clone().all(|line| line.ends_with(b"\r") && line.contains(&b':')), "{out:?}");
                assert!(lines.flatten().all(|byte| *byte == b'\r' || (b' '..=b'~').contains(byte)), "{out:?}");
            }
        }
        for target in TARGETS {
            for method in ["GET", "OPTIONS"] {
                asked(&policy, &View { host, port: 80, method, target, fields: &FIELDS });
            }
        }
    }
}

fn asked(policy: &Policy, view: &View<'_>) {
    assert!(policy.route_label(view.target).len() <= 127);
    for routed in [route::inbound(policy, view), route::outbound(policy, view, || 7)] {
        if let Route::Cluster(index) = routed.route {
            assert!(index < policy.clusters.len(), "a route to nowhere");
        }
        let Some(rule) = routed.rule else { continue };
        let rewritten = rule.rewrite.as_ref().and_then(|r| rewriting::rewritten(r, routed.prefix, view.target));
        let location = rule
            .redirect
            .as_ref()
            .map(|redirect| rewriting::location(redirect, routed.prefix, view.host, view.port, view.target));
        for text in rewritten.iter().chain(&location) {
            assert!(!text.contains(['\r', '\n', '\0', ' ']), "{text:?} would be more than a target");
        }
        for fields in rule.cors.iter().filter_map(|cors| cors::preflight(cors, b"http://a.example")) {
            let lines = fields.strip_suffix("\r\n").expect("its last line is ended").split("\r\n");
            assert!(
                lines.clone().all(|line| line.starts_with("access-control-") || line == "vary: origin"),
                "{fields}"
            );
            assert!(!fields.replace("\r\n", "").contains(char::is_control), "{fields:?}");
        }
    }
}
