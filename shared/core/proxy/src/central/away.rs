//! What a host's workers know of the way out: how much leaves, by which way, and to which Centrals. The controller's thread
//! writes it, every connection of the app reads it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pannier_central::order::{self, Criticality};
use tokio::sync::Notify;

const WHOLE: f64 = 10_000.0;

/// A Central that takes something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    #[allow(missing_docs)]
    pub address: SocketAddr,
    /// Its share of what leaves, 0…1.
    pub share: f64,
}

/// The way out.
#[derive(Default)]
pub struct Away {
    weight: AtomicU32,
    redirects: AtomicBool,
    relays: AtomicBool,
    sheds: AtomicBool,
    targets: Mutex<Arc<[Target]>>,
    lost: Mutex<Vec<SocketAddr>>,
    /// Rung when a Central is lost, and when one is there.
    pub changed: Notify,
}

/// A class of requests, in the order of leaving.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    #[allow(missing_docs)]
    pub criticality: Criticality,
    /// It may be repeated without harm.
    pub repeatable: bool,
}

impl Away {
    /// How much leaves, 0…1.
    pub fn weight(&self) -> f64 {
        f64::from(self.weight.load(Ordering::Relaxed)) / WHOLE
    }

    /// Whether anything leaves at all: what each request asks.
    pub fn is_open(&self) -> bool {
        self.weight.load(Ordering::Relaxed) > 0
    }

    /// The kernel takes new connections: those that are here are to be ended, not handed over.
    pub fn redirects(&self) -> bool {
        self.redirects.load(Ordering::Relaxed)
    }

    /// Whether connections are handed over, if any are to leave.
    pub fn relays(&self) -> bool {
        self.relays.load(Ordering::Relaxed)
    }

    /// Whether a connection leaves that stands at `draw` in the order and has such a request.
    pub fn takes(&self, draw: f64, class: Class) -> bool {
        draw < order::share(self.weight(), class.criticality, class.repeatable)
    }

    /// Whether the host starves and nothing can leave: then it serves less.
    pub fn sheds(&self) -> bool {
        self.sheds.load(Ordering::Relaxed)
    }

    /// The Centrals.
    pub fn targets(&self) -> Arc<[Target]> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a Central is one of those that take something.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.targets().iter().any(|target| target.address == address)
    }

    /// Whether a Central has not answered for so long that what is on its way there will not be.
    pub fn has_lost(&self, address: SocketAddr) -> bool {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    /// One of the Centrals that are `welcome`, by its share; `unit` is random, 0…1.
    pub fn choose(&self, unit: f64, welcome: impl Fn(SocketAddr) -> bool) -> Option<SocketAddr> {
        let targets = self.targets();
        let those = || targets.iter().filter(|target| welcome(target.address));
        let mut left = unit * those().map(|target| target.share).sum::<f64>();
        for target in those() {
            left -= target.share;
            if left < 0.0 {
                return Some(target.address);
            }
        }
        those().last().map(|target| target.address)
    }

    /// Puts it in force: how much of the app's calls leaves (0…1), and by which way; whether to serve less.
    pub fn set(&self, weight: f64, way: &str, sheds: bool) {
        let weight = (weight.clamp(0.0, 1.0) * WHOLE) as u32;
        let (redirects, relays) = (way == "redirect", way == "relay");
        let before = (
            self.redirects.swap(redirects, Ordering::Relaxed),
            self.relays.swap(relays, Ordering::Relaxed),
            self.weight.swap(weight, Ordering::Relaxed) > 0,
        );
        self.sheds.store(sheds, Ordering::Relaxed);
        if before != (redirects, relays, weight > 0) {
            self.changed.notify_waiters();
        }
    }

    /// Says which Centrals take something, and which are lost.
    pub fn point_to(&self, targets: Vec<Target>, lost: Vec<SocketAddr>) {
        let mut current = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let same = current.iter().map(|t| t.address).eq(targets.iter().map(|t| t.address)) && *before == lost;
        (*current, *before) = (targets.into(), lost);
        drop((current, before));
        if !same {
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_is_divided_by_the_shares() {
        let away = Away::default();
        assert_eq!(away.choose(0.5, |_| true), None);
        let [one, other] = ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap()];
        away.point_to(vec![Target { address: one, share: 0.75 }, Target { address: other, share: 0.25 }], Vec::new());
        let to_one = (0..1000).filter(|i| away.choose(f64::from(*i) / 1000.0, |_| true) == Some(one)).count();
        assert_eq!(to_one, 750);
        assert_eq!(away.choose(1.0, |_| true), Some(other), "a random number never is 1, and rounding may make it so");
        assert!(away.has(other));
        assert_eq!(away.choose(0.1, |address| address != one), Some(other), "who is not welcome is passed over");
    }

    #[test]
    fn a_connection_leaves_while_the_weight_is_above_its_draw() {
        let away = Away::default();
        let plain = Class { criticality: Criticality::Default, repeatable: true };
        assert!(!away.is_open() && !away.takes(0.0, plain));
        away.set(0.4, "relay", false);
        assert!(away.is_open() && away.takes(0.39, plain) && !away.takes(0.41, plain));
        away.set(1.0, "redirect", false);
        assert!(away.takes(0.9999, plain) && away.redirects());
    }
}
