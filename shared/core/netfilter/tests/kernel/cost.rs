//! What it costs, printed: cargo test --release -p pannier-netfilter -- --ignored --nocapture cost

use std::time::{Duration, Instant};

use pannier_netfilter::Redirect;

use crate::network::{Network, address};
use crate::server::LISTENER;

const TIMES: usize = 200;

#[test]
#[ignore = "prints figures"]
fn cost() {
    let Some(network) = Network::of(3) else { return };
    let centrals = [address("10.77.0.2:15090"), address("10.77.0.3:15090")];
    let none = || {};
    network.on(1, || {
        let mut redirect = None;
        print("open", 1, none, || redirect = Some(Redirect::open(address(LISTENER)).unwrap()));
        let mut redirect = redirect.unwrap();
        print("the first set, with sysctl and guard", 1, none, || redirect.set(&[(centrals[0], 1)]).unwrap());
        print("set, one Central", TIMES, none, || redirect.set(&[(centrals[0], 3000)]).unwrap());
        print("set, two Centrals", TIMES, none, || redirect.set(&centrals.map(|central| (central, 3000))).unwrap());
        print(
            "set, four times a second as the controller does",
            40,
            || {
                std::thread::sleep(Duration::from_millis(250));
            },
            || redirect.set(&[(centrals[0], 3000)]).unwrap(),
        );
        print("set, none", TIMES, none, || redirect.set(&[]).unwrap());
        let mut redirect = Some(redirect);
        print("drop", 1, none, || redirect = None);
        assert!(redirect.is_none());
        print("probe", 20, none, || Redirect::probe().unwrap());
    });
}

/// `pause` is not timed.
fn print(what: &str, times: usize, pause: impl Fn(), mut task: impl FnMut()) {
    let mut took: Vec<_> = (0..times)
        .map(|_| {
            pause();
            let begun = Instant::now();
            task();
            begun.elapsed().as_micros()
        })
        .collect();
    took.sort_unstable();
    println!("{what}: median {} µs, most {} µs", took[times / 2], took[times - 1]);
}
