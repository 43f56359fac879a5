//! What this process says of its Central Mesh, for people and other processes: `shared/central.py` reads it.

use pannier_table::bulletin::BULLETIN_BYTES;
use serde::Serialize;

/// All of it. Points are 0…100; inputs as in [`pannier_central::sample::Sample`].
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Bulletin {
    pub state: &'static str,
    pub weight: f64,
    pub limit: f64,
    pub reason: &'static str,
    pub forced: bool,
    pub way: &'static str,
    pub inbound: bool,
    pub since_ms: u64,
    pub inputs: Inputs,
    pub moved_rps: f64,
    pub saved_cores: f64,
    pub granted_rps: f64,
    pub centrals: Vec<Central>,
    pub reversals: u64,
    pub shedding: bool,
    pub trouble: Vec<String>,
    pub gateway: Option<Gateway>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Inputs {
    pub host_pressure: Option<f64>,
    pub cgroup_pressure: Option<f64>,
    pub throttled: Option<f64>,
    pub run_delay_ms: Option<f64>,
    pub queue_wait_ms: Option<f64>,
    pub idle: Option<f64>,
    pub returning: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Central {
    pub address: String,
    pub up: bool,
    pub granted_rps: f64,
    pub rtt_ms: f64,
    pub trouble: String,
}

#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Gateway {
    pub hosts: usize,
    pub capacity: f64,
    pub granted_rps: f64,
    pub served_rps: f64,
    pub served: u64,
    pub pressed: bool,
    pub strangers: u64,
}

/// Characters of a text; and of long lists what fits.
const TEXT: usize = 160;

impl Bulletin {
    /// As it is written.
    #[must_use]
    pub fn encode(mut self) -> Vec<u8> {
        let texts = self.centrals.iter_mut().map(|central| &mut central.trouble).chain(&mut self.trouble);
        for text in texts {
            if let Some((end, _)) = text.char_indices().nth(TEXT) {
                text.truncate(end);
            }
        }
        loop {
            let bytes = rmp_serde::to_vec_named(&self).unwrap_or_default();
            if bytes.len() <= BULLETIN_BYTES || (self.centrals.pop().is_none() && self.trouble.pop().is_none()) {
                return bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_there_can_be_fits() {
        let long = || "ä".repeat(1_000);
        let central = Central {
            address: "[fd00:1111:2222:3333:4444:5555:6666:7777]:15090".into(),
            trouble: long(),
            ..Central::default()
        };
        let all = Bulletin {
            state: "returning",
            reason: "cgroup-pressure",
            way: "redirect",
            centrals: vec![central; 20],
            trouble: vec![long(); 20],
            gateway: Some(Gateway::default()),
            ..Bulletin::default()
        };
        let bytes = all.encode();
        assert!((1_000..=BULLETIN_BYTES).contains(&bytes.len()), "{}", bytes.len());
    }
}
