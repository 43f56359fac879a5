//! What stays behind: `route_localnet` and its guard, and that nobody gets in by them.

use std::net::UdpSocket;
use std::time::Duration;

use pannier_netfilter::Redirect;

use crate::network::{Network, address, has_nft};
use crate::server::{DEADLINE, LISTENER};

const SETTING: &str = "/proc/sys/net/ipv4/conf/eth0/route_localnet";

fn opened(network: &Network) -> Redirect {
    network.on(1, || {
        let mut redirect = Redirect::open(address(LISTENER)).unwrap();
        redirect.set(&[(address("10.77.0.2:15090"), 10_000)]).unwrap();
        redirect
    })
}

fn put(network: &Network, host: u8, setting: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/conf/{setting}");
    network.on(host, || std::fs::write(path, value)).unwrap();
}

/// Host 2 sends to 127.0.0.5 by host 1, and from 127.0.0.9 if it likes. Host 1 is as careless as it can be by default.
fn make_neighbour(network: &Network) {
    network.run(2, "ip route del local 127.0.0.0/8 dev lo table local");
    network.run(2, "ip addr add 127.0.0.9/32 dev eth0");
    network.run(2, "ip route add 127.0.0.5 via 10.77.0.1 dev eth0 src 10.77.0.2");
    put(network, 2, "eth0/route_localnet", "1");
    for (host, whose) in [(1, "eth0"), (1, "all"), (2, "eth0"), (2, "all")] {
        put(network, host, &format!("{whose}/rp_filter"), "0");
    }
}

/// Whether a datagram from host 2 arrives on host 1.
fn arrives(network: &Network, from: &str, to: &str, within: Duration) -> bool {
    let receiver = network.on(1, || UdpSocket::bind(to)).unwrap();
    receiver.set_read_timeout(Some(within)).unwrap();
    let sent = network.on(2, || UdpSocket::bind(from).unwrap().send_to(b"hello", to));
    assert_eq!(sent.unwrap(), 5);
    receiver.recv(&mut [0; 5]).is_ok()
}

#[test]
fn a_neighbour_does_not_get_in() {
    let Some(network) = Network::of(2) else { return };
    if !has_nft() {
        return;
    }
    make_neighbour(&network);
    let ways = [("10.77.0.2:0", "127.0.0.5:9999"), ("127.0.0.9:0", "10.77.0.1:9999")];
    let get_in = |within| ways.map(|(from, to)| arrives(&network, from, to, within));
    let soon = Duration::from_millis(200);
    assert!(arrives(&network, "10.77.0.2:0", "10.77.0.1:9998", DEADLINE), "they reach each other at all");
    assert_eq!(get_in(soon), [false, false], "the kernel by itself lets nobody in");
    let redirect = opened(&network);
    assert_eq!(get_in(soon), [false, false], "while the redirect lives");
    drop(redirect);
    assert_eq!(network.run(1, &format!("cat {SETTING}")), "1\n");
    assert_eq!(get_in(soon), [false, false], "after it");
    network.run(1, "nft delete table ip pannier-guard");
    assert_eq!(get_in(DEADLINE), [true, true], "it was the guard that kept them out");
}

#[test]
fn the_same_guard_for_everybody_once() {
    let Some(network) = Network::of(2) else { return };
    if !has_nft() {
        return;
    }
    let first = opened(&network);
    let guard = network.run(1, "nft list table ip pannier-guard");
    drop(first);
    let second = opened(&network);
    assert_eq!(network.run(1, "nft list table ip pannier-guard"), guard);
    // As if two had found it closed at the same time.
    put(&network, 1, "eth0/route_localnet", "0");
    drop(second);
    drop(opened(&network));
    assert_eq!(network.run(1, "nft list table ip pannier-guard"), guard);
    assert_eq!(network.run(1, &format!("cat {SETTING}")), "1\n");
}

#[test]
fn a_guard_that_was_flushed_comes_back_with_the_next_change() {
    let Some(network) = Network::of(2) else { return };
    if !has_nft() {
        return;
    }
    let mut redirect = opened(&network);
    let guard = network.run(1, "nft list table ip pannier-guard");
    network.run(1, "nft flush ruleset");
    let left = network.run(1, "nft list tables");
    assert!(left.contains("pannier-15001-") && !left.contains("guard"), "ours is nobody's to flush: {left}");
    network.on(1, || redirect.set(&[(address("10.77.0.2:15090"), 1)])).unwrap();
    assert_eq!(network.run(1, "nft list table ip pannier-guard"), guard);
}

/// Somebody relies on it, or has their own guard.
#[test]
fn who_had_it_open_before_keeps_it_so() {
    for whose in ["all", "eth0"] {
        let Some(network) = Network::of(2) else { return };
        if !has_nft() {
            return;
        }
        put(&network, 1, &format!("{whose}/route_localnet"), "1");
        drop(opened(&network));
        assert_eq!(network.run(1, "nft list tables"), "", "{whose}");
        let eth0 = if whose == "all" { "0\n" } else { "1\n" };
        assert_eq!(network.run(1, &format!("cat {SETTING}")), eth0);
    }
}

/// A route with two ways may send either way.
#[test]
fn every_way_of_a_route_is_opened() {
    let Some(network) = Network::of(2) else { return };
    network.run(1, "ip link add side type veth peer name other");
    network.run(1, "ip addr add 10.78.0.1/24 dev side");
    network.run(1, "ip link set side up");
    network.run(1, "ip route add 10.79.0.0/16 nexthop via 10.77.0.2 nexthop via 10.78.0.2");
    network.on(1, || Redirect::open(address(LISTENER)).unwrap().set(&[(address("10.79.0.1:80"), 1)])).unwrap();
    let settings = ["eth0", "side", "other"].map(|name| format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"));
    assert_eq!(network.run(1, &format!("cat {}", settings.join(" "))), "1\n1\n0\n");
}
