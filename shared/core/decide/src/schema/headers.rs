//! What a header policy says: table `headers`, for a third party's sidecar to write.
//!
//! Unlike in the other tables, a key that is not known is refused: people write this one by hand, and a condition that is
//! misspelt would hold for every request.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::routes;

/// The table. Of the rules of a direction the first that matches a request holds for it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Headers {
    pub rules: Vec<Rule>,
}

/// One rule; without `host` and `route` it matches everything that goes its way.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which requests it is about.
    pub direction: Direction,
    /// The host that is asked for, without port, in any case.
    #[serde(default)]
    pub host: Option<String>,
    /// The name of the route that the request took.
    #[serde(default)]
    pub route: Option<String>,
    /// Edits of the request's head, and of the answer's.
    #[serde(default, deserialize_with = "strictly")]
    pub request: Option<routes::Headers>,
    #[serde(default, deserialize_with = "strictly")]
    #[allow(missing_docs)]
    pub response: Option<routes::Headers>,
}

/// Requests that others make of the app, or the app of others.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// As a route's edits, but for a key that is not known.
fn strictly<'de, D: Deserializer<'de>>(given: D) -> Result<Option<routes::Headers>, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Edits {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }
    let edits = Option::<Edits>::deserialize(given)?;
    Ok(edits.map(|Edits { set, add, remove }| routes::Headers { set, add, remove }))
}
