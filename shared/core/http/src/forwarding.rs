//! Who a request comes from: `Forwarded` (RFC 7239), `X-Forwarded-For`, and what else names a client or vouches for one.
//!
//! Rules:
//! - what a stranger says of himself is worth nothing: from a hop that is not trusted, all such fields are left out, in
//!   whatever spelling, and the peer's address is written in their place;
//! - behind `n` trusted hops (proxies in front of this one that each append the address they were called from, as Envoy's
//!   `xff_num_trusted_hops`), the last `n` addresses are theirs, and kept; those before them are a stranger's;
//! - a spelling with an underscore is left out even then: a server that maps names to variables takes it for the other one;
//! - both fields are written, from one list, so that no two servers behind this one can disagree about the client.
//!
//! Refused: trusting by the peer's address (a list of networks is wrong as soon as somebody moves, and wrong silently).

use std::net::IpAddr;

use crate::edits::Changes;
use crate::fields::{Field, Name, tokens};

/// A longer address is none.
const NODE: usize = 64;
/// What is written for an address that is not known, or no address (RFC 7239, 6.2).
const UNKNOWN: &str = "unknown";

/// The other end of a connection, as the next hop is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    address: Box<str>,
    /// Both fields and the scheme, for a peer that is nobody's hop.
    lines: Box<[u8]>,
}

/// The fields that are written, in their order.
const WRITTEN: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "forwarded"];

impl Peer {
    /// A peer at an address; none for a Unix socket's.
    #[must_use]
    pub fn new(address: Option<IpAddr>) -> Peer {
        let address: Box<str> = address.map_or_else(|| UNKNOWN.into(), |ip| ip.to_canonical().to_string().into());
        let mut lines =
            format!("x-forwarded-for: {address}\r\nx-forwarded-proto: http\r\nforwarded: for=").into_bytes();
        write_node(&mut lines, &address);
        lines.extend_from_slice(b";proto=http\r\n");
        Peer { address, lines: lines.into() }
    }

    /// Its address, without a port; `unknown` for none.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// What is known of a request's client: whom the connection is to, and how many hops before that are believed.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    #[allow(missing_docs)]
    pub peer: &'a Peer,
    /// Proxies in front of this one that append to the list of addresses.
    pub trusted_hops: usize,
}

impl<'a> Client<'a> {
    /// Whether a field is left out of what the next hop is told.
    #[must_use]
    pub fn drops(&self, name: Name, spelling: &str) -> bool {
        match name {
            Name::Forwarding if self.trusted_hops > 0 => {
                spelling.eq_ignore_ascii_case("forwarded") || spelling.eq_ignore_ascii_case("x-forwarded-for")
            }
            Name::Forwarding | Name::ForwardingAlias => true,
            _ => false,
        }
    }

    /// Appends the fields that say where the request comes from, but for those that a route or a header policy
    /// removes or sets itself.
    pub fn write(&self, out: &mut Vec<u8>, fields: &[Field<'_>], edits: Option<Changes<'_>>) {
        let from = out.len();
        if self.trusted_hops == 0 {
            out.extend_from_slice(&self.peer.lines);
        } else {
            self.write_believed(out, fields);
        }
        if let Some(edits) = edits.filter(|edits| WRITTEN.into_iter().any(|name| edits.drops(name))) {
            let lines = out.split_off(from);
            let kept = |line: &&[u8]| {
                let name = line.split(|b| *b == b':').next().and_then(|name| std::str::from_utf8(name).ok());
                name.is_some_and(|name| !edits.drops(name))
            };
            lines.split_inclusive(|b| *b == b'\n').filter(kept).for_each(|line| out.extend_from_slice(line));
        }
    }

    fn write_believed(&self, out: &mut Vec<u8>, fields: &[Field<'_>]) {
        out.extend_from_slice(b"x-forwarded-for: ");
        for address in self.believed(fields) {
            out.extend_from_slice(address.as_bytes());
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(self.peer.address.as_bytes());
        out.extend_from_slice(b"\r\nforwarded: ");
        for address in self.believed(fields) {
            out.extend_from_slice(b"for=");
            write_node(out, address);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(b"for=");
        write_node(out, &self.peer.address);
        out.extend_from_slice(b"\r\n");
    }

    /// The client's address: the first that is believed, without a port.
    #[must_use]
    pub fn address<'b>(self, fields: &[Field<'b>]) -> &'b str
    where
        'a: 'b,
    {
        if self.trusted_hops == 0 {
            return &self.peer.address;
        }
        self.believed(fields).next().unwrap_or(&self.peer.address)
    }

    /// The addresses that trusted hops appended: the last of the list, at most as many as there are such hops.
    fn believed<'b>(&self, fields: &[Field<'b>]) -> impl Iterator<Item = &'b str> {
        let all = listed(fields).count();
        listed(fields).skip(all.saturating_sub(self.trusted_hops)).map(checked)
    }
}

/// The addresses that a request lists: those of `X-Forwarded-For`; those of `Forwarded` if it has no such field.
fn listed<'b>(fields: &[Field<'b>]) -> impl Iterator<Item = &'b [u8]> {
    let of = |name: &'static str| fields.iter().filter(move |f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
    let has_simple = of("x-forwarded-for").next().is_some();
    let simple = of("x-forwarded-for").flat_map(tokens);
    let standard = of("forwarded").filter(move |_| !has_simple).flat_map(tokens).map(node_of);
    simple.chain(standard)
}

/// The node of `for=` in an element of `Forwarded`, without quotes; empty if there is none.
fn node_of(element: &[u8]) -> &[u8] {
    let node = element.split(|b| *b == b';').map(<[u8]>::trim_ascii).find_map(|pair| {
        let (name, value) = pair.split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    });
    let node = node.unwrap_or_default();
    node.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(node)
}

/// An address as it may be written on, without its port; anything else is not known.
fn checked(node: &[u8]) -> &str {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'[' | b']' | b'-' | b'_');
    let text = std::str::from_utf8(node).ok().filter(|text| text.len() <= NODE && text.as_bytes().iter().all(is_plain));
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return UNKNOWN;
    };
    if let Some(inner) = text.strip_prefix('[') {
        return inner.split_once(']').map_or(UNKNOWN, |(address, _)| address);
    }
    match text.split_once(':') {
        Some((address, port)) if !port.contains(':') => address,
        _ => text,
    }
}

/// Appends a node as `Forwarded` wants it: an IPv6 address in brackets and quotes.
fn write_node(out: &mut Vec<u8>, address: &str) {
    if address.contains(':') {
        out.extend_from_slice(b"\"[");
        out.extend_from_slice(address.as_bytes());
        out.extend_from_slice(b"]\"");
    } else {
        out.extend_from_slice(address.as_bytes());
    }
}

/// What a name means to whoever asks for the client. Those in use by proxies (nginx, Apache, Envoy, Linkerd, IIS) and
/// content networks, for the address, the scheme, the certificate or the user of a client; and `SCRIPT_NAME`, by which gunicorn
/// lets a peer on its own host say which part of the path is the app's. The underscore is that one's usual spelling.
#[must_use]
pub fn classify(name: &str) -> Name {
    const MOUNT: &[u8] = b"script-name";
    const WHOLE: [&[u8]; 12] = [
        b"forwarded",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-remote-addr",
        b"x-remote-ip",
        b"x-remote-user",
        b"true-client-ip",
        b"client-ip",
        b"cf-connecting-ip",
        b"remote-user",
        MOUNT,
    ];
    const BEGINNINGS: [&[u8]; 6] =
        [b"x-forwarded", b"x-envoy-", b"l5d-", b"x-ssl-client-", b"ssl-client-", b"x-client-cert"];
    let name = name.as_bytes();
    let is = |known: &[u8], part: Option<&[u8]>| {
        part.is_some_and(|part| {
            part.len() == known.len()
                && part.iter().zip(known).all(|(a, b)| a.eq_ignore_ascii_case(b) || (*b == b'-' && *a == b'_'))
        })
    };
    let known = WHOLE.iter().any(|known| is(known, Some(name)))
        || BEGINNINGS.iter().any(|known| is(known, name.get(..known.len())));
    match known {
        false => Name::Other,
        true if name.contains(&b'_') && !is(MOUNT, Some(name)) => Name::ForwardingAlias,
        true => Name::Forwarding,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(trusted_hops: usize, fields: &[(&'static str, &'static str)]) -> (String, String) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        let peer = Peer::new(Some("10.0.0.9".parse().unwrap()));
        let client = Client { peer: &peer, trusted_hops };
        let mut out = Vec::new();
        client.write(&mut out, &fields, None);
        (String::from_utf8(out).unwrap(), client.address(&fields).to_string())
    }

    #[test]
    fn a_stranger_is_told_of_by_his_address_alone() {
        let (lines, address) = told(0, &[("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=5.6.7.8")]);
        assert_eq!(
            lines,
            "x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nforwarded: for=10.0.0.9;proto=http\r\n"
        );
        assert_eq!(address, "10.0.0.9");
    }

    #[test]
    fn trusted_hops_are_believed_from_the_right() {
        let list = [("X-Forwarded-For", "6.6.6.6, 1.2.3.4"), ("x-forwarded-for", "10.0.0.1")];
        for (hops, kept, address) in
            [(1, "10.0.0.1, 10.0.0.9", "10.0.0.1"), (2, "1.2.3.4, 10.0.0.1, 10.0.0.9", "1.2.3.4")]
        {
            let (lines, client) = told(hops, &list);
            assert!(lines.starts_with(&format!("x-forwarded-for: {kept}\r\n")), "{lines}");
            assert_eq!(client, address);
        }
        let (lines, client) = told(9, &list);
        assert!(lines.starts_with("x-forwarded-for: 6.6.6.6, 1.2.3.4, 10.0.0.1, 10.0.0.9\r\n"), "{lines}");
        assert_eq!(client, "6.6.6.6");
        assert_eq!(told(1, &[]).1, "10.0.0.9", "a hop that said nothing");
    }

    #[test]
    fn both_fields_say_the_same() {
        let (lines, client) = told(2, &[("Forwarded", "for=\"[2001:db8::1]:47\";proto=https, For=1.2.3.4;by=x")]);
        assert_eq!(
            lines,
            "x-forwarded-for: 2001:db8::1, 1.2.3.4, 10.0.0.9\r\n\
             forwarded: for=\"[2001:db8::1]\", for=1.2.3.4, for=10.0.0.9\r\n"
        );
        assert_eq!(client, "2001:db8::1");
        let (lines, _) = told(1, &[("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "1.2.3.4:80")]);
        assert!(lines.contains("forwarded: for=1.2.3.4, for=10.0.0.9"), "{lines}");
    }

    #[test]
    fn a_route_has_the_last_word() {
        let none = || std::iter::empty();
        let edits = crate::edits::HeaderEdits::try_new(
            [("x-forwarded-proto", "https")].into_iter(),
            none(),
            ["Forwarded"].into_iter(),
        )
        .unwrap();
        let peer = Peer::new(None);
        let mut out = b"before\r\n".to_vec();
        Client { peer: &peer, trusted_hops: 0 }.write(&mut out, &[], Some(Changes::One(&edits)));
        assert_eq!(out, b"before\r\nx-forwarded-for: unknown\r\n");
    }

    #[test]
    fn what_is_no_address_is_not_written_on() {
        for odd in ["<script>", "a b", "\"", "x".repeat(65).leak(), "[::1", "for=x;y"] {
            let (lines, client) = told(1, &[("X-Forwarded-For", odd)]);
            assert!(lines.starts_with("x-forwarded-for: unknown, 10.0.0.9\r\n"), "{odd}: {lines}");
            assert_eq!(client, "unknown", "{odd}");
        }
        assert_eq!(Peer::new(None).address.as_ref(), "unknown");
        assert_eq!(Peer::new(Some("::ffff:1.2.3.4".parse().unwrap())).address.as_ref(), "1.2.3.4");
    }

    #[test]
    fn names_are_known_in_every_disguise() {
        for name in
            ["Forwarded", "X-Forwarded-For", "x-forwarded-client-cert", "X-Real-IP", "L5d-Client-Id", "SCRIPT_NAME"]
        {
            assert_eq!(classify(name), Name::Forwarding, "{name}");
        }
        for name in ["X_Forwarded_For", "x-forwarded_proto", "X_REAL-IP", "remote_user"] {
            assert_eq!(classify(name), Name::ForwardingAlias, "{name}");
        }
        for name in ["x-forward", "forwarded-x", "x-real-ips", "via", "x-request-start", ""] {
            assert_eq!(classify(name), Name::Other, "{name}");
        }
        let peer = Peer::new(None);
        let (stranger, trusted) = (Client { peer: &peer, trusted_hops: 0 }, Client { peer: &peer, trusted_hops: 1 });
        for (name, by_stranger, by_hop) in [
            ("X-Forwarded-For", true, true),
            ("X-Forwarded-Proto", true, false),
            ("x_forwarded_proto", true, true),
            ("SCRIPT_NAME", true, false),
            ("script-name", true, false),
            ("Accept", false, false),
        ] {
            assert_eq!(stranger.drops(classify(name), name), by_stranger, "{name}");
            assert_eq!(trusted.drops(classify(name), name), by_hop, "{name}");
        }
    }
}
