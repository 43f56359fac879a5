//! Table `central`, as it is worked with.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use pannier_decide::schema::central::Central;

use crate::central::networks::Networks;
use crate::tls::Tls;

/// What holds until the table changes.
#[derive(Clone)]
pub struct Settings {
    /// The table.
    pub table: Central,
    /// Our certificate, if there is one.
    pub tls: Option<Arc<Tls>>,
    plain: Networks,
    /// When its files were changed, as they were read.
    written: Vec<Option<SystemTime>>,
}

/// How a connection to or from an address is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    #[allow(missing_docs)]
    Encrypted,
    #[allow(missing_docs)]
    Plain,
    /// Not at all.
    Refused,
}

impl Settings {
    /// Reads the certificates.
    ///
    /// # Errors
    /// One line for what does not hold.
    pub fn of(table: Central) -> Result<Settings, String> {
        table.controller.check()?;
        let plain = Networks::parse(&table.plain)?;
        let files = table.tls.as_ref();
        let load = |files: &pannier_decide::schema::central::Tls| {
            Tls::load(Path::new(&files.certificate), Path::new(&files.key), Path::new(&files.authority))
        };
        let written = written(&table);
        let tls = files.map(load).transpose()?;
        Ok(Settings { table, tls, plain, written })
    }

    /// Whether a file of the certificate has been changed since it was read.
    pub fn is_stale(&self) -> bool {
        written(&self.table) != self.written
    }

    /// The same, with what the files hold now left alone until they change again.
    pub fn as_looked_at(&self) -> Settings {
        Settings { written: written(&self.table), ..self.clone() }
    }

    /// Whether this is a Central.
    pub fn is_gateway(&self) -> bool {
        self.table.gateway.is_some()
    }

    /// Whether the connection's own bytes may be seen there.
    pub fn may_be_plain(&self, ip: IpAddr) -> bool {
        self.plain.contains(ip)
    }

    /// How we speak to an address: encrypted if we can.
    pub fn manner(&self, address: SocketAddr) -> Manner {
        match (&self.tls, self.may_be_plain(address.ip())) {
            (Some(_), _) => Manner::Encrypted,
            (None, true) => Manner::Plain,
            (None, false) => Manner::Refused,
        }
    }
}

fn written(table: &Central) -> Vec<Option<SystemTime>> {
    let files = table.tls.iter().flat_map(|files| [&files.certificate, &files.key, &files.authority]);
    files.map(|file| std::fs::metadata(file).and_then(|found| found.modified()).ok()).collect()
}
