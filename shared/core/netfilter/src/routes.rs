//! By which interfaces packets to an address leave this host: all of them, where a route has several ways.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::message::{Attributes, Message, attributes, u16_at, u32_at};
use crate::netlink::{Refused, Socket};

const GET_ROUTE: u16 = 26;
/// The route as it stands in the table, so that all its ways are told instead of one that was chosen.
const AS_IN_TABLE: u32 = 0x2000;
const FIXED: usize = 12;
const TARGET: u16 = 1;
const INTERFACE: u16 = 4;
const WAYS: u16 = 9;
/// The type of a route, in the fixed part, and the one that is a way to other hosts.
const TYPE_AT: usize = 7;
const UNICAST: u8 = 1;

/// The names of the interfaces; none if the address is this host's own.
pub fn interfaces(routing: &mut Socket, to: Ipv4Addr) -> Result<BTreeSet<String>, String> {
    let answer = routing.ask(&question(to)).map_err(|Refused { errno, .. }| format!("no route to {to}: {errno}"))?;
    let found = indexes(answer);
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(|errno| errno.to_string())?;
    let name = |index| netdevice::index_to_name(&any, index).map_err(|errno| format!("the interface to {to}: {errno}"));
    found.into_iter().map(name).collect()
}

fn question(to: Ipv4Addr) -> Message {
    // Family, and how many bits of the target count; then the flags.
    let fixed = [[2, 32, 0, 0], [0; 4], AS_IN_TABLE.to_ne_bytes()];
    let mut body = Attributes::after(fixed.as_flattened());
    body.bytes(TARGET, &to.octets());
    Message { what: "a route", kind: GET_ROUTE, flags: 0, body: body.finish() }
}

fn indexes(answer: &[u8]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    if answer.get(TYPE_AT) != Some(&UNICAST) {
        return found;
    }
    for (kind, value) in attributes(answer.get(FIXED..).unwrap_or_default()) {
        match kind {
            INTERFACE => found.extend(u32_at(value, 0)),
            WAYS => found.extend(ways(value)),
            _ => {}
        }
    }
    found
}

/// Each way: its length, two bytes, its interface, then attributes.
fn ways(mut bytes: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?).max(8);
        let index = u32_at(bytes, 4)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(index)
    })
}
