//! OpenSSL at the other end.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use super::*;

/// The files of two services of one authority.
fn files() -> (Folder, Arc<Tls>) {
    let folder = Folder::new();
    let all = authority();
    folder.write("authority.pem", &all.pem());
    for name in ["home", "central"] {
        let (certificate, key) = issue(&all, &Wanted::named(if name == "home" { &["home"] } else { &["central"] }));
        folder.write(&format!("{name}.pem"), &certificate);
        folder.write(&format!("{name}.key"), &key);
    }
    let file = |name: &str| folder.0.join(name);
    let tls = Tls::load(&file("home.pem"), &file("home.key"), &file("authority.pem")).unwrap();
    (folder, tls)
}

/// Ended with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, folder: &Folder, arguments: &str) -> Peer {
    let child = Command::new(program)
        .args(arguments.split_whitespace())
        .current_dir(&folder.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Peer(child.unwrap())
}

#[test]
fn openssl_accepts_us() {
    let Some(program) = openssl() else { return };
    on_a_reactor(move || async move {
        let (folder, tls) = files();
        // It sends back what comes, each line reversed, and two tickets at the beginning.
        let arguments = "s_server -accept 127.0.0.1:0 -cert central.pem -key central.key -CAfile authority.pem \
                         -Verify 2 -verify_return_error -rev";
        let mut peer = start(program, &folder, arguments);
        let mut lines = BufReader::new(peer.0.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("it says where").unwrap();
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.to_string();
            }
        };
        for _ in 0..2 {
            let stream = watched(TcpStream::connect(&address).unwrap());
            let stream = stream.dial_tls(&tls, "central").await.unwrap();
            for size in [1, 100, 5000] {
                let line: Vec<_> = sample(size).into_iter().map(|byte| b'a' + byte % 26).collect();
                write(&stream, &[&line[..], b"\n"].concat()).await.unwrap();
                let back = read(&stream, line.len() + 1).await.unwrap();
                assert!(back.strip_suffix(b"\n").is_some_and(|back| back.iter().rev().eq(&line)));
                assert!(stream.is_quiet(), "its tickets are no data");
            }
            stream.shutdown().unwrap();
            assert_eq!(read(&stream, 1).await.unwrap(), b"", "it ends as it should");
        }
        let wrong = watched(TcpStream::connect(&address).unwrap());
        assert!(wrong.dial_tls(&tls, "home").await.is_err());
    });
}

#[test]
fn openssl_dials_us() {
    let Some(program) = openssl() else { return };
    on_a_reactor(move || async move {
        let (folder, tls) = files();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let arguments = format!(
            "s_client -connect {address} -cert central.pem -key central.key -CAfile authority.pem \
             -verify_hostname home -verify_return_error"
        );
        let mut peer = start(program, &folder, &arguments);
        let accepted = watched(listener.accept().unwrap().0);
        let stream = accepted.accept_tls(&tls, &[]).await.unwrap();
        assert!(stream.peer_is("central"));
        let mut input = peer.0.stdin.take().unwrap();
        // K: new keys for both directions. It takes its commands one a read.
        for line in ["hello\n", "K\n", "again\n"] {
            input.write_all(line.as_bytes()).unwrap();
            if line == "K\n" {
                poll_fn(|context| stream.poll_readable(context)).await;
                assert!(stream.is_quiet(), "new keys are no data");
                continue;
            }
            assert_eq!(read(&stream, line.len()).await.unwrap(), line.as_bytes());
            write(&stream, format!("heard {line}").as_bytes()).await.unwrap();
        }
        write(&stream, &vec![b'.'; 100_000]).await.unwrap();
        stream.shutdown().unwrap();
        let mut output = peer.0.stdout.take().unwrap();
        let shown = std::thread::spawn(move || {
            let mut shown = Vec::new();
            output.read_to_end(&mut shown).unwrap();
            String::from_utf8_lossy(&shown).into_owned()
        });
        assert_eq!(read(&stream, 1).await.unwrap(), b"", "it ends as it should");
        let shown = shown.join().unwrap();
        assert!(shown.contains("heard hello\n") && shown.contains("heard again\n"), "{shown}");
        assert_eq!(shown.matches('.').count() / 100_000, 1, "all of a large answer");
    });
}

#[test]
fn openssl_is_refused_without_a_certificate_or_with_an_old_version() {
    let Some(program) = openssl() else { return };
    on_a_reactor(move || async move {
        let (folder, tls) = files();
        for (arguments, expected) in [
            ("-CAfile authority.pem", "no certificates"),
            ("-tls1_2 -cert central.pem -key central.key -CAfile authority.pem", "SupportedVersionsExtensionRequired"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let _peer = start(program, &folder, &format!("s_client -connect {address} {arguments}"));
            let accepted = watched(listener.accept().unwrap().0);
            let error = accepted.accept_tls(&tls, &[]).await.err().expect("it was accepted").to_string();
            assert!(error.contains(expected), "{error}");
        }
    });
}
