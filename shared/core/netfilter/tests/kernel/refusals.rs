//! What cannot be done, and that it is said with what to do.

use std::process::Command;

use pannier_netfilter::Redirect;
use rustix::process::Uid;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_thread_res_uid};

use crate::network::{Network, address};
use crate::server::{LISTENER, connect, serve};

#[test]
fn listeners_that_cannot_be_redirected() {
    for listener in ["10.77.0.1:15001", "0.0.0.0:15001", "127.0.0.1:0"] {
        let error = Redirect::open(address(listener)).err().unwrap();
        assert!(error.contains("127.0.0.1:15001") && error.contains(listener), "{error}");
    }
}

/// A thread on host 1 of a user who is nobody, with these capabilities alone.
fn as_nobody<T: Send>(network: &Network, capabilities: CapabilitySet, task: impl FnOnce() -> T + Send) -> T {
    network.on(1, || {
        let nobody = Uid::from_raw(65534);
        set_keep_capabilities(true).unwrap();
        set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let inheritable = CapabilitySet::empty();
        let sets = CapabilitySets { effective: capabilities, permitted: capabilities, inheritable };
        set_capabilities(None, sets).unwrap();
        task()
    })
}

#[test]
fn without_the_capability() {
    let Some(network) = Network::of(1) else { return };
    let errors = as_nobody(&network, CapabilitySet::empty(), || {
        [Redirect::probe().unwrap_err(), Redirect::open(address(LISTENER)).err().unwrap()]
    });
    for error in errors {
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("relay"), "{error}");
    }
}

#[test]
fn the_capability_is_enough() {
    let Some(network) = Network::of(2) else { return };
    as_nobody(&network, CapabilitySet::NET_ADMIN, || {
        Redirect::probe().unwrap();
        Redirect::open(address(LISTENER)).unwrap().set(&[(address("10.77.0.2:80"), 1)]).unwrap();
    });
}

/// Not a test: prints what a try and a change come to, in circumstances that it was started in.
#[test]
#[ignore = "for the tests here"]
fn tries() {
    let Ok(central) = std::env::var(TRIES) else { return };
    println!("\nprobe: {:?}", Redirect::probe());
    println!("set: {:?}", Redirect::open(address(LISTENER)).unwrap().set(&[(address(&central), 1)]));
}

const TRIES: &str = "PANNIER_TEST_TRIES";

/// What `tries` prints when it is run by a shell on host 1 behind these words.
fn tried(network: &Network, words: &str) -> String {
    let line = format!("{words} exec $0 --exact refusals::tries --ignored --nocapture");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &line]).arg(std::env::current_exe().unwrap()).env(TRIES, "10.77.0.2:80");
    String::from_utf8(network.on(1, || command.output()).unwrap().stdout).unwrap()
}

/// The usual container, with the capability: its `/proc/sys` is read-only.
#[test]
fn a_container_that_may_not_set_sysctls() {
    let Some(network) = Network::of(2) else { return };
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys &&";
    let said = tried(&network, read_only);
    assert_eq!(said.matches("start the container with --sysctl net.ipv4.conf.").count(), 2, "{said}");
    let with_sysctl = format!("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet && {read_only}");
    let said = tried(&network, &with_sysctl);
    assert!(said.contains("probe: Ok(())") && said.contains("set: Ok(())"), "{said}");
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
