//! A socket that speaks TLS.
//!
//! What was encrypted is reported as written, and what the socket has no room for is kept: every later call on the
//! connection, a read as well, first tries to send that, and nothing more is encrypted before it is gone.
//!
//! Memory: an idle connection holds no buffer. A slow reader costs up to [`PIECE`] of what was encrypted; one who sends a
//! record in pieces, up to a [`RECORD`]; a reader with little room, up to two of plaintext; a handshake, up to
//! [`HANDSHAKE`]. Each worker has one buffer to receive into.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use pannier_reactor::Source;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, Shutdown};
use rustls::pki_types::DnsName;

use super::records::{Effects, End, RECORD, Records, Wish};
use super::{Tls, has_name};

/// Plaintext that is encrypted at a time.
const PIECE: usize = 32 << 10;
/// The most that is received at a time.
const RECEIVED: usize = 64 << 10;
/// How often an idle connection is looked at whose peer's protocol has something to say by itself.
const LOOKS: usize = 4;
/// What is held of a handshake at most; rustls takes messages of up to 64 KiB.
pub(super) const HANDSHAKE: usize = (64 << 10) + RECORD;

thread_local! {
    /// Where ciphertext is received and decrypted, and where plaintext is encrypted.
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The socket of a session.
#[derive(Clone, Copy)]
pub struct Wire<'a> {
    #[allow(missing_docs)]
    pub source: &'a Source,
    #[allow(missing_docs)]
    pub socket: &'a OwnedFd,
}

impl Wire<'_> {
    /// What there is; none if there is nothing now, 0 = the end.
    fn receive(self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let size = room.len();
        loop {
            match net::recv(self.socket, &mut *room, RecvFlags::empty()) {
                Ok((_, received)) => {
                    if received < size {
                        self.source.drained();
                    }
                    return Ok(Some(received));
                }
                Err(Errno::AGAIN) => {
                    self.source.drained();
                    return Ok(None);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How much was sent; none if there is no room.
    fn send(self, bytes: &[u8]) -> io::Result<Option<usize>> {
        loop {
            match net::send(self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.source.wrote(self.socket)?;
                    return Ok(Some(sent));
                }
                Err(Errno::AGAIN) => {
                    self.source.filled(self.socket)?;
                    return Ok(None);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How far our own side is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    /// We have said that nothing follows; the socket's side ends once that is sent.
    Ending,
    /// Nothing can be sent any more.
    Ended,
}

/// Why nothing more can be read.
enum Ended {
    Closed,
    Failed(rustls::Error),
    /// The socket ended, and the peer had not said that it would.
    CutOff,
    Broken(ErrorKind),
}

/// The state of one encrypted connection.
pub struct Session {
    records: Records,
    /// Received, and not a whole record yet.
    incoming: Vec<u8>,
    /// Plaintext that nobody has read yet, from `spill_at` on.
    spill: Vec<u8>,
    spill_at: usize,
    /// Encrypted and not sent yet, from `out_at` on.
    out: Vec<u8>,
    out_at: usize,
    writing: Writing,
    ended: Option<Ended>,
}

impl Session {
    /// The end that connects to whoever has the DNS name `name`.
    ///
    /// # Errors
    /// `InvalidInput` if that cannot be a DNS name.
    pub fn client(tls: &Tls, name: &str) -> io::Result<Self> {
        let name = DnsName::try_from(name.to_string())
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("{name:?} is no DNS name")))?;
        Self::new(Records::client(&tls.client, name), &[])
    }

    /// The end that was connected to, and has received `first` already.
    ///
    /// # Errors
    /// `InvalidData`, as far as rustls has any.
    pub fn server(tls: &Tls, first: &[u8]) -> io::Result<Self> {
        Self::new(Records::server(&tls.server), first)
    }

    fn new(records: Result<Records, rustls::Error>, first: &[u8]) -> io::Result<Self> {
        let mut session = Session {
            records: records.map_err(failed)?,
            incoming: Vec::new(),
            spill: Vec::new(),
            spill_at: 0,
            out: Vec::new(),
            out_at: 0,
            writing: Writing::Open,
            ended: None,
        };
        session.take_in(&mut first.to_vec(), &mut Vec::new());
        Ok(session)
    }

    /// Ready when both ends know who the other is. A server knows it of its client. A client knows of its server, but not that
    /// the server accepts it: that is what its first read tells.
    pub fn poll_handshake(&mut self, wire: Wire<'_>, context: &Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Before the error: the peer is told why.
            let flushed = ready!(self.poll_flush(wire, context));
            if self.ended.is_some() {
                return Poll::Ready(Err(self.why_ended()));
            }
            flushed?;
            if !self.records.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(wire.source.poll_readable(context));
            self.receive(wire, &mut Vec::new());
        }
    }

    /// Whether the peer's certificate has that DNS name.
    pub fn peer_is(&self, name: &str) -> bool {
        self.records.peer().is_some_and(|certificate| has_name(certificate, name))
    }

    /// Ready when there may be something to read, or the end.
    pub fn poll_readable(&mut self, wire: Wire<'_>, context: &Context<'_>) -> Poll<()> {
        self.go_on_sending(wire, context);
        if self.has_spilled() || self.ended.is_some() {
            return Poll::Ready(());
        }
        wire.source.poll_readable(context)
    }

    /// Reads into the room that `input` has; 0 = the peer has said that nothing follows.
    pub fn poll_read(&mut self, wire: Wire<'_>, context: &Context<'_>, input: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        self.go_on_sending(wire, context);
        let before = input.len();
        if before == input.capacity() {
            return Poll::Ready(Ok(0));
        }
        loop {
            self.give(input);
            if input.len() > before {
                return Poll::Ready(Ok(input.len() - before));
            }
            match self.ended {
                Some(Ended::Closed) => return Poll::Ready(Ok(0)),
                Some(_) => return Poll::Ready(Err(self.why_ended())),
                None => {}
            }
            ready!(wire.source.poll_readable(context));
            self.receive(wire, input);
            // What the session had to say itself.
            self.go_on_sending(wire, context);
        }
    }

    /// Encrypts some of `first` and then `second`, once everything before that is sent. See [`Self::poll_flush`].
    pub fn poll_write(
        &mut self,
        wire: Wire<'_>,
        context: &Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(wire, context))?;
        if self.writing != Writing::Open || matches!(self.ended, Some(Ended::Failed(_))) {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        ready!(wire.source.poll_writable(context));
        let first = first.get(..PIECE).unwrap_or(first);
        let second = second.get(..PIECE - first.len()).unwrap_or(second);
        let mut out = OUTGOING.take();
        out.clear();
        let encrypted = self.encrypt(first, second, &mut out);
        let sent = encrypted.and_then(|()| wire.send(&out));
        if let Ok(sent) = &sent {
            self.out.extend_from_slice(out.get(sent.unwrap_or(0)..).unwrap_or_default());
        } else {
            self.give_up_writing();
        }
        OUTGOING.set(out);
        Poll::Ready(sent.map(|_| first.len() + second.len()))
    }

    /// Ready when all that was written is with the kernel.
    pub fn poll_flush(&mut self, wire: Wire<'_>, context: &Context<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            ready!(wire.source.poll_writable(context));
            if let Err(error) = self.send_some(wire) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing follows and ends our side: as soon as what was written is sent.
    pub fn shutdown(&mut self, wire: Wire<'_>) -> io::Result<()> {
        if self.writing == Writing::Open {
            self.writing = Writing::Ending;
            if !matches!(self.ended, Some(Ended::Failed(_))) {
                self.speak(Wish::Close);
            }
        }
        self.send_some(wire)
    }

    /// Ready when the peer has closed the connection. What it sends before stays here, and behind that its end is not seen.
    pub fn poll_closed(&mut self, wire: Wire<'_>, context: &Context<'_>) -> Poll<()> {
        self.go_on_sending(wire, context);
        loop {
            if self.has_spilled() {
                return Poll::Pending;
            }
            if self.ended.is_some() {
                return Poll::Ready(());
            }
            ready!(wire.source.poll_readable(context));
            self.receive(wire, &mut Vec::new());
        }
    }

    /// Whether an idle connection is still good: no data has arrived on it, not even its end. What the protocol says by
    /// itself is taken in.
    pub fn is_quiet(&mut self, wire: Wire<'_>) -> bool {
        for _ in 0..LOOKS {
            if self.ended.is_some() || self.has_spilled() || !wire.source.is_readable() {
                break;
            }
            self.receive(wire, &mut Vec::new());
        }
        let is_sent = self.send_some(wire).is_ok();
        let has_nothing = self.incoming.is_empty() && !self.has_spilled() && !wire.source.is_readable();
        is_sent && has_nothing && self.ended.is_none()
    }

    fn has_spilled(&self) -> bool {
        self.spill_at < self.spill.len()
    }

    /// Moves plaintext into the room that `input` has.
    fn give(&mut self, input: &mut Vec<u8>) {
        let spilled = self.spill.get(self.spill_at..).unwrap_or_default();
        let given = spilled.get(..input.capacity() - input.len()).unwrap_or(spilled);
        input.extend_from_slice(given);
        self.spill_at += given.len();
        if self.spill_at == self.spill.len() && self.spill_at > 0 {
            (self.spill, self.spill_at) = (Vec::new(), 0);
        }
    }

    /// Receives once, and takes in what is whole of it.
    fn receive(&mut self, wire: Wire<'_>, input: &mut Vec<u8>) {
        let mut buffer = INCOMING.take();
        if buffer.is_empty() {
            buffer = vec![0; HANDSHAKE];
        }
        let held = self.incoming.len();
        if let Some(front) = buffer.get_mut(..held) {
            front.copy_from_slice(&self.incoming);
        }
        let wanted = (input.capacity() - input.len() + 1024).clamp(RECORD, RECEIVED);
        let until = (held + wanted).min(buffer.len());
        match buffer.get_mut(held..until).filter(|room| !room.is_empty()).map(|room| wire.receive(room)) {
            Some(Ok(Some(0))) => self.ended = Some(Ended::CutOff),
            Some(Ok(Some(received))) => {
                self.take_in(buffer.get_mut(..held + received).unwrap_or_default(), input);
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => self.ended = Some(Ended::Broken(error.kind())),
            None => {
                let error = rustls::InvalidMessage::HandshakePayloadTooLarge.into();
                self.ended = Some(Ended::Failed(error));
            }
        }
        INCOMING.set(buffer);
    }

    /// Takes in what is whole of `received`, which begins with what was kept, and keeps the rest.
    fn take_in(&mut self, received: &mut [u8], input: &mut Vec<u8>) {
        let mut effects = Effects { input, spill: &mut self.spill, out: &mut self.out, wish: Wish::None };
        let (done, end) = self.records.run(received, &mut effects);
        self.incoming = match end {
            None => received.get(done..).unwrap_or_default().to_vec(),
            Some(_) => Vec::new(),
        };
        match end {
            None => {}
            Some(End::Closed) => self.ended = Some(Ended::Closed),
            Some(End::Failed(error)) => self.ended = Some(Ended::Failed(error)),
        }
    }

    fn encrypt(&mut self, first: &[u8], second: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut effects =
            Effects { input: &mut Vec::new(), spill: &mut self.spill, out, wish: Wish::Encrypt(first, second) };
        let (done, end) = self.records.run(&mut self.incoming, &mut effects);
        let is_done = matches!(effects.wish, Wish::None) && end.is_none();
        self.incoming.drain(..done);
        if is_done { Ok(()) } else { Err(ErrorKind::BrokenPipe.into()) }
    }

    fn speak(&mut self, wish: Wish<'_>) {
        let mut effects = Effects { input: &mut Vec::new(), spill: &mut self.spill, out: &mut self.out, wish };
        let (done, _) = self.records.run(&mut self.incoming, &mut effects);
        self.incoming.drain(..done);
    }

    /// Sends what there is room for, and has the task woken for the rest.
    fn go_on_sending(&mut self, wire: Wire<'_>, context: &Context<'_>) {
        if self.out_at < self.out.len() {
            // An error shows when something is written; what there is to read is still read.
            let _ = self.poll_flush(wire, context);
        }
    }

    /// Sends what there is room for; ends our side if that is to follow.
    fn send_some(&mut self, wire: Wire<'_>) -> io::Result<()> {
        while let Some(rest) = self.out.get(self.out_at..).filter(|rest| !rest.is_empty()) {
            match wire.send(rest) {
                Ok(Some(sent)) => self.out_at += sent,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.give_up_writing();
                    return Err(error);
                }
            }
        }
        (self.out, self.out_at) = (Vec::new(), 0);
        if self.writing == Writing::Ending {
            self.writing = Writing::Ended;
            net::shutdown(wire.socket, Shutdown::Write)?;
        }
        Ok(())
    }

    fn give_up_writing(&mut self) {
        (self.out, self.out_at) = (Vec::new(), 0);
        self.writing = Writing::Ended;
    }

    fn why_ended(&self) -> io::Error {
        match &self.ended {
            Some(Ended::Failed(error)) => failed(error.clone()),
            Some(Ended::Broken(kind)) => (*kind).into(),
            Some(Ended::CutOff | Ended::Closed) | None => {
                io::Error::new(ErrorKind::UnexpectedEof, "the peer ended the connection without saying so")
            }
        }
    }
}

fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
