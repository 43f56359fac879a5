//! Real sockets, both ends on one reactor; and OpenSSL at the other end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pannier_reactor::Seat;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustix::net::sockopt;

use super::*;
use crate::stream::Stream;

mod cost;
mod foreign;
mod handshake;
mod hostile;
mod traffic;

/// Nothing here takes a second.
const HANGS: Duration = Duration::from_secs(60);

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Runs `main` on a reactor of its own; a test that fails or hangs in there fails.
fn on_a_reactor<F: Future<Output = ()> + 'static>(main: impl FnOnce() -> F + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        pannier_reactor::run(Seat::new().unwrap(), async move {
            main().await;
            done.send(()).unwrap();
        })
    });
    is_done.recv_timeout(HANGS).expect("it failed, or hangs");
}

/// A folder for one test's files, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pannier-tls-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn authority() -> Authority {
    authority_called("ours")
}

fn authority_called(name: &str) -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What a certificate is to be.
struct Wanted {
    names: &'static [&'static str],
    until: i32,
    uses: Vec<ExtendedKeyUsagePurpose>,
}

impl Wanted {
    fn named(names: &'static [&'static str]) -> Self {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        Wanted { names, until: 2999, uses: vec![ServerAuth, ClientAuth] }
    }
}

/// A certificate and its key, as PEM.
fn issue(authority: &Authority, wanted: &Wanted) -> (String, String) {
    let names: Vec<_> = wanted.names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an instance");
    params.not_after = date_time_ymd(wanted.until, 1, 1);
    params.extended_key_usages.clone_from(&wanted.uses);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// One end that shows such a certificate and believes `trusted`; what [`Tls::load`] would refuse as well.
fn end(issuer: &Authority, wanted: &Wanted, trusted: &Authority) -> Arc<Tls> {
    let (certificate, key) = issue(issuer, wanted);
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    Arc::new(Tls::new(chain, key, Arc::new(roots)).unwrap())
}

/// A service called `home` and a Central called `central`.
fn ends() -> (Arc<Tls>, Arc<Tls>) {
    let all = authority();
    (end(&all, &Wanted::named(&["home"]), &all), end(&all, &Wanted::named(&["central"]), &all))
}

/// A plain connection.
fn plain() -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    (watched(dialled), watched(accepted))
}

fn watched(socket: TcpStream) -> Stream {
    socket.set_nonblocking(true).unwrap();
    socket.set_nodelay(true).unwrap();
    Stream::tcp(socket.into(), true).unwrap()
}

/// A plain connection of which the kernel holds as little as it can. TCP would take half a minute for a mebibyte then.
fn tight() -> (Stream, Stream) {
    let (one, other) = UnixStream::pair().unwrap();
    let [one, other] = [one, other].map(|socket| {
        socket.set_nonblocking(true).unwrap();
        sockopt::set_socket_send_buffer_size(&socket, 1).unwrap();
        Stream::unix(socket.into()).unwrap()
    });
    (one, other)
}

/// An encrypted connection from `home` to `central`.
async fn encrypted() -> (Stream, Stream) {
    encrypted_on(plain()).await
}

async fn encrypted_on((dialled, accepted): (Stream, Stream)) -> (Stream, Stream) {
    let (home, central) = ends();
    let (dialled, accepted) = tokio::join!(dialled.dial_tls(&home, "central"), accepted.accept_tls(&central, &[]));
    (dialled.unwrap(), accepted.unwrap())
}

async fn write(stream: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let (first, second) = bytes.split_at(bytes.len() / 3);
        let written = poll_fn(|context| stream.poll_write(context, first, second)).await?;
        bytes = &bytes[written..];
    }
    poll_fn(|context| stream.poll_flush(context)).await
}

async fn read(stream: &Stream, bytes: usize) -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    while input.len() < bytes {
        input.reserve_exact((bytes - input.len()).min(10_000));
        if poll_fn(|context| stream.poll_read(context, &mut input)).await? == 0 {
            break;
        }
    }
    Ok(input)
}

/// Bytes that are the same nowhere.
fn sample(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(bytes).collect()
}

fn openssl() -> Option<&'static Path> {
    let found = ["/usr/bin/openssl", "/usr/local/bin/openssl"].map(Path::new).into_iter().find(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "openssl is to be installed (make peers)");
    found
}
