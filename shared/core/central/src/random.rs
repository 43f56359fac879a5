//! Random numbers for jitter: seeded by the caller, so that a decision can be replayed; not for secrets.

/// splitmix64 (Steele, Lea, Flood 2014): seeds that are neighbours, such as those of a fleet, have nothing in common.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// A number in 0…1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number within `around` · (1 ± `jitter`).
    pub fn spread(&mut self, around: u64, jitter: f64) -> u64 {
        (around as f64 * (1.0 + jitter * (2.0 * self.unit() - 1.0))) as u64
    }
}
