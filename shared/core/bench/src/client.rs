//! What a standard HTTP client does when a connection fails it; without it every such request is an error.
//!
//! - Nobody took the connection: nothing was sent, so it is tried again, whatever the method, until the request is two
//!   seconds late.
//! - The connection ended before a byte of an answer: a request that may be repeated is, once.

/// Between two attempts to connect.
pub const PAUSE_NS: u64 = 20_000_000;
/// A connection that is not taken in this time is given up.
pub const CONNECTED_NS: u64 = 500_000_000;
const LATE_NS: u64 = 2_000_000_000;

/// The client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// Its requests may be repeated.
    pub idempotent: bool,
}

/// How far a request had come when its connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// There never was a connection.
    Nobody,
    /// It was sent, or a part of it.
    Sent {
        /// Already for the second time.
        again: bool,
    },
    /// A part of the answer was there.
    Answer,
}

impl Standard {
    /// When the request is sent on another connection; `None` if it has failed. Nanoseconds of the run's clock.
    pub fn again(self, reached: Reached, intended: u64, now: u64) -> Option<u64> {
        match reached {
            Reached::Nobody if now < intended.saturating_add(LATE_NS) => Some(now + PAUSE_NS),
            Reached::Sent { again: false } if self.idempotent => Some(now),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LATE_NS, PAUSE_NS, Reached, Standard};

    #[test]
    fn what_may_be_repeated_is_repeated_once_and_what_was_not_sent_until_it_is_late() {
        let [get, post] = [true, false].map(|idempotent| Standard { idempotent });
        for (client, reached, now, again) in [
            (get, Reached::Sent { again: false }, 7, Some(7)),
            (get, Reached::Sent { again: true }, 7, None),
            (get, Reached::Answer, 7, None),
            (post, Reached::Sent { again: false }, 7, None),
            (post, Reached::Nobody, 7, Some(7 + PAUSE_NS)),
            (post, Reached::Nobody, LATE_NS, None),
        ] {
            assert_eq!(client.again(reached, 0, now), again, "{client:?} {reached:?} {now}");
        }
    }
}
