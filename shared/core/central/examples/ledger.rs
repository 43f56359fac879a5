//! What tokens cost a Central: so many hosts, each asking four times a second with a want that changes every time, and more of
//! it than there is. Prints microseconds an ask, and the share of a core.
//!
//!     cargo run --release -p pannier-central --example ledger

use pannier_central::ledger::Ledger;
use std::time::Instant;

fn main() {
    for hosts in [100_u64, 1_000, 2_000] {
        let mut ledger = Ledger::new(hosts as f64 * 50.0, hosts as usize);
        let (seconds, mut asks, mut seed) = (30_u64, 0_u64, 1_u64);
        let begun = Instant::now();
        for tick in 0..seconds * 4 {
            for who in 0..hosts {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let now = tick * 250 + who * 250 / hosts;
                asks += u64::from(ledger.want(now, who, (seed >> 48) as f64 / 65_536.0 * 200.0).is_ok());
            }
        }
        let spent = begun.elapsed().as_secs_f64();
        println!(
            "{hosts:>5} hosts: {:.2} us an ask, {:.3} % of a core; {:.0} of {:.0} given out",
            spent / asks as f64 * 1e6,
            100.0 * spent / seconds as f64,
            ledger.granted(),
            ledger.in_force()
        );
    }
}
