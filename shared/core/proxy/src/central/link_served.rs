//! The Central's end of a link: a host hands over its policy, asks for tokens, and is told what it gets.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use pannier_central::ledger::Refused;
use pannier_table::clock;
use tokio::sync::oneshot;

use crate::central::Mesh;
use crate::central::contact::{hear, say};
use crate::central::hosts::Host;
use crate::central::preface::Preface;
use crate::central::settings::Settings;
use crate::central::wire::{self, Grant, Hello, Said, Want};
use crate::stream::Stream;
use crate::timers::after;
use crate::worker::Worker;

/// A host that has said nothing for so long is gone, milliseconds.
const SILENCE_MS: u64 = 5_000;
/// A host that has something here asks again within that time.
const ASKS_WITHIN_MS: u64 = 500;
/// What a host may send beyond its tokens: it cannot know what its connections will bring.
const SLACK: f64 = 1.5;
const SLACK_REQUESTS: f64 = 50.0;

/// Serves a link to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    settings: &Settings,
    stream: Stream,
    from: IpAddr,
    preface: &Preface,
    mut input: Vec<u8>,
) {
    let mesh = &worker.mesh;
    let timer = worker.timers.register();
    let mut host: Option<Arc<Host>> = None;
    let (mut out, mut meter) = (Vec::new(), Meter::default());
    loop {
        // Another life of the host has a link of its own; another generation of this process has the others.
        if worker.is_leaving() || host.as_ref().is_some_and(|host| !host.is_linked()) {
            break;
        }
        let most = if host.is_some() { wire::MOST_POLICY } else { wire::MOST };
        let said = match wire::read(&mut input, most) {
            Ok(Some(said)) => said,
            Ok(None) => {
                let heard = tokio::select! {
                    heard = timer.until(after(SILENCE_MS), hear(&stream, &mut input)) => heard,
                    () = worker.wait_leaving() => break,
                };
                match heard {
                    Ok(Ok(1..)) => continue,
                    _ => break,
                }
            }
            Err(_) => {
                mesh.turned_away();
                break;
            }
        };
        match (said, &host) {
            (Said::Hello(hello), None) if is_own(&hello, preface) && mesh.hosts.has_room(settings) => {
                host = Some(mesh.hosts.enter(reached(hello, &stream, from), from));
            }
            (Said::Policy(policy), Some(host)) => {
                meter.refused = policy.revision;
                meter.trouble = take_in(mesh, host, policy).await;
            }
            (Said::Want(want), Some(host)) => {
                let grant = answer(worker, settings, host, &want, &mut meter);
                out.clear();
                wire::write(&mut out, &grant);
                if !matches!(timer.until(after(SILENCE_MS), say(&stream, &out)).await, Ok(Ok(()))) {
                    break;
                }
            }
            _ => {
                mesh.turned_away();
                break;
            }
        }
    }
    if let Some(host) = host {
        mesh.hosts.leave(&host);
    }
}

/// Puts a policy in force, joined with what is known here; else says why not. In a thread of its own: this one has requests
/// to serve.
async fn take_in(mesh: &Arc<Mesh>, host: &Arc<Host>, policy: wire::Policy) -> String {
    let (tell, told) = oneshot::channel();
    let (mesh, host) = (mesh.clone(), host.clone());
    let compile = move || {
        let _ = tell.send(mesh.take_in(&host, &policy).err().unwrap_or_default());
    };
    match thread::Builder::new().name("policy".into()).spawn(compile) {
        Ok(_) => told.await.unwrap_or_else(|_| "its policy could not be taken in".into()),
        Err(error) => format!("its policy could not be taken in: {error}"),
    }
}

/// Without a certificate a host has its app nowhere but where it is itself.
fn reached(mut hello: Hello, stream: &Stream, from: IpAddr) -> Hello {
    let is_there = |text: &String| {
        let address: Option<SocketAddr> = text.parse().ok();
        address.is_some_and(|address| stream.is_encrypted() || address.ip().to_canonical() == from.to_canonical())
    };
    hello.passthrough = hello.passthrough.filter(is_there);
    hello
}

/// Nobody speaks for another service than its certificate or its preface names.
fn is_own(hello: &Hello, preface: &Preface) -> bool {
    hello.service == preface.service && hello.instance == preface.instance && !hello.instance.is_empty()
}

/// What is remembered from one question to the next.
#[derive(Default)]
struct Meter {
    at_ms: u64,
    served: u64,
    granted: f64,
    trouble: String,
    /// The revision of the policy that the trouble is of.
    refused: u64,
}

fn answer(worker: &Worker, settings: &Settings, host: &Host, want: &Want, meter: &mut Meter) -> Grant {
    let now = clock::monotonic_ms();
    let served = host.served();
    let seconds = now.saturating_sub(meter.at_ms).min(SILENCE_MS) as f64 / 1_000.0;
    let did = (served - meter.served) as f64;
    let is_over = meter.at_ms > 0 && did > meter.granted * SLACK * seconds + SLACK_REQUESTS;
    let allowed = if is_over { meter.granted * seconds / did } else { 1.0 };
    host.said(want.weight / 100.0, want.inbound, allowed);
    host.let_in(want.direct.filter(|_| settings.may_be_plain(host.address)));
    let tenant = host.policy(want.revision);
    let missing = tenant.as_ref().map(|tenant| tenant.missing()).unwrap_or_default();
    let mut trouble = match &tenant {
        None if meter.refused == want.revision => meter.trouble.clone(),
        Some(_) if want.outbound && !missing.is_empty() => {
            format!("the Central knows no endpoint of {}", missing.join(", "))
        }
        _ => String::new(),
    };
    if worker.is_draining() {
        trouble = "the Central is being stopped".into();
    }
    let (rate, lease_ms) = match worker.mesh.hosts.want(now, host, want.rate) {
        Ok(grant) => {
            let (rate, until_ms) = grant.as_one(now, ASKS_WITHIN_MS);
            (rate, until_ms.saturating_sub(now))
        }
        Err(refused) => {
            trouble = match refused {
                Refused::Full => "the Central has as many hosts as it may have".into(),
                Refused::Flood => "the Central was asked too often".into(),
            };
            (meter.granted, 0)
        }
    };
    (meter.at_ms, meter.served, meter.granted) = (now, served, rate);
    Grant {
        sequence: want.sequence,
        rate,
        lease_ms,
        served,
        knows_policy: tenant.is_some(),
        takes_redirect: settings.may_be_plain(host.address)
            && worker.mesh.hosts.at(host.address).is_some_and(|only| only.id == host.id),
        trouble,
    }
}
