//! From shares to the kernel's messages: the table of one listener, and the guard's. Pure.
//!
//! In nft's words (`nft list ruleset` shows it so):
//!
//! ```text
//! table ip pannier-15001-4711 {
//!     flags owner
//!     chain out {
//!         type nat hook output priority dstnat
//!         ip daddr 127.0.0.1 tcp dport 15001 tcp flags & (fin|syn|rst|ack) == syn numgen random mod 10000 < 3000 dnat to 10.77.0.2:15090
//!     }
//!     chain source {
//!         type nat hook postrouting priority srcnat
//!         oif != "lo" ip saddr 127.0.0.0/8 meta l4proto tcp ct original ip daddr 127.0.0.1 ct original proto-dst 15001 masquerade
//!     }
//!     chain in {
//!         type nat hook prerouting priority dstnat
//!         ip saddr 10.77.0.2 tcp dport 8080 tcp flags & (fin|syn|rst|ack) == syn dnat to 127.0.0.1:8080
//!     }
//! }
//! ```
//!
//! - **Only a SYN is drawn for.** With the first NAT chain the kernel begins to track connections, and takes those that are
//!   there already for new ones, in the middle of their bytes: without the match on flags they would be moved.
//! - **Several Centrals: one rule each**, each drawing from what the ones before have left (a of 10 000, then b of
//!   10 000 - a, …), which is exact, in whole numbers. Refused: a map of ranges, a set more for the same.
//! - **The chain `source` knows the listener, not the Centrals**, so it never changes: a packet that was sent off by the
//!   rules before a change would else meet the ones after it, and leave as 127.0.0.1.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::expression::{Expressions, Header, Is, Meta, Original};
use crate::message::{Attributes, Message};

/// All new connections.
pub const WHOLE: u32 = 10_000;
/// The table of the guards, one chain for each interface.
pub const GUARD: &str = "pannier-guard";

const TABLES: u16 = 10 << 8;
const NEW_TABLE: u16 = TABLES;
const DELETE_TABLE: u16 = TABLES | 2;
const NEW_CHAIN: u16 = TABLES | 3;
const GET_CHAIN: u16 = TABLES | 4;
const NEW_RULE: u16 = TABLES | 6;
const DELETE_RULE: u16 = TABLES | 8;

const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const OWNER: u32 = 2;
const ACCEPT: u32 = 1;
const TCP: u8 = 6;
const LOOPBACK: [u8; 1] = [127];
/// The number of `lo` in every network namespace, as the kernel compares it.
const LO: [u8; 4] = 1u32.to_ne_bytes();

const SOURCE_ADDRESS: u32 = 12;
const TARGET_ADDRESS: u32 = 16;
const TARGET_PORT: u32 = 2;
const FLAGS: u32 = 13;
const SYN: u8 = 0x02;
const FIN_SYN_RST_ACK: u8 = 0x17;

const OUT: &str = "out";
const IN: &str = "in";
const SOURCE: &str = "source";

/// Where a base chain is hooked: number of the hook, priority, type.
struct Hook(u32, i32, &'static str);
const BEFORE_ANYTHING: Hook = Hook(0, -300, "filter");
const BEFORE_ROUTING: Hook = Hook(0, -100, "nat");
const OUTPUT: Hook = Hook(3, -100, "nat");
const AFTER_ROUTING: Hook = Hook(4, 100, "nat");

/// The table that goes with the socket that made it; an error if there is one of its name.
pub fn owned_table(name: &str) -> Message {
    table(name, OWNER, EXCLUSIVE)
}

/// The end of a table and all that is in it.
pub fn delete_table(name: &str) -> Message {
    let mut attributes = ipv4();
    attributes.text(1, name);
    Message { what: "the removal of the table", kind: DELETE_TABLE, flags: 0, body: attributes.finish() }
}

/// The two chains, and what is in `source`.
pub fn chains(table: &str, listener: SocketAddrV4) -> Vec<Message> {
    let source = rule(table, SOURCE, |rule| {
        rule.meta(Meta::OutIndex).expect(Is::Not, &LO);
        rule.field(Header::Network, SOURCE_ADDRESS, 1).expect(Is::Equal, &LOOPBACK);
        rule.meta(Meta::Protocol).expect(Is::Equal, &[TCP]);
        rule.original(Original::Address).expect(Is::Equal, &listener.ip().octets());
        rule.original(Original::Port).expect(Is::Equal, &listener.port().to_be_bytes());
        rule.masquerade();
    });
    vec![chain(table, OUT, &OUTPUT), chain(table, SOURCE, &AFTER_ROUTING), source]
}

/// What replaces all that is in `out`. The shares are of `WHOLE`, come to no more than it, and none is 0.
pub fn draws(table: &str, listener: SocketAddrV4, shares: &[(SocketAddrV4, u32)]) -> Vec<Message> {
    let mut messages = vec![flush(table, OUT)];
    let mut left = WHOLE;
    for &(central, share) in shares {
        messages.push(rule(table, OUT, |rule| {
            rule.field(Header::Network, TARGET_ADDRESS, 4).expect(Is::Equal, &listener.ip().octets());
            rule.meta(Meta::Protocol).expect(Is::Equal, &[TCP]);
            rule.field(Header::Transport, TARGET_PORT, 2).expect(Is::Equal, &listener.port().to_be_bytes());
            rule.field(Header::Transport, FLAGS, 1).mask(FIN_SYN_RST_ACK).expect(Is::Equal, &[SYN]);
            if share < left {
                rule.draw(left).expect(Is::Below, &share.to_be_bytes());
            }
            rule.dnat(central);
        }));
        left = left.saturating_sub(share);
    }
    messages
}

/// What replaces all that is in `in`: a Central's new connections to the app's port, at whatever address of this host, go to
/// the app.
pub fn admissions(table: &str, app: SocketAddrV4, centrals: &[Ipv4Addr]) -> Vec<Message> {
    let mut messages = vec![chain(table, IN, &BEFORE_ROUTING), flush(table, IN)];
    messages.extend(centrals.iter().map(|central| {
        rule(table, IN, |rule| {
            rule.field(Header::Network, SOURCE_ADDRESS, 4).expect(Is::Equal, &central.octets());
            rule.meta(Meta::Protocol).expect(Is::Equal, &[TCP]);
            rule.field(Header::Transport, TARGET_PORT, 2).expect(Is::Equal, &app.port().to_be_bytes());
            rule.field(Header::Transport, FLAGS, 1).mask(FIN_SYN_RST_ACK).expect(Is::Equal, &[SYN]);
            rule.dnat(app);
        })
    }));
    messages
}

/// What came by the interface to or from 127.0.0.0/8 is dropped. The same again changes nothing.
pub fn guard(interface: &str) -> Vec<Message> {
    let chain_name = guard_chain(interface);
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from;
    }
    let side = |offset| {
        rule(GUARD, &chain_name, |rule| {
            rule.meta(Meta::InName).expect(Is::Equal, &name);
            rule.field(Header::Network, offset, 1).expect(Is::Equal, &LOOPBACK);
            rule.drop();
        })
    };
    vec![
        table(GUARD, 0, 0),
        chain(GUARD, &chain_name, &BEFORE_ANYTHING),
        flush(GUARD, &chain_name),
        side(TARGET_ADDRESS),
        side(SOURCE_ADDRESS),
    ]
}

/// The question whether that interface has its guard.
pub fn find_guard(interface: &str) -> Message {
    let mut attributes = ipv4();
    attributes.text(1, GUARD).text(3, &guard_chain(interface));
    Message { what: "the guard", kind: GET_CHAIN, flags: 0, body: attributes.finish() }
}

fn guard_chain(interface: &str) -> String {
    format!("from-{interface}")
}

fn table(name: &str, table_flags: u32, flags: u16) -> Message {
    let mut attributes = ipv4();
    attributes.text(1, name).number(2, table_flags);
    Message { what: "the table", kind: NEW_TABLE, flags, body: attributes.finish() }
}

fn chain(table: &str, name: &str, &Hook(number, priority, kind): &Hook) -> Message {
    let mut attributes = ipv4();
    attributes.text(1, table).text(3, name).text(7, kind).number(5, ACCEPT).nested(4, |hook| {
        hook.number(1, number).number(2, priority.cast_unsigned());
    });
    Message { what: "a chain", kind: NEW_CHAIN, flags: CREATE, body: attributes.finish() }
}

fn rule(table: &str, chain: &str, write: impl FnOnce(&mut Expressions<'_>)) -> Message {
    let mut attributes = ipv4();
    attributes.text(1, table).text(2, chain).nested(4, |list| write(&mut Expressions(list)));
    Message { what: "a rule", kind: NEW_RULE, flags: CREATE | APPEND, body: attributes.finish() }
}

fn flush(table: &str, chain: &str) -> Message {
    let mut attributes = ipv4();
    attributes.text(1, table).text(2, chain);
    Message { what: "the removal of rules", kind: DELETE_RULE, flags: 0, body: attributes.finish() }
}

/// nf_tables' fixed part: the family, a version, nothing.
fn ipv4() -> Attributes {
    Attributes::after(&[2, 0, 0, 0])
}

#[cfg(test)]
mod tests;
