//! Publishes, through this Central's own discovery, that instances are reached by way of it, each with its weight; and how much
//! more it could take on. In a thread of its own: discovery answers when it can, and nobody here waits for it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pannier_table::clock;
use pannier_table::layout::name_hash;

use crate::central::Mesh;
use crate::central::settings::Settings;

/// Between two looks at the weights.
const TICK: Duration = Duration::from_millis(250);
/// What is published holds for so long; it is said again in a third of that.
const TTL_S: u64 = 15;
/// A weight is published again when it has changed by so many points.
const NOTICED: f64 = 1.0;
/// Headroom is published in steps of such a part of the capacity.
const STEPS: f64 = 10.0;
/// What says that an instance is a Central (`shared/detours.py`).
pub const HEADROOM: &str = "pannier-central-headroom";
/// The longest name of an instance (`shared/instances.py`).
const LONGEST: usize = 128;
const PATIENCE: Duration = Duration::from_millis(500);

/// Starts it.
///
/// # Errors
/// One line when there is no thread to be had.
pub fn start(mesh: Arc<Mesh>) -> Result<(), String> {
    let run = move || {
        let mut published = Published::default();
        loop {
            let settings = mesh.wait_settings(Settings::is_gateway);
            if mesh.is_leaving() {
                return; // what is published is the next generation's, which says it anew
            }
            published.renew(&mesh, &settings);
            thread::sleep(TICK);
        }
    };
    let spawned = thread::Builder::new().name("detours".into()).stack_size(128 << 10).spawn(run);
    spawned.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

/// What discovery was told.
#[derive(Default)]
struct Published {
    /// By service and id: the value, and when it is to be said again.
    said: BTreeMap<(String, String), (f64, u64)>,
}

/// One thing to be published.
struct Wanted {
    value: f64,
    metadata: String,
}

impl Published {
    fn renew(&mut self, mesh: &Mesh, settings: &Settings) {
        let now = clock::monotonic_ms();
        let wanted = wanted(mesh, settings);
        let address = settings.table.gateway.as_ref().map_or("", |gateway| &gateway.address);
        let gone: Vec<_> = self.said.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            let path = format!("/v1/instances/{}/{}", name.0, name.1);
            if ask(&settings.table.api, "DELETE", &path, "").is_ok() {
                self.said.remove(&name);
            }
        }
        for (name, Wanted { value, metadata }) in wanted {
            if let Some((before, due_ms)) = self.said.get(&name)
                && (before - value).abs() < NOTICED
                && now < *due_ms
            {
                continue;
            }
            let path = format!("/v1/instances/{}/{}", name.0, name.1);
            let body = format!(r#"{{"address":"{address}","ttl":"{TTL_S}s","metadata":{{{metadata}}}}}"#);
            match ask(&settings.table.api, "PUT", &path, &body) {
                Ok(()) => drop(self.said.insert(name, (value, now + TTL_S * 1_000 / 3))),
                // Discovery may be starting; what it refuses is asked again, but not at once, and said.
                Err(error) => mesh.complain(format!("discovery does not take {}/{}: {error}", name.0, name.1)),
            }
        }
    }
}

/// Every instance that is reached by way of us, and ourselves.
fn wanted(mesh: &Mesh, settings: &Settings) -> BTreeMap<(String, String), Wanted> {
    let own = &settings.table.instance;
    let mut all = BTreeMap::new();
    for host in mesh.hosts.list() {
        let weight = (host.weight() * 100.0).round();
        if weight >= 1.0 && host.takes_callers() && host.hello.passthrough.is_some() {
            let metadata =
                format!(r#""pannier-central-of":"{}","pannier-central-weight":"{weight}""#, host.hello.instance);
            let id = joined(&host.hello.instance, own);
            all.insert((host.hello.service.clone(), id), Wanted { value: weight, metadata });
        }
    }
    if let Some(gateway) = &settings.table.gateway {
        let left = mesh.hosts.with_ledger(|ledger| ledger.headroom()).unwrap_or(0.0);
        let step = (gateway.capacity / STEPS).max(1.0);
        let headroom = (left / step).round() * step;
        let metadata = format!(r#""{HEADROOM}":"{headroom}""#);
        all.insert((settings.table.service.clone(), format!("{own}.gateway")), Wanted { value: headroom, metadata });
    }
    all
}

/// An instance's name from two; of those that are too long together a part, and a hash of the rest.
fn joined(instance: &str, own: &str) -> String {
    let whole = format!("{instance}.{own}");
    if whole.len() <= LONGEST {
        return whole;
    }
    let kept: String = whole.chars().take(LONGEST - 17).collect();
    format!("{kept}-{:016x}", name_hash(whole.as_bytes()))
}

/// One request to the local API.
fn ask(socket: &str, method: &str, path: &str, body: &str) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(16 << 10).read_to_end(&mut answer)?;
    let is_done = answer.starts_with(b"HTTP/1.1 2") || (method == "DELETE" && answer.starts_with(b"HTTP/1.1 404"));
    // The last line of what it says is why.
    let said = String::from_utf8_lossy(&answer);
    if is_done { Ok(()) } else { Err(std::io::Error::other(said.lines().last().unwrap_or("").to_string())) }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, joined};

    #[test]
    fn names_of_two_are_names_however_long_they_are() {
        assert_eq!(joined("one", "two"), "one.two");
        let (a, b) = ("a".repeat(70), "b".repeat(70));
        let long = joined(&a, &b);
        assert_eq!(long.len(), LONGEST);
        assert!(long != joined(&a, &"b".repeat(71)));
    }
}
