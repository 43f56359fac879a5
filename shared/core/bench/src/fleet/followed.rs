//! What a host knows of a service that it follows, and whether what it is told may be true.

use super::message::Told;
use super::plan::{address_of, instance_of};

/// An instance as one host knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its life; 0: nothing is known of it.
    pub epoch: u64,
    /// When it was written.
    pub revision: u64,
    /// How often it had been changed.
    pub stamp: u64,
    /// It is to get no new calls.
    pub draining: bool,
    /// It is there.
    pub there: bool,
    /// Its renewals are missed.
    pub suspect: bool,
}

/// A service as one host knows it.
pub struct Followed {
    /// Its number.
    pub service: usize,
    /// Up to which it is known; 0: it is not.
    pub revision: u64,
    first: usize,
    seen: Vec<Seen>,
}

/// What must never be told.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

impl Followed {
    /// Nothing is known yet of these instances.
    pub fn new(service: usize, instances: &std::ops::Range<usize>) -> Self {
        Self { service, revision: 0, first: instances.start, seen: vec![Seen::default(); instances.len()] }
    }

    /// What is known of its instances, with their numbers.
    pub fn seen(&self) -> impl Iterator<Item = (usize, &Seen)> {
        (self.first..).zip(&self.seen)
    }

    /// Takes over what was told. `newer(instance, before, now)` is called for each instance that has been changed since
    /// it was told last, with its stamps.
    ///
    /// # Errors
    /// A revision or an epoch goes backwards, an instance is not of this service, or an address not of its life.
    pub fn told(
        &mut self,
        revision: u64,
        instances: &[Told<'_>],
        gone: &[&str],
        whole: bool,
        mut newer: impl FnMut(usize, u64, u64),
    ) -> Result<(), Wrong> {
        if revision < self.revision {
            return Err(Wrong(format!("revision {revision} of a service after {}", self.revision)));
        }
        self.revision = revision;
        if whole {
            for one in &mut self.seen {
                one.there = false;
            }
        }
        for id in gone {
            self.find(id)?.1.there = false;
        }
        for told in instances {
            let (number, seen) = self.find(told.id)?;
            if (told.epoch, told.revision) < (seen.epoch, seen.revision) || told.stamp < seen.stamp {
                return Err(Wrong(format!("{told:?} after {seen:?}")));
            }
            if told.address != address_of(number, told.epoch) {
                return Err(Wrong(format!("{told:?} is at the address of another life")));
            }
            let before = seen.stamp;
            *seen = Seen {
                epoch: told.epoch,
                revision: told.revision,
                stamp: told.stamp,
                draining: told.state == "DRAINING",
                there: true,
                suspect: told.suspect,
            };
            if told.stamp > before {
                newer(number, before, told.stamp);
            }
        }
        Ok(())
    }

    fn find(&mut self, id: &str) -> Result<(usize, &mut Seen), Wrong> {
        let number = instance_of(id).ok_or_else(|| Wrong(format!("an instance {id:?}")))?;
        let place = number.checked_sub(self.first).and_then(|index| self.seen.get_mut(index));
        place.map(|seen| (number, seen)).ok_or_else(|| Wrong(format!("{id} is not of service {}", self.service)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Followed, Told, Wrong};
    use crate::fleet::plan::{address_of, instance_id};

    #[test]
    fn changes_are_seen_and_what_goes_backwards_is_wrong() -> Result<(), Wrong> {
        let mut followed = Followed::new(1, &(50..52));
        let (id, old, new) = (instance_id(51), address_of(51, 1), address_of(51, 2));
        let told = |epoch, revision, stamp| Told {
            id: &id,
            address: if epoch == 1 { &old } else { &new },
            state: "UP",
            epoch,
            revision,
            stamp,
            suspect: false,
        };
        let mut found = Vec::new();
        followed.told(5, &[told(1, 5, 2)], &[], true, |number, before, now| found.push((number, before, now)))?;
        followed.told(6, &[told(2, 6, 4)], &[], false, |number, before, now| found.push((number, before, now)))?;
        assert_eq!(found, [(51, 0, 2), (51, 2, 4)]);
        assert!(followed.told(5, &[], &[], false, |_, _, _| ()).is_err(), "a service goes backwards");
        assert!(followed.told(7, &[told(2, 5, 4)], &[], false, |_, _, _| ()).is_err(), "an instance goes backwards");
        let elsewhere = Told { address: &old, ..told(2, 7, 4) };
        assert!(followed.told(7, &[elsewhere], &[], false, |_, _, _| ()).is_err(), "it is where it was");
        followed.told(8, &[], &[&id], false, |_, _, _| ())?;
        assert!(followed.seen().all(|(_, seen)| !seen.there));
        assert!(followed.told(9, &[], &["host-1-18080"], false, |_, _, _| ()).is_err(), "of another service");
        Ok(())
    }
}
