//! What is no TLS, or is made to hurt.

use std::io::{Read, Write};

use super::session::HANDSHAKE;
use super::*;

/// What `central` makes of these bytes, and what it says to them.
fn answer_to(bytes: Vec<u8>) -> (io::Error, Vec<u8>) {
    let (heard, hear) = std::sync::mpsc::channel();
    on_a_reactor(move || async move {
        let (_, central) = ends();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = watched(listener.accept().unwrap().0);
        let sender = std::thread::spawn(move || {
            let _ = dialled.write_all(&bytes);
            let _ = dialled.shutdown(std::net::Shutdown::Write);
            let mut said = Vec::new();
            let _ = dialled.read_to_end(&mut said);
            said
        });
        let error = accepted.accept_tls(&central, &[]).await.err().expect("it was taken for a handshake");
        heard.send((error, sender.join().unwrap())).unwrap();
    });
    hear.recv().unwrap()
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut all = vec![kind, 3, 1];
    all.extend((payload.len() as u16).to_be_bytes());
    all.extend(payload);
    all
}

#[test]
fn what_is_no_handshake_is_refused() {
    let begun = |bytes: u32| [&[1_u8][..], &bytes.to_be_bytes()[1..]].concat();
    let a_byte_each = |message: Vec<u8>| -> Vec<u8> { message.iter().flat_map(|byte| record(22, &[*byte])).collect() };
    let (invalid, cut_off) = (io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof);
    let (alert, silence) = (Some(21), Some(0));
    // What comes, what it is taken for, and how the reply begins: a reset may overtake it where not all was read.
    let cases = [
        ("nothing", vec![], cut_off, silence),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: central\r\n\r\n".to_vec(), invalid, alert),
        ("zeros", vec![0; 100_000], invalid, None),
        ("a record that is cut off", record(22, &begun(100))[..7].to_vec(), cut_off, silence),
        ("an empty record", record(22, &[]), invalid, alert),
        ("a record that is too large", vec![22, 3, 1, 0xff, 0xff, 1], invalid, alert),
        ("data before the handshake", record(23, b"hello"), invalid, alert),
        ("alerts", record(21, &[1, 90]).repeat(10_000), invalid, None),
        ("a message of 16 MiB", record(22, &begun(0xff_ffff)).repeat(4096), invalid, None),
        (
            "a large message in small pieces",
            a_byte_each([begun(0xfff0), vec![0; HANDSHAKE / 6]].concat()),
            invalid,
            None,
        ),
    ];
    for (what, bytes, kind, first) in cases {
        let (error, said) = answer_to(bytes);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        if let Some(first) = first {
            assert_eq!(said.first().copied().unwrap_or(0), first, "{what}: {error}, {said:?}");
        }
    }
}

#[test]
fn one_wrong_byte_ends_a_connection_for_both() {
    on_a_reactor(|| async {
        let (home, central) = encrypted().await;
        assert!(home.write_unencrypted(&record(23, &[7; 40])));
        let error = read(&central, 1).await.expect_err("it was read");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(write(&central, b"as if nothing were").await.is_err());
        let told = read(&home, 1).await.expect_err("it was not told").to_string();
        assert!(told.contains("BadRecordMac"), "{told}");
    });
}
