//! Making a connection between a host and a Central: TCP, encryption, the preface, and the one byte that accepts it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::central::preface::{ACCEPTED, Preface};
use crate::central::settings::{Manner, Settings};
use crate::stream::Stream;

/// Longest wait for all of it: on a host that starves, and to a Central that is far.
pub const PATIENCE: Duration = Duration::from_millis(750);

/// Why it is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Somebody answered, and it was a no.
    pub is_refused: bool,
    /// One line for an operator.
    pub why: String,
}

/// Encrypts a connection that was just made, says the preface on it, and waits until it is accepted. `name` is whose the
/// other end must be.
///
/// # Errors
/// Why there is none.
pub async fn introduce(
    settings: &Settings,
    stream: Stream,
    address: SocketAddr,
    name: &str,
    preface: &Preface,
) -> Result<Stream, Failed> {
    let broken = |why: String| Failed { is_refused: false, why };
    let refused = |why: String| Failed { is_refused: true, why };
    let talk = async {
        let stream = match (settings.manner(address), &settings.tls) {
            (Manner::Encrypted, Some(tls)) => stream
                .dial_tls(tls, name)
                .await
                .map_err(|error| broken(format!("no encrypted connection to {address}: {error}")))?,
            (Manner::Plain, _) => stream,
            _ => {
                let why = format!("{address} may not be reached unencrypted; see central.tls and central.plain");
                return Err(broken(why));
            }
        };
        let failed = |error: std::io::Error| broken(format!("{address} ended the connection: {error}"));
        say(&stream, &preface.encode()).await.map_err(failed)?;
        let mut answer = Vec::with_capacity(64);
        match hear(&stream, &mut answer).await.map_err(failed)? {
            0 => Err(refused(format!("{address} does not accept us: it is no Central, or does not know us (yet)"))),
            _ if answer == [ACCEPTED] => Ok(stream),
            _ if answer.starts_with(b"HTTP/1.1 508") => {
                Err(refused(format!("{address} says that we are a Central ourselves")))
            }
            _ => Err(refused(format!("{address} is no Central: it answers something else"))),
        }
    };
    tokio::select! {
        biased;
        done = talk => done,
        () = pannier_reactor::sleep(PATIENCE) => Err(broken(format!("{address} does not answer"))),
    }
}

/// Writes all of it.
///
/// # Errors
/// The system's.
pub async fn say(stream: &Stream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::future::poll_fn(|context| stream.poll_write(context, bytes, &[])).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or(&[]);
    }
    std::future::poll_fn(|context| stream.poll_flush(context)).await
}

/// Reads more into `input`, whose room is made; 0 = the end.
///
/// # Errors
/// The system's.
pub async fn hear(stream: &Stream, input: &mut Vec<u8>) -> std::io::Result<usize> {
    if input.len() == input.capacity() {
        input.reserve(4 << 10);
    }
    std::future::poll_fn(|context| stream.poll_read(context, input)).await
}
