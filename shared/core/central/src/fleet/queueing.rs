//! How long work waits for a CPU, and what the kernel calls pressure.
//!
//! Below saturation a host is taken for M/M/c: requests come at random, cores are servers. Erlang's C is the probability that
//! one who comes has to wait. The kernel's `some` is the share of time in which somebody is runnable and does not run, which is
//! that more are there than cores: C · ρ. At saturation a backlog of work grows; then somebody always waits.

const STEPS: usize = 1_000;

/// By utilisation, for a number of cores.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Of time: somebody waits.
    pressure: Vec<f64>,
    /// Mean wait, as a multiple of a request's CPU time.
    wait: Vec<f64>,
}

impl Waiting {
    /// A host of so many cores.
    pub fn new(cores: u32) -> Self {
        let servers = f64::from(cores);
        let (mut pressure, mut wait) = (vec![], vec![]);
        for step in 0..STEPS {
            let utilisation = step as f64 / STEPS as f64;
            let c = erlang_c(cores, servers * utilisation);
            pressure.push(c * utilisation);
            wait.push(c / (servers * (1.0 - utilisation)));
        }
        Waiting { pressure, wait }
    }

    /// 0…1 of time, and multiples of a request's CPU time; at the most what 99.9 % bring.
    pub fn at(&self, utilisation: f64) -> (f64, f64) {
        let step = ((utilisation * STEPS as f64) as usize).min(STEPS - 1);
        (self.pressure.get(step).copied().unwrap_or(1.0), self.wait.get(step).copied().unwrap_or(0.0))
    }
}

/// The probability that one who comes finds all servers taken; `offered` is how many are taken on average.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    let mut blocked = 1.0; // Erlang's B, by its recursion
    for n in 1..=servers {
        blocked = offered * blocked / (f64::from(n) + offered * blocked);
    }
    let utilisation = offered / f64::from(servers);
    blocked / (1.0 - utilisation * (1.0 - blocked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erlang_c_is_that_of_tables() {
        // One server: C = utilisation. Two at 75 %: 0.6429 (2 ρ² / (1 + ρ)).
        for (servers, offered, c) in [(1, 0.3, 0.3), (1, 0.9, 0.9), (2, 1.5, 0.642_857), (4, 0.0, 0.0)] {
            assert!((erlang_c(servers, offered) - c).abs() < 1e-6, "{servers} {offered}");
        }
    }

    #[test]
    fn pressure_rises_with_utilisation_and_later_on_more_cores() {
        let (two, sixteen) = (Waiting::new(2), Waiting::new(16));
        assert!(two.at(0.3).0 < two.at(0.6).0 && two.at(0.6).0 < two.at(0.99).0);
        assert!(sixteen.at(0.6).0 < two.at(0.6).0);
        assert!(two.at(2.0).0 > 0.99 && two.at(2.0).1 > 100.0);
    }
}
