//! A request's target, taken apart.

use memchr::memchr;

/// Path and query; the query is empty if there is none.
#[must_use]
pub fn split(target: &str) -> (&str, &str) {
    match memchr(b'?', target.as_bytes()).and_then(|at| target.split_at_checked(at)) {
        Some((path, query)) => (path, query.get(1..).unwrap_or("")),
        None => (target, ""),
    }
}
