//! What a foreign reader, nft, makes of the tables: the same as of its own, made from the words in the head of `rules.rs`.

use std::process::Command;

use pannier_netfilter::Redirect;

use crate::network::{Network, address, has_nft};
use crate::server::LISTENER;

const CHAINS: &str = r#"
	chain out {
		type nat hook output priority -100
		DRAWS
	}
	chain source {
		type nat hook postrouting priority 100
		oif != "lo" ip saddr 127.0.0.0/8 meta l4proto tcp ct original ip daddr 127.0.0.1 ct original proto-dst 15001 masquerade
	}
"#;
const MATCH: &str = "ip daddr 127.0.0.1 tcp dport 15001 tcp flags & (fin | syn | rst | ack) == syn";
const GUARD: &str = r#"
	chain from-eth0 {
		type filter hook prerouting priority -300
		iifname "eth0" ip daddr 127.0.0.0/8 drop
		iifname "eth0" ip saddr 127.0.0.0/8 drop
	}
"#;

struct Case {
    shares: &'static [(&'static str, u32)],
    draws: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case { shares: &[("10.77.0.2:15090", 10_000)], draws: &["dnat to 10.77.0.2:15090"] },
    Case { shares: &[("10.77.0.2:15090", 3000)], draws: &["numgen random mod 10000 < 3000 dnat to 10.77.0.2:15090"] },
    Case {
        shares: &[("10.77.0.2:15090", 3000), ("10.77.0.3:81", 4000)],
        draws: &[
            "numgen random mod 10000 < 3000 dnat to 10.77.0.2:15090",
            "numgen random mod 7000 < 4000 dnat to 10.77.0.3:81",
        ],
    },
    Case {
        shares: &[("10.77.0.2:15090", 3000), ("10.77.0.3:81", 7000)],
        draws: &["numgen random mod 10000 < 3000 dnat to 10.77.0.2:15090", "dnat to 10.77.0.3:81"],
    },
    Case { shares: &[("10.77.0.2:15090", 0)], draws: &[] },
];

/// How nft lists a table that it made itself, on host 2.
fn by_nft(network: &Network, name: &str, chains: &str) -> String {
    let text = format!("table ip {name} {{{chains}}}\n");
    let done = network.on(2, || Command::new("nft").arg(&text).output()).unwrap();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    let listed = network.run(2, &format!("nft list table ip {name}"));
    network.run(2, &format!("nft delete table ip {name}"));
    listed
}

#[test]
fn nft_reads_what_was_meant() {
    let Some(network) = Network::of(3) else { return };
    if !has_nft() {
        return;
    }
    let mut redirect = network.on(1, || Redirect::open(address(LISTENER))).unwrap();
    let table = format!("pannier-15001-{}", std::process::id());
    for Case { shares, draws } in CASES {
        let shares: Vec<_> = shares.iter().map(|&(central, share)| (address(central), share)).collect();
        network.on(1, || redirect.set(&shares)).unwrap();
        let draws: Vec<_> = draws.iter().map(|draw| format!("{MATCH} {draw}")).collect();
        let expected = by_nft(&network, &table, &CHAINS.replace("DRAWS", &draws.join("\n\t\t")));
        let listed = network.run(1, &format!("nft list table ip {table}"));
        let (head, chains) = listed.split_once("flags owner\n").unwrap();
        assert!(head.starts_with(&format!("table ip {table} {{")), "{head}");
        assert_eq!(chains.trim_start(), expected.split_once("{\n").unwrap().1.trim_start(), "{shares:?}");
    }
    drop(redirect);
    assert_eq!(network.run(1, "nft list ruleset"), by_nft(&network, "pannier-guard", GUARD), "what is left");
}

#[test]
fn nobody_else_touches_the_table() {
    let Some(network) = Network::of(1) else { return };
    if !has_nft() {
        return;
    }
    let redirect = network.on(1, || Redirect::open(address(LISTENER))).unwrap();
    let before = network.run(1, "nft list ruleset");
    let table = format!("pannier-15001-{}", std::process::id());
    let deleted = network.on(1, || Command::new("nft").args(["delete", "table", "ip", &table]).output()).unwrap();
    assert!(!deleted.status.success(), "it is not theirs");
    network.run(1, "nft flush ruleset");
    assert_eq!(network.run(1, "nft list ruleset"), before);
    drop(redirect);
    assert_eq!(network.run(1, "nft list ruleset"), "");
}

#[test]
fn trying_leaves_nothing() {
    let Some(network) = Network::of(1) else { return };
    if !has_nft() {
        return;
    }
    network.on(1, Redirect::probe).unwrap();
    assert_eq!(network.run(1, "nft list ruleset"), "");
}
