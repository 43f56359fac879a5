//! Who may speak with whom, and what is said to those who may not.

use super::*;

#[test]
fn both_ends_know_each_other_by_name() {
    on_a_reactor(|| async {
        let (home, central) = encrypted().await;
        for (stream, name, others) in [(&home, "central", ["home", "x"]), (&central, "home", ["central", ""])] {
            assert!(stream.is_encrypted() && !stream.can_splice());
            assert!(stream.peer_is(name));
            assert!(others.iter().all(|other| !stream.peer_is(other)));
        }
        let (one, other) = plain();
        assert!(!one.is_encrypted() && one.can_splice() && !other.peer_is("home"));
    });
}

#[test]
fn a_peer_that_is_not_ours_is_refused_and_told_why() {
    let (ours, theirs, namesake) = (authority(), authority_called("theirs"), authority());
    let named = Wanted::named;
    let expired = || Wanted { until: 2001, ..named(&["central", "home"]) };
    let only = |purpose| Wanted { uses: vec![purpose], ..named(&["central", "home"]) };
    let anonymous = |tls: &Tls| {
        let mut roots = RootCertStore::empty();
        roots.add(ours.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(Tls { client: Arc::new(client), server: tls.server.clone() })
    };
    let home = || end(&ours, &named(&["home"]), &ours);
    let central = || end(&ours, &named(&["central"]), &ours);
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    // Who dials, who accepts; what the one and the other is told.
    let cases = [
        (home(), end(&theirs, &named(&["central"]), &ours), "UnknownIssuer", "UnknownCA"),
        (home(), end(&namesake, &named(&["central"]), &ours), "BadSignature", "DecryptError"),
        (home(), end(&ours, &named(&["elsewhere"]), &ours), "not valid for name", "BadCertificate"),
        (home(), end(&ours, &expired(), &ours), "expired", "CertificateExpired"),
        (home(), end(&ours, &only(ClientAuth), &ours), "extended key usage", "UnsupportedCertificate"),
        (end(&theirs, &named(&["home"]), &ours), central(), "UnknownCA", "UnknownIssuer"),
        (end(&ours, &expired(), &ours), central(), "CertificateExpired", "expired"),
        (end(&ours, &only(ServerAuth), &ours), central(), "UnsupportedCertificate", "extended key usage"),
        (anonymous(&home()), central(), "CertificateRequired", "no certificates"),
    ];
    for (number, (home, central, one_hears, other_hears)) in cases.into_iter().enumerate() {
        on_a_reactor(move || async move {
            let (dialled, accepted) = plain();
            let dial = async {
                let stream = dialled.dial_tls(&home, "central").await?;
                read(&stream, 1).await.map(|_| ())
            };
            let accept = async { accepted.accept_tls(&central, &[]).await.map(|_| ()) };
            let (dialled, accepted) = tokio::join!(dial, accept);
            for (result, expected) in [(dialled, one_hears), (accepted, other_hears)] {
                let error = result.expect_err("it was accepted").to_string();
                assert!(error.contains(expected), "case {number}: {error:?} instead of {expected:?}");
            }
        });
    }
}

#[test]
fn what_was_read_before_belongs_to_the_handshake() {
    on_a_reactor(|| async {
        let (home, central) = ends();
        for bytes in [1, 5, 6, 100, 10_000] {
            let (dialled, accepted) = plain();
            let dial = async {
                let stream = dialled.dial_tls(&home, "central").await?;
                write(&stream, b"hello").await.map(|()| stream)
            };
            let accept = async {
                let mut first = Vec::with_capacity(bytes);
                poll_fn(|context| accepted.poll_read(context, &mut first)).await?;
                let stream = accepted.accept_tls(&central, &first).await?;
                read(&stream, 5).await
            };
            let (dialled, said) = tokio::join!(dial, accept);
            assert_eq!(said.unwrap(), b"hello");
            assert!(dialled.unwrap().is_quiet());
        }
    });
}

#[test]
fn no_name_no_connection() {
    on_a_reactor(|| async {
        let (home, _) = ends();
        for name in ["", "not a name", "a..b"] {
            let (dialled, _accepted) = plain();
            let error = dialled.dial_tls(&home, name).await.err().expect("it was dialled");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn files_are_read_or_refused_with_what_to_do() {
    let folder = Folder::new();
    let (ours, theirs, namesake) = (authority(), authority_called("theirs"), authority());
    let (certificate, key) = issue(&ours, &Wanted::named(&["home"]));
    let (_, another) = issue(&ours, &Wanted::named(&["home"]));
    let expired = issue(&ours, &Wanted { until: 2001, ..Wanted::named(&["home"]) });
    let server = issue(&ours, &Wanted { uses: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Wanted::named(&["home"]) });
    let (root, foreign, other_key) = (ours.pem(), theirs.pem(), namesake.pem());
    let none = String::new();
    let torn = certificate[..certificate.len() / 2].to_string();
    let both = format!("{foreign}{root}");
    // Certificate, key and authority; the file that is to blame, and what is said.
    let cases = [
        ([&certificate, &key, &root], None),
        ([&certificate, &key, &both], None),
        ([&none, &key, &root], Some(("certificate.pem", "put a certificate there"))),
        ([&torn, &key, &root], Some(("certificate.pem", "no PEM file"))),
        ([&certificate, &none, &root], Some(("key.pem", "put its private key there"))),
        ([&certificate, &another, &root], Some(("key.pem", "key of another certificate"))),
        ([&certificate, &key, &none], Some(("authority.pem", "put a certificate there"))),
        ([&certificate, &key, &foreign], Some(("certificate.pem", "not of the authority"))),
        ([&certificate, &key, &other_key], Some(("certificate.pem", "not of the authority"))),
        ([&expired.0, &expired.1, &root], Some(("certificate.pem", "renew it"))),
        ([&server.0, &server.1, &root], Some(("certificate.pem", "for servers and for clients"))),
    ];
    for (texts, expected) in cases {
        let [certificate, key, authority] = ["certificate.pem", "key.pem", "authority.pem"];
        let files: Vec<_> =
            [certificate, key, authority].iter().zip(texts).map(|(name, text)| folder.write(name, text)).collect();
        match (Tls::load(&files[0], &files[1], &files[2]), expected) {
            (Ok(_), None) => {}
            (Err(said), Some((file, what))) => {
                let is_named = said.starts_with(&format!("{}:", folder.0.join(file).display()));
                assert!(is_named && said.contains(what) && !said.contains('\n'), "{said:?} instead of {what:?}");
            }
            (loaded, _) => panic!("{:?} instead of {expected:?}", loaded.err()),
        }
    }
    let missing = Tls::load(&folder.0.join("none.pem"), &folder.0.join("key.pem"), &folder.0.join("key.pem"));
    assert!(missing.err().expect("it was read").contains("none.pem: cannot be read"));
}
