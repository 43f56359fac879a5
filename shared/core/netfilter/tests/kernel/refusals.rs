//! What cannot be done, and that it is said with what to do.

use pannier_netfilter::Redirect;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::network::{Network, address};
use crate::server::{LISTENER, connect, serve};

#[test]
fn listeners_that_cannot_be_redirected() {
    for listener in ["10.77.0.1:15001", "0.0.0.0:15001", "127.0.0.1:0"] {
        let error = Redirect::open(address(listener)).err().unwrap();
        assert!(error.contains("127.0.0.1:15001") && error.contains(listener), "{error}");
    }
}

#[test]
fn without_the_capability() {
    let Some(network) = Network::of(1) else { return };
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let errors = network.on(1, || {
        set_capabilities(None, none).unwrap();
        [Redirect::probe().unwrap_err(), Redirect::open(address(LISTENER)).err().unwrap()]
    });
    for error in errors {
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("relay"), "{error}");
    }
}

#[test]
fn one_redirect_of_a_process_for_a_port() {
    let Some(network) = Network::of(1) else { return };
    network.on(1, || {
        let first = Redirect::open(address(LISTENER)).unwrap();
        let error = Redirect::open(address(LISTENER)).err().unwrap();
        assert!(error.contains("one redirect of a process for a port"), "{error}");
        drop(first);
        Redirect::open(address(LISTENER)).unwrap();
    });
}

/// A change that is refused leaves what held before.
#[test]
fn shares_that_cannot_be() {
    let Some(network) = Network::of(2) else { return };
    let central = "10.77.0.2:15090";
    serve(&network, 2, central, b'c');
    let mut redirect = network.on(1, || Redirect::open(address(LISTENER))).unwrap();
    network.on(1, || redirect.set(&[(address(central), 10_000)])).unwrap();
    let many: Vec<_> = (1..=2000).map(|port| (format!("10.77.0.2:{port}"), 1)).collect();
    let many: Vec<_> = many.iter().map(|(address, share)| (address.as_str(), *share)).collect();
    let cases: &[(&[(&str, u32)], &str)] = &[
        (&[(central, 9_000), (central, 1_001)], "10001 of 10000"),
        (&[(central, u32::MAX), (central, u32::MAX)], "of 10000"),
        (&[("10.77.0.2:0", 1)], "no address"),
        (&[("0.0.0.0:15090", 1)], "no address"),
        (&[("203.0.113.1:15090", 1)], "no route to 203.0.113.1"),
        (&many, "too many"),
    ];
    for (shares, reason) in cases {
        let shares: Vec<_> = shares.iter().map(|&(central, share)| (address(central), share)).collect();
        let error = network.on(1, || redirect.set(&shares)).unwrap_err();
        assert!(error.contains(reason) && !error.contains('\n'), "{error}");
        assert_eq!(connect(&network).who, 'c', "{reason}");
    }
}
