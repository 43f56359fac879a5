//! A connection to an upstream, counted in its service's limit for as long as it is open.

use std::sync::Arc;

use pannier_decide::live::ServiceLive;

use crate::stream::Stream;

/// A connection and its place among those of its service.
pub struct Upstream {
    #[allow(missing_docs)]
    pub stream: Stream,
    counted: Option<Counted>,
}

impl Upstream {
    /// A connection that takes no place.
    pub fn uncounted(stream: Stream) -> Self {
        Upstream { stream, counted: None }
    }

    /// A connection that takes a place.
    pub fn counted(stream: Stream, counted: Counted) -> Self {
        Upstream { stream, counted: Some(counted) }
    }

    /// Somebody waits for a connection to its service.
    pub fn is_wanted(&self) -> bool {
        self.counted.as_ref().is_some_and(|Counted(live)| live.connections.waiting() > 0)
    }

    /// Somebody who waits for a connection to this service may have this one, which has become idle.
    pub fn offer(&self) {
        if let Some(Counted(live)) = &self.counted {
            live.connections.nudge();
        }
    }
}

/// A place among the connections of a service, given back when it is dropped.
pub struct Counted(Arc<ServiceLive>);

impl Counted {
    /// A place, if fewer than `most` are taken.
    pub fn take(live: &Arc<ServiceLive>, most: u32) -> Option<Self> {
        live.connections.enter(most).then(|| Counted(live.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.leave();
    }
}
