//! Why a message is not taken.

/// A message that is refused: which answer it deserves, and why, in words for a log and an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status for the caller (a refused *answer* of an upstream becomes 502 instead).
    pub status: u16,
    /// One line, without anything of what was received.
    pub reason: &'static str,
}

impl Refusal {
    /// 400.
    #[must_use]
    pub const fn bad(reason: &'static str) -> Refusal {
        Refusal { status: 400, reason }
    }

    /// Another status.
    #[must_use]
    pub const fn with(status: u16, reason: &'static str) -> Refusal {
        Refusal { status, reason }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

impl std::error::Error for Refusal {}
