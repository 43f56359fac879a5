//! The protocol without a socket: bytes of the wire in, plaintext out, and the other way round.
//!
//! The caller owns all buffers, so that an idle connection holds none. rustls itself keeps at most one record.

use std::mem;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, Error, ServerConfig};

/// The largest record, as it is on the wire.
pub const RECORD: usize = 5 + (16 << 10) + 2048;
/// The most plaintext in one record.
const FRAGMENT: usize = 16 << 10;
/// What a record adds to its plaintext: header, type and tag.
const OVERHEAD: usize = 5 + 1 + 16;

/// One end of a connection.
pub enum Records {
    #[allow(missing_docs)]
    Client(Box<UnbufferedClientConnection>),
    #[allow(missing_docs)]
    Server(Box<UnbufferedServerConnection>),
}

/// What is wanted beside taking in what has come.
pub enum Wish<'a> {
    /// Nothing, or it was done.
    None,
    /// To send both of these.
    Encrypt(&'a [u8], &'a [u8]),
    /// To say that nothing more follows.
    Close,
}

/// What comes of it.
pub struct Effects<'a> {
    /// Plaintext, as much as there is room for; it never grows.
    pub input: &'a mut Vec<u8>,
    /// The rest of it.
    pub spill: &'a mut Vec<u8>,
    /// What is to be sent, appended.
    pub out: &'a mut Vec<u8>,
    /// What is wanted; [`Wish::None`] once it is done.
    pub wish: Wish<'a>,
}

/// What the peer will not send any more after.
pub enum End {
    /// It said so itself.
    Closed,
    /// What it sent is not to be understood, or not to be believed.
    Failed(Error),
}

/// What one step came to.
enum Step {
    /// There may be more in what has come.
    More,
    /// The session itself has something to send.
    Spoke,
    /// It needs something from outside.
    Waits,
    /// The peer has said that nothing follows.
    PeerClosed,
}

impl Records {
    /// The end that connects to whoever has the name.
    pub fn client(config: &Arc<ClientConfig>, name: DnsName<'static>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config.clone(), ServerName::DnsName(name))?;
        Ok(Records::Client(Box::new(connection)))
    }

    /// The end that was connected to.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Records::Server(Box::new(UnbufferedServerConnection::new(config.clone())?)))
    }

    /// Whether the handshake is still to be finished.
    pub fn is_handshaking(&self) -> bool {
        match self {
            Records::Client(connection) => connection.is_handshaking(),
            Records::Server(connection) => connection.is_handshaking(),
        }
    }

    /// The peer's certificate, once it was verified.
    pub fn peer(&self) -> Option<&CertificateDer<'static>> {
        let chain = match self {
            Records::Client(connection) => connection.peer_certificates(),
            Records::Server(connection) => connection.peer_certificates(),
        };
        chain.filter(|_| !self.is_handshaking()).and_then(<[_]>::first)
    }

    /// Takes in what is whole of `incoming`, and does what is wished. Returns how much of its front is done with: the next call
    /// must begin with the rest; and the end, if there is one.
    pub fn run(&mut self, incoming: &mut [u8], effects: &mut Effects<'_>) -> (usize, Option<End>) {
        let (mut done, mut end) = (0, None);
        loop {
            let (taken, step) = self.step(incoming.get_mut(done..).unwrap_or_default(), effects);
            done = (done + taken).min(incoming.len());
            match step {
                Ok(Step::More | Step::Spoke) => {}
                Ok(Step::Waits) => return (done, end),
                Ok(Step::PeerClosed) => end = Some(End::Closed),
                Err(error) => {
                    // Why is told to the peer.
                    while let (_, Ok(Step::Spoke)) = self.step(incoming.get_mut(done..).unwrap_or_default(), effects) {}
                    return (done, Some(End::Failed(error)));
                }
            }
        }
    }

    fn step(&mut self, incoming: &mut [u8], effects: &mut Effects<'_>) -> (usize, Result<Step, Error>) {
        match self {
            Records::Client(connection) => {
                let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(incoming);
                (discard, state.and_then(|state| apply(state, effects)))
            }
            Records::Server(connection) => {
                let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(incoming);
                (discard, state.and_then(|state| apply(state, effects)))
            }
        }
    }
}

fn apply<Data>(state: ConnectionState<'_, '_, Data>, effects: &mut Effects<'_>) -> Result<Step, Error> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                effects.arrived(record?.payload);
            }
            Ok(Step::More)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            append(effects.out, 0, |room| data.encode(room))?;
            Ok(Step::Spoke)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Spoke)
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            match mem::replace(&mut effects.wish, Wish::None) {
                Wish::None => {}
                Wish::Encrypt(first, second) => {
                    for bytes in [first, second].into_iter().filter(|bytes| !bytes.is_empty()) {
                        let records = bytes.len().div_ceil(FRAGMENT);
                        append(effects.out, bytes.len() + records * OVERHEAD, |room| traffic.encrypt(bytes, room))?;
                    }
                }
                Wish::Close => append(effects.out, 0, |room| traffic.queue_close_notify(room))?,
            }
            Ok(Step::Waits)
        }
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        // Neither early data nor anything that rustls may add is asked for.
        _ => Ok(Step::Waits),
    }
}

impl Effects<'_> {
    fn arrived(&mut self, payload: &[u8]) {
        let room = if self.spill.is_empty() { self.input.capacity() - self.input.len() } else { 0 };
        let (now, later) = payload.split_at(room.min(payload.len()));
        self.input.extend_from_slice(now);
        self.spill.extend_from_slice(later);
    }
}

/// Appends what `write` puts into the room it is given: as much as was expected, or else as much as it asks for.
fn append<E: TooSmall>(
    out: &mut Vec<u8>,
    expected: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), Error> {
    let at = out.len();
    let mut size = expected;
    loop {
        out.resize(at + size, 0);
        match write(out.get_mut(at..).unwrap_or_default()) {
            Ok(written) => {
                out.truncate(at + written);
                return Ok(());
            }
            Err(error) => match error.required() {
                Some(required) if required > size => size = required,
                _ => {
                    out.truncate(at);
                    return Err(Error::EncryptError);
                }
            },
        }
    }
}

/// An error that may say how much room there should have been.
trait TooSmall {
    fn required(&self) -> Option<usize>;
}

impl TooSmall for EncodeError {
    fn required(&self) -> Option<usize> {
        match self {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
            EncodeError::AlreadyEncoded => None,
        }
    }
}

impl TooSmall for EncryptError {
    fn required(&self) -> Option<usize> {
        match self {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
            EncryptError::EncryptExhausted => None,
        }
    }
}
