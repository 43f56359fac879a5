//! A Central that comes in to the app, and nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pannier_netfilter::Redirect;

use crate::network::{Network, address};
use crate::server::{DEADLINE, LISTENER, serve};

const APP: &str = "127.0.0.1:8080";
const OUTSIDE: &str = "10.77.0.1:8080";

/// Whether a new connection from that host to the app's port on host 1 is answered, and still is when it is used again.
fn gets_in(network: &Network, host: u8) -> bool {
    network.on(host, || {
        let Ok(mut stream) = TcpStream::connect_timeout(&OUTSIDE.parse().unwrap(), Duration::from_secs(1)) else {
            return false;
        };
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut hello = [0; 22];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(b"?").unwrap();
        let mut name = [0];
        stream.read_exact(&mut name).unwrap();
        (hello[0], name[0]) == (b'a', b'a')
    })
}

#[test]
fn a_central_comes_in_to_the_app_and_nobody_else_does() {
    let Some(network) = Network::of(3) else { return };
    serve(&network, 1, APP, b'a');
    let mut redirect = network.on(1, || Redirect::open(address(LISTENER))).unwrap();
    let mut admit = |centrals: &[&str]| {
        let centrals: Vec<_> = centrals.iter().map(|text| text.parse().unwrap()).collect();
        network.on(1, || redirect.admit(address(APP), &centrals)).unwrap();
    };
    assert!(!gets_in(&network, 2), "the app listens on the loopback only");
    admit(&["10.77.0.2"]);
    assert!(gets_in(&network, 2));
    assert!(!gets_in(&network, 3), "another host is no Central");
    admit(&["10.77.0.2", "10.77.0.3"]);
    assert!(gets_in(&network, 2) && gets_in(&network, 3));
    admit(&[]);
    assert!(!gets_in(&network, 2) && !gets_in(&network, 3));
    admit(&["10.77.0.2"]);
    drop(redirect);
    assert!(!gets_in(&network, 2), "the rule is gone with its owner");
}

#[test]
fn an_app_that_others_reach_anyway_needs_no_rule() {
    let Some(network) = Network::of(1) else { return };
    let mut redirect = network.on(1, || Redirect::open(address(LISTENER))).unwrap();
    assert!(network.on(1, || redirect.admit(address("10.77.0.1:8080"), &[])).is_err());
}
