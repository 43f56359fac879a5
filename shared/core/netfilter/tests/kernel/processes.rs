//! Several processes, and their ends. A process that holds a redirect is this program again, told to by its environment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pannier_netfilter::Redirect;

use crate::network::{Network, address};
use crate::server::{Client, LISTENER, connect, count, serve};

const HOLDS: &str = "PANNIER_TEST_HOLDS";
const CENTRAL: &str = "10.77.0.2:15090";

/// Not a test: holds a redirect for the listener in the environment; each line of input is the share of one Central.
#[test]
#[ignore = "for the tests here"]
fn holder() {
    let Ok(listener) = std::env::var(HOLDS) else { return };
    let mut redirect = Redirect::open(address(&listener)).unwrap();
    println!("\nready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (central, share) = line.split_once('=').unwrap();
        redirect.set(&[(address(central), share.parse().unwrap())]).unwrap();
        println!("\nready");
    }
}

/// A process on host 1.
struct Holder {
    process: Child,
    says: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Holder {
    fn start(network: &Network, listener: &str, share: &str) -> Holder {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes::holder", "--ignored", "--nocapture"]).env(HOLDS, listener);
        let mut process = network.on(1, || command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()).unwrap();
        let (says, told) = (BufReader::new(process.stdout.take().unwrap()), process.stdin.take().unwrap());
        let mut holder = Holder { process, says, told };
        holder.ready();
        holder.set(share);
        holder
    }

    fn set(&mut self, share: &str) {
        writeln!(self.told, "{share}").unwrap();
        self.ready();
    }

    fn ready(&mut self) {
        let mut line = String::new();
        while line.trim() != "ready" {
            line.clear();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "the process has ended");
        }
    }

    /// `kill -9`.
    fn kill(self) {}
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Host 1 with a listener, a Central on host 2.
fn shop() -> Option<Network> {
    let network = Network::of(2)?;
    serve(&network, 1, LISTENER, b'l');
    serve(&network, 2, CENTRAL, b'c');
    Some(network)
}

#[test]
fn kill_9_takes_the_rules_with_it() {
    let Some(network) = shop() else { return };
    let holder = Holder::start(&network, LISTENER, "10.77.0.2:15090=10000");
    assert_eq!(count(&network, 20), BTreeMap::from([('c', 20)]));
    holder.kill();
    assert_eq!(count(&network, 20), BTreeMap::from([('l', 20)]));
}

/// The next process has a share, and connections that sent nothing meanwhile go on; one that did is reset.
#[test]
fn what_was_redirected_when_its_process_was_killed() {
    let Some(network) = shop() else { return };
    let holder = Holder::start(&network, LISTENER, "10.77.0.2:15090=10000");
    let (mut idle, mut busy) = (connect(&network), connect(&network));
    holder.kill();
    assert!(busy.again().is_err(), "nobody translates any more");
    let mut next = Holder::start(&network, LISTENER, "10.77.0.2:15090=1");
    next.set("10.77.0.2:15090=0");
    assert_eq!(idle.again().unwrap(), 'c');
    assert_eq!(connect(&network).who, 'l');
}

/// A newer process takes over: both at once, then the older one goes, and nothing that is open notices.
#[test]
fn two_processes_for_one_port() {
    let Some(network) = shop() else { return };
    let older = Holder::start(&network, LISTENER, "10.77.0.2:15090=10000");
    let mut of_older = connect(&network);
    let mut newer = Holder::start(&network, LISTENER, "10.77.0.2:15090=10000");
    assert_eq!(count(&network, 20), BTreeMap::from([('c', 20)]), "with both");
    older.kill();
    assert_eq!(count(&network, 20), BTreeMap::from([('c', 20)]), "with the newer one");
    assert_eq!(of_older.again().unwrap(), 'c');
    newer.set("10.77.0.2:15090=0");
    assert_eq!(count(&network, 20), BTreeMap::from([('l', 20)]), "nothing of the older one is left");
    newer.kill();
    assert_eq!(count(&network, 20), BTreeMap::from([('l', 20)]));
}

#[test]
fn two_processes_for_two_ports() {
    let Some(network) = shop() else { return };
    let other = "127.0.0.1:15002";
    serve(&network, 1, other, b'o');
    let who = |to: &str| network.on(1, || Client::connect(to)).unwrap().who;
    let mut first = Holder::start(&network, LISTENER, "10.77.0.2:15090=10000");
    let second = Holder::start(&network, other, "10.77.0.2:15090=10000");
    assert_eq!([who(LISTENER), who(other)], ['c', 'c']);
    first.set("10.77.0.2:15090=0");
    assert_eq!([who(LISTENER), who(other)], ['l', 'c']);
    first.set("10.77.0.2:15090=10000");
    second.kill();
    assert_eq!([who(LISTENER), who(other)], ['c', 'o']);
    first.kill();
    assert_eq!([who(LISTENER), who(other)], ['l', 'o']);
}
