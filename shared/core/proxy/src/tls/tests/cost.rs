//! What encryption costs, printed: `cargo test --release -p pannier-proxy -- --ignored --nocapture tls`.

use std::time::Instant;

use super::*;

const PAIRS: usize = 20_000;

/// CPU time of this thread, µs.
fn cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn resident_kib() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4.0
}

async fn pairs(one: &Stream, other: &Stream) -> f64 {
    let message = sample(128);
    let began = cpu_us();
    let ask = async {
        for _ in 0..PAIRS {
            write(one, &message).await.unwrap();
            assert_eq!(read(one, 128).await.unwrap().len(), 128);
        }
    };
    let answer = async {
        for _ in 0..PAIRS {
            assert_eq!(read(other, 128).await.unwrap().len(), 128);
            write(other, &message).await.unwrap();
        }
    };
    tokio::join!(ask, answer);
    (cpu_us() - began) / PAIRS as f64
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_request() {
    on_a_reactor(|| async {
        let (plain, secret) = (plain(), encrypted().await);
        for _ in 0..3 {
            let (without, with) = (pairs(&plain.0, &plain.1).await, pairs(&secret.0, &secret.1).await);
            eprintln!("128 bytes there and back, both ends: plain {without:.2} µs, encrypted {with:.2} µs of CPU");
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn cost_of_many_bytes() {
    on_a_reactor(|| async {
        const MIB: usize = 512;
        let bytes = sample(1 << 20);
        for (what, (one, other)) in [("plain", plain()), ("encrypted", encrypted().await)] {
            let (began, cpu) = (Instant::now(), cpu_us());
            let send = async {
                for _ in 0..MIB {
                    write(&one, &bytes).await.unwrap();
                }
            };
            let receive = async {
                let (mut input, mut left) = (Vec::with_capacity(64 << 10), MIB << 20);
                while left > 0 {
                    input.clear();
                    left -= poll_fn(|context| other.poll_read(context, &mut input)).await.unwrap();
                }
            };
            tokio::join!(send, receive);
            let (time, cpu) = (began.elapsed().as_secs_f64(), (cpu_us() - cpu) / 1e6);
            eprintln!("{what}: {:.0} MiB/s, {:.0} MiB a second of CPU, both ends", MIB as f64 / time, MIB as f64 / cpu);
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_connection() {
    const CONNECTIONS: usize = 400;
    on_a_reactor(|| async {
        let (home, central) = ends();
        let mut all = Vec::new();
        for is_warm in [false, true] {
            let (before, cpu) = (resident_kib(), cpu_us());
            for _ in 0..if is_warm { CONNECTIONS } else { 20 } {
                let (one, other) = plain();
                let (one, other) = tokio::join!(one.dial_tls(&home, "central"), other.accept_tls(&central, &[]));
                let (one, other) = (one.unwrap(), other.unwrap());
                write(&one, &[0; 1000]).await.unwrap();
                write(&other, &read(&other, 1000).await.unwrap()).await.unwrap();
                read(&one, 1000).await.unwrap();
                all.push((one, other));
            }
            if is_warm {
                let (memory, cpu) = (resident_kib() - before, cpu_us() - cpu);
                let each = CONNECTIONS as f64;
                eprintln!("handshake {:.0} µs of CPU, both ends; {:.2} KiB an end", cpu / each, memory / each / 2.0);
            }
        }
        eprintln!("a Stream is {} bytes, a session {}", size_of::<Stream>(), size_of::<Session>());
    });
}

#[test]
#[ignore = "a measurement"]
fn cost_of_reading_the_files() {
    let folder = Folder::new();
    let all = authority();
    let (certificate, key) = issue(&all, &Wanted::named(&["home"]));
    let [certificate, key, authority] =
        [("c.pem", certificate), ("k.pem", key), ("a.pem", all.pem())].map(|(name, text)| folder.write(name, &text));
    let began = Instant::now();
    for _ in 0..100 {
        Tls::load(&certificate, &key, &authority).unwrap();
    }
    eprintln!("load: {:.2} ms", began.elapsed().as_secs_f64() * 10.0);
}
