//! Servers that say their name and whom they see, then their name again for every byte; and their clients.

use std::collections::BTreeMap;
use std::io::{Read, Result, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::network::{Network, address};

pub const LISTENER: &str = "127.0.0.1:15001";
/// Longer than anything takes that is not broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Serves until the tests end. The name is one letter.
pub fn serve(network: &Network, host: u8, at: &str, name: u8) {
    let listener = network.on(host, || TcpListener::bind(at).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || talk(stream?, name));
        }
    });
}

fn talk(mut stream: TcpStream, name: u8) -> Result<()> {
    let seen = stream.peer_addr()?.to_string();
    stream.write_all(format!("{}{seen:<21}", char::from(name)).as_bytes())?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&[name])?;
    }
    Ok(())
}

/// One connection: who answered, and from where it came there.
#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    pub who: char,
    pub seen_as: SocketAddrV4,
}

impl Client {
    /// A connection by this thread, to where the apps connect.
    pub fn connect(to: &str) -> Result<Client> {
        let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        assert_eq!(stream.peer_addr()?, SocketAddr::V4(address(to)), "the app sees the listener");
        let mut hello = [0; 22];
        stream.read_exact(&mut hello)?;
        let seen_as = address(std::str::from_utf8(&hello[1..]).unwrap().trim());
        Ok(Client { stream, who: char::from(hello[0]), seen_as })
    }

    /// Who answers on it now.
    pub fn again(&mut self) -> Result<char> {
        self.stream.write_all(b"?")?;
        let mut name = [0];
        self.stream.read_exact(&mut name)?;
        Ok(char::from(name[0]))
    }
}

/// One new connection from host 1.
pub fn connect(network: &Network) -> Client {
    network.on(1, || Client::connect(LISTENER)).unwrap()
}

/// Who answers so many new connections from host 1.
pub fn count(network: &Network, connections: u32) -> BTreeMap<char, u32> {
    let mut found = BTreeMap::new();
    network.on(1, || {
        for _ in 0..connections {
            *found.entry(Client::connect(LISTENER).unwrap().who).or_default() += 1;
        }
    });
    found
}
