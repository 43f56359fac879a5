//! Hosts with networks of their own: network namespaces on one switch, which is a namespace too. It takes root.
//!
//! They have the addresses 10.77.0.1, .2 and so on, on `eth0`. Nothing of this machine's own network is touched: what is to
//! happen on a host is done by a thread that has moved there; sockets and processes that it makes stay there.

use std::fs::File;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use pannier_netfilter::Redirect;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NUMBERS: AtomicU32 = AtomicU32::new(0);

pub struct Network {
    mark: String,
    hosts: u8,
}

impl Network {
    /// So many hosts; None, with the reason printed, where it cannot be had. Where CI=true that is a failure.
    pub fn of(hosts: u8) -> Option<Network> {
        if !rustix::process::geteuid().is_root() {
            return skip("it takes root");
        }
        let network = Network { mark: format!("pannier-{}-{}", std::process::id(), next()), hosts };
        network.add("switch");
        network.ip("switch", "link add br0 type bridge");
        network.ip("switch", "link set br0 up");
        for host in 1..=hosts {
            let name = host.to_string();
            network.add(&name);
            let eth0 = format!("eth0 netns {}", network.namespace(&name));
            network.ip("switch", &format!("link add port{host} type veth peer name {eth0}"));
            network.ip("switch", &format!("link set port{host} master br0 up"));
            network.ip(&name, "link set lo up");
            network.ip(&name, &format!("addr add 10.77.0.{host}/24 dev eth0"));
            network.ip(&name, "link set eth0 up");
        }
        match network.on(1, Redirect::probe) {
            Ok(()) => Some(network),
            Err(reason) => skip(&reason),
        }
    }

    /// What a thread on that host comes to.
    pub fn on<T: Send>(&self, host: u8, task: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace(&host.to_string()))).unwrap();
        let there = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            task()
        };
        thread::scope(|scope| scope.spawn(there).join().unwrap())
    }

    /// What a command on that host prints. It is to succeed.
    pub fn run(&self, host: u8, line: &str) -> String {
        self.on(host, || run(line))
    }

    fn add(&self, name: &str) {
        run(&format!("ip netns add {}", self.namespace(name)));
    }

    fn ip(&self, name: &str, line: &str) {
        run(&format!("ip -n {} {line}", self.namespace(name)));
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.mark)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let hosts = (1..=self.hosts).map(|host| host.to_string());
        for name in hosts.chain(["switch".to_owned()]) {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(&name)]).output();
        }
    }
}

/// Whether there is nft to read with; else as `Network::of`.
pub fn has_nft() -> bool {
    Command::new("nft").arg("--version").output().is_ok() || skip::<()>("it takes nft (Debian's nftables)").is_some()
}

pub fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn skip<T>(reason: &str) -> Option<T> {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI nothing is skipped: {reason}");
    eprintln!("skipped: {reason}");
    None
}

fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn next() -> u32 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}
