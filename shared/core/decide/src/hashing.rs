//! The same session to the same endpoint: a ketama ring and Maglev's table, over xxHash64.
//!
//! Built when a cluster is compiled, over all of its endpoints; who is out is stepped over when one is looked up, so that
//! an ejection moves the sessions of that endpoint alone. *Ring*: at least 1024 points, as many a unit of weight for each
//! (Envoy's ring hash, which however scales them so that all move a little when one endpoint more is there). *Maglev* (Eisenbud et al., NSDI 2016): 65537 entries, weights by how often one may choose.

use xxhash_rust::xxh64::xxh64;

use crate::cluster::Endpoint;

/// Points of a ring at the least.
pub const RING_MIN: usize = 1024;
/// Points of a ring at the most.
const RING_MAX: usize = 1 << 20;
/// Entries of Maglev's table, a prime.
pub const MAGLEV: usize = 65_537;
/// An endpoint of a hashed cluster has at most so much more than its share under way (Mirrokni et al., 2018).
pub const BOUND: f64 = 1.25;

/// A hash of a session, an id, a name.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// A draw that follows from a request's id: the same for each attempt of it. Eight bytes a step; ids are short, and it runs
/// once a request.
#[must_use]
pub fn draw(id: &[u8]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ id.len() as u64;
    let mut mix = |word: u64| state = (state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31);
    let (words, rest) = id.as_chunks::<8>();
    words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
    rest.iter().for_each(|byte| mix(u64::from(*byte)));
    (state ^ state >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

/// Which endpoints a hash leads to.
#[derive(Debug)]
pub enum HashTable {
    /// Points in their order, each with the endpoint that it belongs to.
    Ring(Vec<(u64, u32)>),
    /// An endpoint an entry.
    Maglev(Vec<u32>),
}

impl HashTable {
    /// A ketama ring.
    #[must_use]
    pub fn ring(endpoints: &[Endpoint]) -> HashTable {
        let total: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
        // A power of two, so that one endpoint more or less does not move the points of all others.
        let a_unit = RING_MIN.div_ceil(usize::try_from(total).unwrap_or(usize::MAX).max(1)).next_power_of_two();
        let most = RING_MAX / endpoints.len().max(1);
        let mut points = Vec::new();
        for (index, endpoint) in (0_u32..).zip(endpoints) {
            for point in 0..(endpoint.weight as usize * a_unit).min(most) {
                points.push((hash(format!("{}_{point}", endpoint.label).as_bytes()), index));
            }
        }
        points.sort_unstable();
        HashTable::Ring(points)
    }

    /// Maglev's table.
    #[must_use]
    pub fn maglev(endpoints: &[Endpoint]) -> HashTable {
        struct Turn {
            offset: usize,
            skip: usize,
            next: usize,
            weight: f64,
            target: f64,
        }
        const EMPTY: u32 = u32::MAX;
        let most = endpoints.iter().map(|e| e.weight).max().unwrap_or(1).max(1);
        let mut turns: Vec<Turn> = endpoints
            .iter()
            .map(|e| Turn {
                offset: (xxh64(e.label.as_bytes(), 0) % MAGLEV as u64) as usize,
                skip: (xxh64(e.label.as_bytes(), 1) % (MAGLEV as u64 - 1)) as usize + 1,
                next: 0,
                weight: f64::from(e.weight) / f64::from(most),
                target: 0.0,
            })
            .collect();
        let mut entries = vec![EMPTY; if endpoints.is_empty() { 0 } else { MAGLEV }];
        let (mut filled, mut round) = (0, 1.0);
        while filled < entries.len() {
            for (index, turn) in (0_u32..).zip(turns.iter_mut()) {
                // A lighter one sits rounds out, until its share of them is a whole turn.
                if round * turn.weight < turn.target {
                    continue;
                }
                turn.target += 1.0;
                loop {
                    let place = (turn.offset + turn.next * turn.skip) % MAGLEV;
                    turn.next += 1;
                    if let Some(entry) = entries.get_mut(place)
                        && *entry == EMPTY
                    {
                        *entry = index;
                        filled += 1;
                        break;
                    }
                }
                if filled == entries.len() {
                    break;
                }
            }
            round += 1.0;
        }
        HashTable::Maglev(entries)
    }

    /// The endpoints that a hash leads to, the first choice first; each may come more than once.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (start, length) = match self {
            HashTable::Ring(points) => (points.partition_point(|(at, _)| *at < hash), points.len()),
            HashTable::Maglev(entries) => ((hash % MAGLEV as u64) as usize, entries.len()),
        };
        (0..length).filter_map(move |step| {
            let place = (start + step) % length;
            match self {
                HashTable::Ring(points) => points.get(place).map(|(_, index)| *index as usize),
                HashTable::Maglev(entries) => entries.get(place).map(|index| *index as usize),
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::cluster::tests::endpoints;

    fn shares(table: &HashTable, n: usize) -> Vec<f64> {
        let mut counts = vec![0.0; n];
        for session in 0..50_000_u64 {
            counts[table.walk(hash(&session.to_le_bytes())).next().unwrap()] += 1.0 / 50_000.0;
        }
        counts
    }

    #[test]
    fn shares_follow_the_weights() {
        let weighted = endpoints(&[1, 2, 1]);
        for (table, tolerance) in [(HashTable::ring(&weighted), 0.06), (HashTable::maglev(&weighted), 0.02)] {
            for (share, expected) in shares(&table, 3).into_iter().zip([0.25, 0.5, 0.25]) {
                assert!((share - expected).abs() < tolerance, "{share} of {expected}");
            }
        }
    }

    #[test]
    fn one_that_leaves_moves_little_but_its_own() {
        let (all, fewer) = (endpoints(&[1; 5]), endpoints(&[1; 4]));
        for (before, after, most) in [
            (HashTable::ring(&all), HashTable::ring(&fewer), 0.001),
            (HashTable::maglev(&all), HashTable::maglev(&fewer), 0.05),
        ] {
            let moved = (0..20_000_u64)
                .filter(|session| {
                    let hash = hash(&session.to_le_bytes());
                    let was = before.walk(hash).next().unwrap();
                    was != 4 && Some(was) != after.walk(hash).next()
                })
                .count();
            assert!((moved as f64) / 20_000.0 <= most, "{moved} moved");
        }
    }

    #[test]
    fn an_empty_cluster_leads_nowhere() {
        assert_eq!(HashTable::ring(&[]).walk(7).next(), None);
        assert_eq!(HashTable::maglev(&[]).walk(7).next(), None);
    }
}
