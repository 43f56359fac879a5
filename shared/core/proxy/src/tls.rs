//! Encrypted connections: TLS 1.3, both ends with a certificate of the same authority.
//!
//! Rules:
//! - who a peer is, is a DNS name in its certificate; nothing else in there is looked at;
//! - nothing is resumed and no tickets are sent: a connection is kept for long here, and a ticket would come in between;
//! - a peer that ends without saying so is an error, never an end: what was cut off is not taken for whole.
//!
//! `records` is the protocol without a socket, `session` a socket that speaks it. A certificate needs both uses where it
//! names any (`serverAuth`, `clientAuth`), since every end is both.
//!
//! The protocol is `rustls` (Apache-2.0/ISC/MIT; released monthly, audited), its ciphers are `aws-lc-rs` (Apache-2.0/ISC; C, built
//! by cc alone; kept by AWS, FIPS-validated). Refused: `ring` (kept up by one person, a third slower), OpenSSL (a library of the
//! system's, whose version would be the host's), the kernel's TLS (not in every kernel; no key updates).

use std::path::Path;
use std::sync::Arc;

use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

mod records;
mod session;
#[cfg(test)]
mod tests;

pub use session::{Session, Wire};

/// Certificates of this service, read from PEM files; both ends are authenticated.
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the service's certificate (followed by what signed it, up to the authority), its key, and the certificates of
    /// the authority that peers are to be of. Takes about a millisecond.
    ///
    /// # Errors
    /// One line that names the file and what to do: one cannot be read or holds nothing of use, the key belongs to another
    /// certificate, or peers would refuse the certificate.
    pub fn load(certificate: &Path, key: &Path, authority: &Path) -> Result<Arc<Tls>, String> {
        let chain = certificates(certificate)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error, "its private key"))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(authority)? {
            roots
                .add(root)
                .map_err(|error| format!("{}: no authority's certificate ({error})", authority.display()))?;
        }
        let roots = Arc::new(roots);
        accepted(&chain, &roots).map_err(|error| refused(certificate, authority, &error))?;
        let tls = Tls::new(chain, private, roots).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                format!("{}: it is the key of another certificate than {}", key.display(), certificate.display())
            }
            error => format!("{} with {}: {error}", certificate.display(), key.display()),
        })?;
        Ok(Arc::new(tls))
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
    ) -> Result<Tls, Error> {
        let provider = Arc::new(provider());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients(roots, provider)?)
            .with_single_cert(chain, key)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// The cheaper key first: 128 bits are enough for what lives as long as a connection.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..default_provider()
    }
}

/// What a client's certificate must be.
fn clients(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    all.and_then(|all| if all.is_empty() { Err(PemError::NoItemsFound) } else { Ok(all) })
        .map_err(|error| unreadable(file, &error, "a certificate"))
}

fn unreadable(file: &Path, error: &PemError, what: &str) -> String {
    let file = file.display();
    match error {
        PemError::NoItemsFound => format!("{file}: there is nothing of that kind in it; put {what} there, as PEM"),
        PemError::Io(error) => format!("{file}: cannot be read ({error}); put {what} there, readable for the proxy"),
        error => format!("{file}: no PEM file ({error}); put {what} there, as PEM"),
    }
}

/// Whether peers that have the same authority will accept the certificate, as a server's and as a client's. One that is not
/// valid yet passes: theirs is the clock that counts.
fn accepted(chain: &[CertificateDer<'static>], roots: &Arc<RootCertStore>) -> Result<(), Error> {
    let Some((leaf, others)) = chain.split_first() else {
        return Err(Error::NoCertificatesPresented);
    };
    let provider = Arc::new(provider());
    let algorithms = provider.signature_verification_algorithms.all;
    let (now, parsed) = (UnixTime::now(), ParsedCertificate::try_from(leaf)?);
    let as_server = verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, algorithms);
    let as_client = clients(roots.clone(), provider.clone())?.verify_client_cert(leaf, others, now).map(|_| ());
    match as_server.and(as_client) {
        Err(Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => {
            Ok(())
        }
        other => other,
    }
}

fn refused(certificate: &Path, authority: &Path, error: &Error) -> String {
    let file = certificate.display();
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("{file}: it has expired; renew it")
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("{file}: it is not of the authority in {}; have it signed by that one", authority.display())
        }
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => format!("{file}: it must be for servers and for clients (extended key usage serverAuth, clientAuth)"),
        error => format!("{file}: peers would refuse it ({error})"),
    }
}

/// Whether a certificate has that DNS name.
fn has_name(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = DnsName::try_from(name) else {
        return false;
    };
    ParsedCertificate::try_from(certificate)
        .is_ok_and(|parsed| verify_server_name(&parsed, &ServerName::DnsName(name)).is_ok())
}
