//! Bytes, their end, and what is not quite an end.

use std::task::Poll;

use super::*;

#[test]
fn all_that_is_sent_arrives_both_ways_at_once() {
    on_a_reactor(|| async {
        for make in [plain, tight] {
            for bytes in [0, 1, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 1 << 20] {
                let (home, central) = encrypted_on(make()).await;
                let (there, back) = (sample(bytes), sample(bytes + 1));
                let done = tokio::join!(
                    write(&home, &there),
                    write(&central, &back[1..]),
                    read(&home, bytes),
                    read(&central, bytes),
                );
                assert!(done.0.is_ok() && done.1.is_ok());
                assert!(done.2.unwrap() == back[1..], "{bytes} bytes back");
                assert!(done.3.unwrap() == there, "{bytes} bytes there");
                assert!(home.is_quiet() && central.is_quiet());
            }
        }
    });
}

#[test]
fn messages_in_many_pieces_come_between_the_data() {
    on_a_reactor(|| async {
        let (home, central) = ends();
        // OpenSSL's server sends tickets as well; here each takes a dozen records.
        let (mut client, mut server) = ((*home.client).clone(), (*central.server).clone());
        client.max_fragment_size = Some(32);
        server.max_fragment_size = Some(32);
        server.send_tls13_tickets = 8;
        let home = Tls { client: Arc::new(client), server: home.server.clone() };
        let central = Tls { client: central.client.clone(), server: Arc::new(server) };
        for make in [plain, tight] {
            let (dialled, accepted) = make();
            let done = tokio::join!(dialled.dial_tls(&home, "central"), accepted.accept_tls(&central, &[]));
            let (home, central) = (done.0.unwrap(), done.1.unwrap());
            let bytes = sample(100_000);
            let done = tokio::join!(
                write(&home, &bytes),
                write(&central, &bytes),
                read(&home, bytes.len()),
                read(&central, bytes.len()),
            );
            assert!(done.0.is_ok() && done.1.is_ok());
            assert!(done.2.unwrap() == bytes && done.3.unwrap() == bytes);
            assert!(home.is_quiet() && central.is_quiet());
        }
    });
}

#[test]
fn an_end_is_one_only_if_the_peer_says_so() {
    on_a_reactor(|| async {
        for says_so in [true, false] {
            let (home, central) = encrypted().await;
            write(&home, b"the beginning").await.unwrap();
            if says_so {
                home.shutdown().unwrap();
            }
            drop(home);
            assert_eq!(read(&central, 13).await.unwrap(), b"the beginning");
            let end = read(&central, 1).await;
            match end {
                Ok(nothing) => assert!(says_so && nothing.is_empty()),
                Err(error) => assert!(!says_so && error.kind() == io::ErrorKind::UnexpectedEof, "{error}"),
            }
            assert!(!central.is_quiet());
            central.closed().await;
            let again = read(&central, 1).await;
            assert_eq!(again.is_ok(), says_so, "it is still so");
        }
    });
}

#[test]
fn who_has_ended_still_listens() {
    on_a_reactor(|| async {
        let (home, central) = encrypted_on(tight()).await;
        home.shutdown().unwrap();
        assert!(write(&home, b"more").await.is_err());
        assert!(!home.write_unencrypted(b"more"), "the socket has ended as well");
        assert_eq!(read(&central, 1).await.unwrap(), b"");
        let answer = sample(100_000);
        let (written, heard) = tokio::join!(write(&central, &answer), read(&home, answer.len()));
        assert!(written.is_ok() && heard.unwrap() == answer);
        central.shutdown().unwrap();
        assert_eq!(read(&home, 1).await.unwrap(), b"");
        assert!(home.shutdown().is_ok(), "twice does no harm");
    });
}

#[test]
fn what_was_taken_is_sent_by_whoever_reads_or_waits() {
    on_a_reactor(|| async {
        for waits in 0..4 {
            let (home, central) = encrypted_on(tight()).await;
            let bytes = sample(1 << 20);
            let mut taken = 0;
            // Until there is no room: a part of the last record is kept.
            poll_fn(|context| {
                while let Poll::Ready(written) = home.poll_write(context, &bytes[taken..], &[]) {
                    taken += written.unwrap();
                }
                Poll::Ready(())
            })
            .await;
            assert!(poll_fn(|context| Poll::Ready(home.poll_flush(context).is_pending())).await);
            if waits == 3 {
                home.shutdown().unwrap();
            }
            let go_on = async {
                match waits {
                    0 => read(&home, 1).await.unwrap().len(),
                    1 => {
                        poll_fn(|context| home.poll_readable(context)).await;
                        0
                    }
                    2 => {
                        home.closed().await;
                        0
                    }
                    _ => read(&home, 1).await.unwrap().len(),
                }
            };
            let drain = async {
                let heard = read(&central, taken).await.unwrap();
                if waits == 3 {
                    assert_eq!(read(&central, 1).await.unwrap(), b"", "its end comes behind that");
                }
                central.shutdown().unwrap();
                heard
            };
            let (_, heard) = tokio::join!(go_on, drain);
            assert!(heard == bytes[..taken]);
        }
    });
}

#[test]
fn what_is_decrypted_already_is_readable() {
    on_a_reactor(|| async {
        let (home, central) = encrypted().await;
        let bytes = sample(16 << 10);
        write(&home, &bytes).await.unwrap();
        let mut all = Vec::new();
        while all.len() < bytes.len() {
            poll_fn(|context| central.poll_readable(context)).await;
            let mut some = Vec::with_capacity(100);
            let read = poll_fn(|context| central.poll_read(context, &mut some)).await.unwrap();
            assert!(read > 0 && read == some.len() && read <= some.capacity());
            all.extend(some);
            assert_eq!(central.is_quiet(), all.len() == bytes.len());
        }
        assert!(all == bytes);
        assert!(poll_fn(|context| Poll::Ready(central.poll_readable(context).is_pending())).await);
    });
}

#[test]
fn an_idle_connection_is_quiet_until_something_comes() {
    on_a_reactor(|| async {
        let (home, central) = encrypted().await;
        assert!(home.is_quiet() && central.is_quiet());
        write(&home, b"x").await.unwrap();
        poll_fn(|context| central.poll_readable(context)).await;
        assert!(!central.is_quiet());
        let is_seen = poll_fn(|context| {
            let mut closed = std::pin::pin!(central.closed());
            Poll::Ready(closed.as_mut().poll(context).is_ready())
        });
        assert!(!is_seen.await, "there is data");
        assert_eq!(read(&central, 1).await.unwrap(), b"x");
        assert!(central.is_quiet());
        home.shutdown().unwrap();
        central.closed().await;
        assert!(!central.is_quiet());
    });
}

#[test]
fn a_reset_is_an_error() {
    on_a_reactor(|| async {
        let (home, central) = encrypted().await;
        write(&home, b"half").await.unwrap();
        home.end_by_reset();
        drop(home);
        assert!(read(&central, 10).await.is_err());
    });
}
