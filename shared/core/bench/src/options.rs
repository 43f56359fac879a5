//! What `load` was asked to do, checked once.

use std::error::Error;

use crate::address::Address;
use crate::arguments::Arguments;
use crate::client::Standard;
use crate::request::Request;
use crate::response::Expect;
use crate::schedule::Schedule;

/// One run of the generator.
pub struct Options {
    /// Where the connections go.
    pub connect: Address,
    /// How many connections are kept open.
    pub connections: usize,
    /// The bytes that are sent.
    pub request: Request,
    /// The answer that counts.
    pub expect: Expect,
    /// When which request is due.
    pub schedule: Schedule,
    /// What is done when a connection fails; nothing without it.
    pub client: Option<Standard>,
}

impl Options {
    /// Builds the options from the command line.
    ///
    /// # Errors
    /// An option is missing, unknown or contradicts another; the expected body cannot be read.
    pub fn try_new(mut given: Arguments) -> Result<Self, Box<dyn Error>> {
        let connect: Address = given.required("connect")?.parse()?;
        let connections = given.value("connections")?.unwrap_or(64);
        if connections == 0 {
            return Err("--connections must be at least 1".into());
        }
        let schedule = Schedule::try_new(given.value("requests")?, given.value("seconds")?, given.value("rate")?)?;
        let host = given.text("host").unwrap_or_else(|| match &connect {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        });
        let path = given.text("path").unwrap_or_else(|| "/".to_owned());
        let body_bytes = given.value("body-bytes")?.unwrap_or(0);
        let method = given.text("method").unwrap_or_else(|| if body_bytes > 0 { "POST" } else { "GET" }.to_owned());
        if method.eq_ignore_ascii_case("HEAD") {
            return Err("--method HEAD has no body to check".into());
        }
        let request = Request::new(&method, &path, &host, body_bytes, schedule.is_paced());
        let expect = match (given.text("expect-body"), given.value("expect-bytes")?) {
            (Some(file), None) => Expect::Body(std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?),
            (None, Some(length)) => Expect::Length(length),
            _ => return Err("give one of --expect-body and --expect-bytes".into()),
        };
        let idempotent = matches!(method.as_str(), "GET" | "PUT" | "DELETE");
        let client = match given.text("client").as_deref() {
            None | Some("plain") => None,
            Some("standard") if schedule.is_paced() => Some(Standard { idempotent }),
            Some("standard") => return Err("--client standard needs --rate".into()),
            Some(other) => return Err(format!("--client {other} is neither plain nor standard").into()),
        };
        given.finish()?;
        Ok(Self { connect, connections, request, expect, schedule, client })
    }
}
