//! The kinds of table: which capability writes each.

/// A kind of table: which capability writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The supervisor's own: listeners' duties, the app's address, static endpoints, floor timeouts.
    Base,
    /// The discovery sidecar's.
    Endpoints,
    /// The observability sidecar's.
    Telemetry,
    /// The traffic sidecar's.
    Routes,
    /// The resilience sidecar's.
    Limits,
    /// A third party's: a header policy. Younger than the others, so neither side may rely on the other one to know it.
    Headers,
    /// The supervisor's as well: how work leaves this host for a Central Mesh. Younger than the others, too.
    Central,
}

impl Kind {
    /// Every kind, in the order of the `in_force` words of an enrolment.
    pub const ALL: [Kind; 7] =
        [Kind::Base, Kind::Endpoints, Kind::Telemetry, Kind::Routes, Kind::Limits, Kind::Headers, Kind::Central];

    /// The name in `table.NAME` and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Base => "base",
            Kind::Endpoints => "endpoints",
            Kind::Telemetry => "telemetry",
            Kind::Routes => "routes",
            Kind::Limits => "limits",
            Kind::Headers => "headers",
            Kind::Central => "central",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }
}
