//! The kernel's redirect of an app's new connections, by nftables over netlink: no `nft`, no parsing, no hop.
//!
//! A process that listens on 127.0.0.1:15001 can have so many of 10 000 new connections go to other addresses instead, the
//! Centrals. The app notices nothing: it believes that it talks to 127.0.0.1:15001. The Central sees the host's address, with
//! the app's port.
//!
//! The other way round, a Central's connections can be let in to an app that listens on 127.0.0.1 only, without a hop here.
//!
//! - **The rules go with the process.** Their table is owned by the netlink socket (`NFT_TABLE_F_OWNER`, Linux 5.12): the
//!   kernel removes it when that is closed, after `kill -9` too, and lets nobody else touch it meanwhile. Each process
//!   and port has a table of its own, `pannier-PORT-PID`, so that an older and a newer process can hold one each during
//!   an upgrade. While both draw, the newer draws for what the older has left.
//! - **A change of shares is one transaction**: no connection finds half of it, none comes to nothing, and connections
//!   that are there already stay where they are. This also means that a connection that is being opened to a Central which does
//!   not answer goes on trying there.
//! - **Nothing is hooked until there is a share**; from then on the kernel tracks connections (conntrack) in this network
//!   namespace, until the process ends. With the last NAT table of the namespace, the kernel stops translating:
//!   redirected connections that are alive then are reset when they next send, unless another has shares by then. So drain
//!   before the end; at an upgrade, open the new one, and give it its shares, before the old one goes.
//!   Where connections are short, `net.netfilter.nf_conntrack_max` must hold two minutes of them (an ended connection
//!   stays that long): when the table is full, the kernel drops what is new.
//! - **Whoever connects to the listener is concerned**, also a probe from this host. There is no exception for users or
//!   processes.
//! - **`route_localnet`** stays on, and so does its guard: `localnet.rs` says why.
//!
//! Not done: UDP; IPv6 (`::1` has no `route_localnet`, such a packet cannot leave the host); listeners outside 127.0.0.0/8
//! (the chains would be the same, but then others than this host's apps may connect there); removing connections from
//! conntrack.

#![forbid(unsafe_code)]

mod advice;
mod expression;
mod localnet;
mod message;
mod netlink;
mod routes;
mod rules;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use localnet::Localnet;
use netlink::{End, Socket};

/// One listener's new connections. Its rules vanish when it is dropped, or the process ends.
pub struct Redirect {
    listener: SocketAddrV4,
    table: String,
    hooked: bool,
    netfilter: Socket,
    routing: Socket,
    localnet: Localnet,
}

impl Redirect {
    /// Whether this process may, and the kernel can. Everything is tried, nothing is left; an error says what to do.
    /// It takes some 15 ms, the kernel's own, in which it lets go of the hooks that were tried; so does the drop of a
    /// `Redirect` that had shares.
    pub fn probe() -> Result<(), String> {
        let listener = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let table = format!("pannier-probe-{}", std::process::id());
        let mut messages = vec![rules::owned_table(&table)];
        messages.extend(rules::chains(&table, listener));
        messages.extend(rules::draws(&table, listener, &[(listener, 1)]));
        let mut netfilter = Socket::to_netfilter().map_err(|refused| advice::on(&refused))?;
        netfilter.transaction(&messages, End::TryOnly).map_err(|refused| advice::on(&refused))?;
        localnet::probe()
    }

    /// For new TCP connections of this network namespace to `listener`, which is in 127.0.0.0/8. All stay as yet.
    pub fn open(listener: SocketAddrV4) -> Result<Redirect, String> {
        if !listener.ip().is_loopback() || listener.port() == 0 {
            return Err(format!(
                "{listener} cannot be redirected: only a port of 127.0.0.0/8 can, e.g. 127.0.0.1:15001"
            ));
        }
        let table = format!("pannier-{}-{}", listener.port(), std::process::id());
        let mut netfilter = Socket::to_netfilter().map_err(|refused| advice::on(&refused))?;
        let routing = Socket::to_routing().map_err(|refused| advice::on(&refused))?;
        let owned = [rules::owned_table(&table)];
        netfilter.transaction(&owned, End::Commit).map_err(|refused| advice::on(&refused))?;
        Ok(Redirect { listener, table, hooked: false, netfilter, routing, localnet: Localnet::default() })
    }

    /// Of 10 000 new connections so many go to each address, the rest stays; replaces what held before in one transaction.
    /// It is to be called in the network namespace of `open`. After an error what held before still holds. It takes 0.05 to
    /// 0.3 ms (`tests/kernel/cost.rs`), and on a busy host some milliseconds: not a thing for each request.
    pub fn set(&mut self, shares: &[(SocketAddrV4, u32)]) -> Result<(), String> {
        check(shares)?;
        let shares: Vec<_> = shares.iter().copied().filter(|(_, share)| *share > 0).collect();
        if shares.is_empty() && !self.hooked {
            return Ok(());
        }
        let mut interfaces = BTreeSet::new();
        for (central, _) in &shares {
            interfaces.extend(routes::interfaces(&mut self.routing, *central.ip())?);
        }
        for interface in &interfaces {
            self.localnet.open(&mut self.netfilter, interface)?;
        }
        let mut messages = if self.hooked { Vec::new() } else { rules::chains(&self.table, self.listener) };
        messages.extend(rules::draws(&self.table, self.listener, &shares));
        self.netfilter.transaction(&messages, End::Commit).map_err(|refused| advice::on(&refused))?;
        self.hooked = true;
        Ok(())
    }
}

impl Redirect {
    /// Lets these Centrals in to the app, which listens in 127.0.0.0/8: their new connections to its port, at whatever address of
    /// this host, go there, and nobody here touches them. Replaces what held before; none: nobody is let in.
    pub fn admit(&mut self, app: SocketAddrV4, centrals: &[Ipv4Addr]) -> Result<(), String> {
        if !app.ip().is_loopback() || app.port() == 0 {
            return Err(format!("{app} is no app's address that only this host reaches"));
        }
        for central in centrals {
            for interface in routes::interfaces(&mut self.routing, *central)? {
                self.localnet.open(&mut self.netfilter, &interface)?;
            }
        }
        let messages = rules::admissions(&self.table, app, centrals);
        self.netfilter.transaction(&messages, End::Commit).map(drop).map_err(|refused| advice::on(&refused))
    }
}

impl Drop for Redirect {
    /// Closing the socket would do, but for a child that is between fork and exec and has a copy of it for so long.
    fn drop(&mut self) {
        let _ = self.netfilter.transaction(&[rules::delete_table(&self.table)], End::Commit);
    }
}

fn check(shares: &[(SocketAddrV4, u32)]) -> Result<(), String> {
    for (central, _) in shares {
        if central.ip().is_unspecified() || central.port() == 0 {
            return Err(format!(
                "{central} is no address to redirect to: give the Central's own, e.g. 10.77.0.2:15090"
            ));
        }
    }
    let sum: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
    if sum > u64::from(rules::WHOLE) {
        return Err(format!("the shares come to {sum} of {}", rules::WHOLE));
    }
    Ok(())
}
