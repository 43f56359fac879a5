//! One connection to the pilot: it is opened as HTTP/1.1 and upgraded, then frames go both ways, and nothing blocks.

use std::io;

use rustix::fd::OwnedFd;
use rustix::io::{Errno, read, write};

const UPGRADED: &[u8] = b"HTTP/1.1 101 ";

/// A connection and what waits to be sent or read.
pub struct Link {
    /// The socket.
    pub socket: OwnedFd,
    out: Vec<u8>,
    received: Vec<u8>,
    upgraded: bool,
}

impl Link {
    /// Asks for the stream on a socket that is connected. `token` is empty where none is needed.
    pub fn new(socket: OwnedFd, token: &str) -> Self {
        let mut asked =
            "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: pannier-pilot\r\n"
                .to_owned();
        if !token.is_empty() {
            asked.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        asked.push_str("\r\n");
        Self { socket, out: asked.into_bytes(), received: Vec::new(), upgraded: false }
    }

    /// What is to be sent; `flush` sends it.
    pub const fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Whether something waits to be sent.
    pub const fn is_blocked(&self) -> bool {
        !self.out.is_empty()
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

    /// Reads what there is, by way of `buffer`, and gives each body that is whole to `each`; how many bytes have come.
    ///
    /// # Errors
    /// The connection has ended, the pilot refuses, or `each` does.
    pub fn receive(&mut self, buffer: &mut [u8], mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
        let mut count = 0;
        loop {
            match read(&self.socket, &mut *buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the pilot ended the connection")),
                Ok(size) => {
                    count += size as u64;
                    self.received.extend(buffer.get(..size).unwrap_or_default());
                    self.take(&mut each)?;
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

    fn take(&mut self, each: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut used = 0;
        if !self.upgraded {
            let Some(end) = self.received.windows(4).position(|found| found == b"\r\n\r\n") else {
                return Ok(());
            };
            if !self.received.starts_with(UPGRADED) {
                let line = self.received.split(|byte| *byte == b'\r').next().unwrap_or_default();
                return Err(io::Error::other(format!("the pilot answers {:?}", String::from_utf8_lossy(line))));
            }
            self.upgraded = true;
            used = end + 4;
        }
        while let Some((prefix, rest)) = self.received.get(used..).and_then(<[u8]>::split_first_chunk::<4>) {
            let Some(body) = rest.get(..u32::from_be_bytes(*prefix) as usize) else {
                break;
            };
            used += 4 + body.len();
            each(body)?;
        }
        self.received.drain(..used);
        Ok(())
    }
}
