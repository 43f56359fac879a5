//! A client of xDS v3: one delta stream over gRPC, as much HTTP/2 as that needs, and the endpoints of services by name.
//!
//! The pilot is known to speak HTTP/2. Its windows are opened as far as they go at the beginning, 2 GiB a connection,
//! and never again; its headers are not looked at, only whether the stream goes on.

use std::io;

use rustix::fd::OwnedFd;
use rustix::io::{Errno, read, write};

use super::message::Told;
use super::msgpack::Unreadable;
use super::plan::{instance_at, service_name};
use super::protobuf::{field, fields, put_bytes};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const WINDOW: u32 = 0x7fff_ffff;
const FIRST_WINDOW: u32 = 65_535;
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const DRAINING: u64 = 3;

/// A connection with its one stream.
pub struct Xds {
    /// The socket.
    pub socket: OwnedFd,
    out: Vec<u8>,
    received: Vec<u8>,
    message: Vec<u8>,
}

/// The endpoints of a service, as they are told.
pub struct Assignment {
    /// Of the service.
    pub name: String,
    /// All of them: where, in which life, how often changed, whether it drains.
    pub endpoints: Vec<Endpoint>,
}

/// One of them.
pub struct Endpoint {
    /// The instance's id.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// Its life.
    pub epoch: u64,
    /// How often it was changed.
    pub stamp: u64,
    /// It is to get no new calls.
    pub draining: bool,
}

impl Endpoint {
    /// As our own protocol would tell it.
    pub fn told(&self) -> Told<'_> {
        Told {
            id: &self.id,
            address: &self.address,
            state: if self.draining { "DRAINING" } else { "UP" },
            epoch: self.epoch,
            revision: 0,
            stamp: self.stamp,
            suspect: false,
        }
    }
}

impl Xds {
    /// Asks for the endpoints of services on a socket that is connected.
    pub fn new(socket: OwnedFd, node: &str, services: impl Iterator<Item = usize>) -> Self {
        let mut one = Self { socket, out: PREFACE.to_vec(), received: Vec::new(), message: Vec::new() };
        put_frame(&mut one.out, SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE[..], &WINDOW.to_be_bytes()].concat());
        put_frame(&mut one.out, WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes());
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", "pilot"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.push(0); // a literal that is not remembered
            for text in [name, value] {
                block.push(text.len() as u8); // below 127, without Huffman's code
                block.extend(text.as_bytes());
            }
        }
        put_frame(&mut one.out, HEADERS, END_HEADERS, 1, &block);
        let (mut request, mut about) = (Vec::new(), Vec::new());
        put_bytes(&mut about, 1, node.as_bytes());
        put_bytes(&mut about, 6, b"envoy");
        put_bytes(&mut request, 1, &about);
        put_bytes(&mut request, 2, ENDPOINTS.as_bytes());
        for service in services {
            put_bytes(&mut request, 3, service_name(service).as_bytes());
        }
        one.say(&request);
        one
    }

    fn say(&mut self, request: &[u8]) {
        let length = u32::try_from(request.len()).unwrap_or(u32::MAX).to_be_bytes();
        put_frame(&mut self.out, DATA, 0, 1, &[&[0], &length[..], request].concat());
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match write(&self.socket, &self.out) {
                Ok(size) => drop(self.out.drain(..size)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what there is, by way of `buffer`, and accepts each response once its assignments were given to `each`; how
    /// many bytes have come.
    ///
    /// # Errors
    /// The connection or its stream has ended, or what came is no response.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        mut each: impl FnMut(&Assignment) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut count = 0;
        loop {
            match read(&self.socket, &mut *buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the pilot ended the connection")),
                Ok(size) => {
                    count += size as u64;
                    self.received.extend(buffer.get(..size).unwrap_or_default());
                    self.frames()?;
                    self.messages(&mut each)?;
                    if size < buffer.len() {
                        return Ok(count);
                    }
                }
                Err(Errno::AGAIN) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn frames(&mut self) -> io::Result<()> {
        let mut used = 0;
        while let Some((head, rest)) = self.received.get(used..).and_then(<[u8]>::split_first_chunk::<9>) {
            let [a, b, c, kind, flags, ..] = *head;
            let Some(payload) = rest.get(..u32::from_be_bytes([0, a, b, c]) as usize) else {
                break;
            };
            used += head.len() + payload.len();
            match kind {
                DATA => self.message.extend(payload),
                SETTINGS if flags & ACK == 0 => put_frame(&mut self.out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => put_frame(&mut self.out, PING, ACK, 0, payload),
                RESET | GO_AWAY => return Err(io::Error::other("the pilot ended the stream")),
                _ => {}
            }
            if kind <= HEADERS && flags & END_STREAM != 0 {
                let said = String::from_utf8_lossy(payload);
                return Err(io::Error::other(format!("the pilot ended the call: {said}")));
            }
        }
        self.received.drain(..used);
        Ok(())
    }

    fn messages(&mut self, each: &mut impl FnMut(&Assignment) -> io::Result<()>) -> io::Result<()> {
        let mut used = 0;
        while let Some((head, rest)) = self.message.get(used..).and_then(<[u8]>::split_first_chunk::<5>) {
            let [_, a, b, c, d] = *head;
            let Some(body) = rest.get(..u32::from_be_bytes([a, b, c, d]) as usize) else {
                break;
            };
            used += head.len() + body.len();
            let (assignments, nonce) = response(body).map_err(|error| io::Error::other(error.0))?;
            for assignment in &assignments {
                each(assignment)?;
            }
            let mut accepted = Vec::new();
            put_bytes(&mut accepted, 2, ENDPOINTS.as_bytes());
            put_bytes(&mut accepted, 6, nonce.as_bytes());
            let length = u32::try_from(accepted.len()).unwrap_or(u32::MAX).to_be_bytes();
            put_frame(&mut self.out, DATA, 0, 1, &[&[0], &length[..], &accepted].concat());
        }
        self.message.drain(..used);
        Ok(())
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend([a, b, c, kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

fn response(body: &[u8]) -> Result<(Vec<Assignment>, &str), Unreadable> {
    let (mut found, mut nonce) = (Vec::new(), "");
    fields(body, |tag, value| {
        match tag {
            2 => found.push(assignment(field(field(value.bytes(), 2)?.bytes(), 2)?.bytes())?),
            5 => nonce = value.text(),
            _ => {}
        }
        Ok(())
    })?;
    Ok((found, nonce))
}

fn assignment(message: &[u8]) -> Result<Assignment, Unreadable> {
    let mut found = Assignment { name: String::new(), endpoints: Vec::new() };
    fields(message, |tag, value| {
        match tag {
            1 => found.name = value.text().to_owned(),
            2 => fields(value.bytes(), |tag, value| {
                if tag == 2 {
                    found.endpoints.push(endpoint(value.bytes())?);
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

fn endpoint(message: &[u8]) -> Result<Endpoint, Unreadable> {
    let socket = field(field(field(message, 1)?.bytes(), 1)?.bytes(), 1)?.bytes();
    let (host, port) = (field(socket, 2)?.text(), field(socket, 3)?.number());
    let weight = field(field(message, 4)?.bytes(), 1)?.number();
    let (id, epoch) = instance_at(host, port).ok_or(Unreadable("an address of nobody"))?;
    let draining = field(message, 2)?.number() == DRAINING;
    Ok(Endpoint { id, address: format!("{host}:{port}"), epoch, stamp: weight.saturating_sub(1), draining })
}
