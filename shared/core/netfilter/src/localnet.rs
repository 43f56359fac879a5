//! Leave to send what comes from 127.0.0.1 out of an interface: `route_localnet`, and the guard that goes with it.
//!
//! The kernel decides on the way before it changes the source, and drops a packet from 127.0.0.0/8 that would leave the
//! host, and its answer, unless `net.ipv4.conf.IF.route_localnet` is 1. That opens the other direction too: a neighbour
//! could reach what listens on 127.0.0.1 only. And the sysctl outlives this process, however it ends. So:
//!
//! - **Only the interfaces by which the Centrals are reached**, by the routing table. Refused: `conf.all`, which would open
//!   those as well that have nothing to do with it.
//! - **A guard for each, before the sysctl is set**: a chain ahead of everything that drops what comes by that interface
//!   to or from 127.0.0.0/8. Nobody owns its table, `pannier-guard`, so both stay, and together they are what the kernel does
//!   without either (but that it answers ARP for 127.0.0.0/8). Answers to redirected connections are not concerned: they
//!   come to the host's address, and become 127.0.0.1 further on.
//! - **An interface that has the sysctl without our guard is left alone**: somebody relies on it (Docker, kube-proxy).
//! - **A guard that was flushed** (`nft flush ruleset`, a firewall that is loaded again) comes back with the next change
//!   of shares, if this process had set the sysctl. Another process cannot know, and takes it for somebody else's.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use rustix::io::Errno;

use crate::netlink::{End, Socket};
use crate::{advice, rules};

const SETTINGS: &str = "/proc/sys/net/ipv4/conf";

/// The interfaces that this process has opened and guarded.
#[derive(Default)]
pub struct Localnet(BTreeSet<String>);

impl Localnet {
    /// Opens the interface if it is not open, guarded. Errors say what to do.
    pub fn open(&mut self, netfilter: &mut Socket, interface: &str) -> Result<(), String> {
        // In this order: who finds it open, and not by a stranger, finds the guard as well.
        let open = is_open("all") || is_open(interface);
        let guarded = is_guarded(netfilter, interface)?;
        if open && (guarded || !self.0.contains(interface)) {
            return Ok(());
        }
        netfilter.transaction(&rules::guard(interface), End::Commit).map_err(|refused| advice::on(&refused))?;
        if !open {
            fs::write(path(interface), "1").map_err(|error| cannot_be_set(interface, error.kind()))?;
        }
        self.0.insert(interface.to_owned());
        Ok(())
    }
}

/// Whether an interface can be opened here, or one is open already.
pub fn probe() -> Result<(), String> {
    let Err(error) = fs::OpenOptions::new().write(true).open(path("all")) else { return Ok(()) };
    let names = fs::read_dir(SETTINGS).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut others = names.filter_map(|name| name.into_string().ok()).filter(|name| name != "lo");
    if others.any(|name| is_open(&name)) { Ok(()) } else { Err(cannot_be_set("IF", error.kind())) }
}

fn path(interface: &str) -> String {
    format!("{SETTINGS}/{interface}/route_localnet")
}

fn is_open(interface: &str) -> bool {
    fs::read_to_string(path(interface)).is_ok_and(|value| value.trim() == "1")
}

fn is_guarded(netfilter: &mut Socket, interface: &str) -> Result<bool, String> {
    match netfilter.ask(&rules::find_guard(interface)) {
        Ok(_) => Ok(true),
        Err(refused) if refused.errno == Errno::NOENT => Ok(false),
        Err(refused) => Err(advice::on(&refused)),
    }
}

fn cannot_be_set(interface: &str, kind: ErrorKind) -> String {
    let name = format!("net.ipv4.conf.{interface}.route_localnet");
    format!("{name} must be 1 and cannot be set ({kind}): start the container with --sysctl {name}=1, or use the relay")
}
