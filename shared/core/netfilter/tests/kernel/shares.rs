//! Where new connections go, and that the others stay.

use std::collections::BTreeMap;

use pannier_netfilter::Redirect;

use crate::network::{Network, address};
use crate::server::{LISTENER, connect, count, serve};

const CENTRAL: &str = "10.77.0.2:15090";
const SECOND: &str = "10.77.0.3:15090";

/// Host 1 with an app's listener `l`, Centrals `c` and `d` on the others.
fn shop(hosts: u8) -> Option<(Network, Redirect)> {
    let network = Network::of(hosts)?;
    serve(&network, 1, LISTENER, b'l');
    serve(&network, 2, CENTRAL, b'c');
    if hosts > 2 {
        serve(&network, 3, SECOND, b'd');
    }
    let redirect = network.on(1, || Redirect::open(address(LISTENER))).unwrap();
    Some((network, redirect))
}

fn set(network: &Network, redirect: &mut Redirect, shares: &[(&str, u32)]) {
    let shares: Vec<_> = shares.iter().map(|&(central, share)| (address(central), share)).collect();
    network.on(1, || redirect.set(&shares)).unwrap();
}

/// Whether `found` of `all` is what a share comes to: within five standard deviations, so by chance not once in a million.
fn is_share(found: u32, all: u32, share: f64) -> bool {
    let all = f64::from(all);
    (f64::from(found) - all * share).abs() < 5.0 * (all * share * (1.0 - share)).sqrt()
}

#[test]
fn all_goes_to_the_central_none_stays_and_back() {
    let Some((network, mut redirect)) = shop(2) else { return };
    set(&network, &mut redirect, &[(CENTRAL, 0)]);
    assert_eq!(count(&network, 20), BTreeMap::from([('l', 20)]), "before any share");
    assert_eq!(
        network.run(1, "cat /proc/sys/net/ipv4/conf/eth0/route_localnet"),
        "0\n",
        "nothing is opened for nothing"
    );
    set(&network, &mut redirect, &[(CENTRAL, 10_000)]);
    assert_eq!(count(&network, 200), BTreeMap::from([('c', 200)]));
    let client = connect(&network);
    let port = client.stream.local_addr().unwrap().port();
    assert_eq!(client.seen_as, address(&format!("10.77.0.1:{port}")), "the Central sees the host's address");
    for nothing in [&[][..], &[(CENTRAL, 0)]] {
        set(&network, &mut redirect, nothing);
        assert_eq!(count(&network, 200), BTreeMap::from([('l', 200)]), "{nothing:?}");
    }
    drop(redirect);
    assert_eq!(count(&network, 20), BTreeMap::from([('l', 20)]), "after it was dropped");
}

#[test]
fn a_dropped_redirect_is_gone_at_once() {
    let Some((network, mut redirect)) = shop(2) else { return };
    set(&network, &mut redirect, &[(CENTRAL, 10_000)]);
    assert_eq!(connect(&network).who, 'c');
    drop(redirect);
    assert_eq!(count(&network, 20), BTreeMap::from([('l', 20)]));
}

#[test]
fn a_share_is_drawn_and_replaced() {
    let Some((network, mut redirect)) = shop(2) else { return };
    for (share, part) in [(3000, 0.3), (9000, 0.9)] {
        set(&network, &mut redirect, &[(CENTRAL, share)]);
        let found = count(&network, 1000);
        assert!(is_share(found[&'c'], 1000, part), "{share}: {found:?}");
    }
}

#[test]
fn two_centrals_have_a_share_each() {
    let Some((network, mut redirect)) = shop(3) else { return };
    set(&network, &mut redirect, &[(CENTRAL, 3000), (SECOND, 4000)]);
    let found = count(&network, 1000);
    for (who, part) in [('c', 0.3), ('d', 0.4), ('l', 0.3)] {
        assert!(is_share(found[&who], 1000, part), "{who}: {found:?}");
    }
    set(&network, &mut redirect, &[(CENTRAL, 5000), (SECOND, 5000)]);
    assert!(!count(&network, 100).contains_key(&'l'), "two halves are all");
}

/// Also one that is older than the first rule, in the middle of whose bytes the kernel begins to track it.
#[test]
fn connections_that_are_there_stay() {
    let Some((network, mut redirect)) = shop(3) else { return };
    let mut oldest = connect(&network);
    set(&network, &mut redirect, &[(CENTRAL, 10_000)]);
    assert_eq!(oldest.again().unwrap(), 'l', "the first packet of it that the kernel tracks");
    let mut to_central = connect(&network);
    set(&network, &mut redirect, &[(SECOND, 10_000)]);
    let mut to_second = connect(&network);
    set(&network, &mut redirect, &[]);
    let mut newest = connect(&network);
    for shares in [&[][..], &[(CENTRAL, 10_000)], &[(SECOND, 5000)]] {
        set(&network, &mut redirect, shares);
        let clients = [&mut oldest, &mut to_central, &mut to_second, &mut newest];
        assert_eq!(clients.map(|client| client.again().unwrap()), ['l', 'c', 'd', 'l'], "{shares:?}");
    }
}

/// While the shares change all the time, no connection is lost or lands elsewhere.
#[test]
fn a_change_is_one_step() {
    let Some((network, mut redirect)) = shop(3) else { return };
    set(&network, &mut redirect, &[(CENTRAL, 10_000)]);
    let found = std::thread::scope(|scope| {
        let counted = scope.spawn(|| count(&network, 1000));
        let mut next = [(SECOND, 10_000), (CENTRAL, 10_000)].iter().cycle();
        while !counted.is_finished() {
            set(&network, &mut redirect, &[*next.next().unwrap()]);
        }
        counted.join().unwrap()
    });
    assert_eq!(found[&'c'] + found[&'d'], 1000, "all shares were whole all the time: {found:?}");
}

/// The Central on this host, by its loopback or its own address: nothing leaves, no sysctl is touched.
#[test]
fn a_central_on_the_same_host() {
    let Some((network, mut redirect)) = shop(2) else { return };
    for (central, name) in [("127.0.0.1:16000", 'x'), ("10.77.0.1:16001", 'y')] {
        serve(&network, 1, central, u8::try_from(name).unwrap());
        set(&network, &mut redirect, &[(central, 10_000)]);
        assert_eq!(count(&network, 20), BTreeMap::from([(name, 20)]), "{central}");
    }
    let setting = "cat /proc/sys/net/ipv4/conf/eth0/route_localnet /proc/sys/net/ipv4/conf/all/route_localnet";
    assert_eq!(network.run(1, setting), "0\n0\n");
}
