//! The expressions that rules are made of, as nf_tables takes them: little programs on registers.
//!
//! Each is what `nft --debug=netlink` prints between brackets. All use register 1, and DNAT 2 as well. Attributes stand in
//! the order in which nft writes them, so that the tests can compare bytes. Numbers: `linux/netfilter/nf_tables.h`.

use std::net::SocketAddrV4;

use crate::message::Attributes;

const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const IPV4: u32 = 2;

/// Which header a field is in.
#[derive(Clone, Copy)]
pub enum Header {
    /// IP's.
    Network = 1,
    /// TCP's.
    Transport = 2,
}

/// What is known of a packet besides its bytes.
#[derive(Clone, Copy)]
pub enum Meta {
    /// The number of the interface that it leaves by.
    OutIndex = 5,
    /// The name of the interface that it came by.
    InName = 6,
    /// TCP, UDP and so on.
    Protocol = 16,
}

/// What the connection's first packet said, before any NAT.
#[derive(Clone, Copy)]
pub enum Original {
    /// Where to, the port.
    Port = 12,
    /// Where to, the address.
    Address = 20,
}

/// How register 1 is compared: bytes, so that numbers must be in network order.
#[derive(Clone, Copy)]
pub enum Is {
    /// ==
    Equal = 0,
    /// !=
    Not = 1,
    /// <
    Below = 2,
}

/// The expressions of one rule, in order.
pub struct Expressions<'a>(pub &'a mut Attributes);

impl Expressions<'_> {
    /// `payload load`: a field of a header into register 1.
    pub fn field(&mut self, header: Header, offset: u32, length: u32) -> &mut Self {
        self.add("payload", |it| {
            it.number(1, 1).number(2, header as u32).number(3, offset).number(4, length);
        })
    }

    /// `meta load` into register 1.
    pub fn meta(&mut self, key: Meta) -> &mut Self {
        self.add("meta", |it| {
            it.number(2, key as u32).number(1, 1);
        })
    }

    /// `ct load … dir original` into register 1.
    pub fn original(&mut self, key: Original) -> &mut Self {
        self.add("ct", |it| {
            it.number(2, key as u32).number(1, 1).bytes(3, &[0]);
        })
    }

    /// `bitwise`: of the byte in register 1, only these bits.
    pub fn mask(&mut self, bits: u8) -> &mut Self {
        self.add("bitwise", |it| {
            it.number(1, 1).number(2, 1).number(6, 0).number(3, 1);
            it.nested(4, |data| {
                data.bytes(VALUE, &[bits]);
            });
            it.nested(5, |data| {
                data.bytes(VALUE, &[0]);
            });
        })
    }

    /// `numgen random`: a number below `modulus` into register 1, in network order so that it can be compared.
    pub fn draw(&mut self, modulus: u32) -> &mut Self {
        self.add("numgen", |it| {
            it.number(1, 1).number(2, modulus).number(3, 1).number(4, 0);
        });
        self.add("byteorder", |it| {
            it.number(1, 1).number(2, 1).number(3, 1).number(4, 4).number(5, 4);
        })
    }

    /// `cmp`: goes on only if register 1 is so.
    pub fn expect(&mut self, is: Is, value: &[u8]) -> &mut Self {
        self.add("cmp", |it| {
            it.number(1, 1).number(2, is as u32).nested(3, |data| {
                data.bytes(VALUE, value);
            });
        })
    }

    /// Ends the packet.
    pub fn drop(&mut self) {
        self.add("immediate", |it| {
            it.number(1, 0).nested(2, |data| {
                data.nested(2, |verdict| {
                    verdict.number(1, 0);
                });
            });
        });
    }

    /// The connection goes to `to` from now on.
    pub fn dnat(&mut self, to: SocketAddrV4) {
        self.immediate(1, &to.ip().octets());
        self.immediate(2, &to.port().to_be_bytes());
        self.add("nat", |it| {
            let port_is_given = 2;
            it.number(1, 1).number(2, IPV4).number(3, 1).number(5, 2).number(7, port_is_given);
        });
    }

    /// The connection comes from an address of the interface that it leaves by.
    pub fn masquerade(&mut self) {
        self.add("masq", |_| {});
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.add("immediate", |it| {
            it.number(1, register).nested(2, |data| {
                data.bytes(VALUE, value);
            });
        });
    }

    fn add(&mut self, name: &str, write: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.0.nested(LIST_ELEMENT, |element| {
            element.text(NAME, name).nested(DATA, write);
        });
        self
    }
}
