//! A host's end of the link to a Central: what may be sent there, asked for again and again; and a Central that is gone is
//! noticed the moment its connection ends.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pannier_central::ledger::LEASE_MS;
use pannier_decide::random::Random;
use pannier_table::clock;
use tokio::sync::Notify;

use crate::central::Mesh;
use crate::central::contact::{PATIENCE, hear, introduce, say};
use crate::central::preface::{Preface, Role};
use crate::central::settings::Settings;
use crate::central::wire::{self, Grant, Hello, Said, Want};
use crate::dial;
use crate::stream::Stream;

/// Between two questions while something leaves or may soon, and otherwise.
const SOON: Duration = Duration::from_millis(250);
const CALM: Duration = Duration::from_secs(1);
/// Longest wait for an answer: a Central that is slower helps nobody.
const ANSWER: Duration = Duration::from_millis(500);
/// An answer that takes longer is late, and so many of them in a row are too late.
const LATE_MS: f64 = 200.0;
const SLOW_IN_A_ROW: u32 = 3;
/// What a Central may have served from one answer to the next, beside four seconds' worth of what it grants.
const SERVED_BETWEEN: u64 = 1_000;
/// A Central that was gone for so long takes what is under way there with it. Until then it may come back and answer.
const LOST_MS: u64 = 1_000;
/// The same to a question that has a policy before it, which is compiled first.
const ANSWER_TO_POLICY: Duration = Duration::from_secs(3);
const BACKOFF_MS: (u64, u64) = (250, 4_000);

/// What is known of a Central.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// It answers.
    pub is_up: bool,
    /// Requests a second that it takes, and until when (milliseconds since boot).
    pub rate: f64,
    #[allow(missing_docs)]
    pub until_ms: u64,
    /// How long the last answer took; and how many in a row took too long.
    pub rtt_ms: f64,
    slow: u32,
    down_since_ms: u64,
    /// Requests that it served for us, over all links.
    pub served: u64,
    /// The policy of ours that it had last; 0 = none yet. It keeps that for a while beside a newer one.
    pub revision: u64,
    /// It takes connections that our kernel sends.
    pub takes_redirect: bool,
    /// Why nothing may be sent there.
    pub trouble: String,
}

impl Known {
    /// Whether it answers, and takes too long for it: somebody who starves himself sees every answer late, so once is not
    /// enough.
    pub fn is_slow(&self) -> bool {
        self.slow >= SLOW_IN_A_ROW
    }

    /// Whether it has not answered for so long that nothing will come from there.
    pub fn is_lost(&self, now_ms: u64) -> bool {
        self.down_since_ms > 0 && now_ms.saturating_sub(self.down_since_ms) >= LOST_MS
    }

    /// Requests a second that may be sent there now.
    pub fn usable(&self, now_ms: u64) -> f64 {
        let is_well = self.is_up && self.revision != 0 && !self.is_slow();
        let is_usable = is_well && self.trouble.is_empty() && now_ms < self.until_ms;
        if is_usable { self.rate } else { 0.0 }
    }
}

/// A link.
pub struct Link {
    /// The Central's gateway.
    pub address: SocketAddr,
    /// What is known of it.
    pub known: RefCell<Known>,
    /// What is asked for.
    pub want: Cell<Want>,
    /// Ask now, and often.
    pub is_busy: Cell<bool>,
    /// Rung to ask at once.
    pub ask: Notify,
    redirects: bool,
    ended: Cell<bool>,
}

/// Whose link it is.
pub struct Own {
    #[allow(missing_docs)]
    pub service: String,
    /// Its kernel may send connections by itself.
    pub redirects: bool,
    /// For the pauses between two attempts.
    pub seed: u64,
}

impl Link {
    /// A link that is kept until it is ended; `news` is rung when the Central is there, or gone.
    pub fn keep(address: SocketAddr, mesh: Arc<Mesh>, own: Own, news: Rc<Notify>) -> Rc<Link> {
        let Own { service, redirects, seed } = own;
        let link = Rc::new(Link {
            address,
            known: RefCell::default(),
            want: Cell::default(),
            is_busy: Cell::new(false),
            ask: Notify::new(),
            redirects,
            ended: Cell::new(false),
        });
        let its = link.clone();
        pannier_reactor::spawn(async move {
            let mut random = Random::new(seed);
            let mut pause_ms = BACKOFF_MS.0;
            while !its.ended.get() {
                let failed = match mesh.settings() {
                    Some(settings) => its.talk(&mesh, &settings, &service, &news).await,
                    None => Err("there is no Central Mesh".into()),
                };
                let was_up = its.fell(failed.err());
                pause_ms = if was_up { BACKOFF_MS.0 } else { (pause_ms * 2).min(BACKOFF_MS.1) };
                news.notify_one();
                let jitter = 0.5 + random.unit();
                pannier_reactor::sleep(Duration::from_millis((pause_ms as f64 * jitter) as u64)).await;
            }
        });
        link
    }

    /// Notes that the Central is gone; whether it was there.
    fn fell(&self, trouble: Option<String>) -> bool {
        let mut known = self.known.borrow_mut();
        if known.is_up {
            known.down_since_ms = clock::monotonic_ms();
        }
        known.trouble = trouble.unwrap_or_default();
        std::mem::take(&mut known.is_up)
    }

    /// Ends it.
    pub fn end(&self) {
        self.ended.set(true);
        self.ask.notify_one();
    }

    async fn talk(&self, mesh: &Mesh, settings: &Settings, service: &str, news: &Notify) -> Result<(), String> {
        let address = self.address;
        let table = &settings.table;
        let preface = Preface::to(Role::Control, service, &table.instance, 0);
        let dialled = tokio::select! {
            biased;
            dialled = dial::unreserved(&address) => dialled.map_err(|error| format!("{address}: {error}")),
            () = pannier_reactor::sleep(PATIENCE) => Err(format!("{address} does not answer")),
        }?;
        let stream =
            introduce(settings, dialled, address, &table.service, &preface).await.map_err(|failed| failed.why)?;
        let hello = Hello {
            service: preface.service,
            instance: preface.instance,
            passthrough: table.passthrough.clone(),
            redirects: self.redirects,
        };
        let mut out = Vec::new();
        wire::write(&mut out, &Said::Hello(hello));
        let before = self.known.borrow().served;
        self.known.borrow_mut().revision = 0;
        let (mut input, mut handed, mut served) = (Vec::new(), 0, 0_u64);
        while !self.ended.get() {
            let mut patience = ANSWER;
            if handed != mesh.revision() {
                let policy = mesh.handover();
                handed = policy.revision;
                wire::write(&mut out, &Said::Policy(policy));
                patience = ANSWER_TO_POLICY;
            }
            let want = Want { revision: mesh.revision(), ..self.want.get() };
            wire::write(&mut out, &Said::Want(want));
            let asked_ns = clock::monotonic_ns();
            let grant = tokio::select! {
                biased;
                grant = ask(&stream, &out, &mut input) => grant.map_err(|why| format!("{address}: {why}"))?,
                () = pannier_reactor::sleep(patience) => return Err(format!("{address} does not answer in time")),
            };
            out.clear();
            let now_ms = clock::monotonic_ms();
            let is_news = {
                let mut known = self.known.borrow_mut();
                let was_usable = known.usable(now_ms) > 0.0;
                known.is_up = true;
                known.down_since_ms = 0;
                // Whatever a stranger may say.
                known.rate = if grant.rate.is_finite() { grant.rate.max(0.0) } else { 0.0 };
                known.until_ms = asked_ns / 1_000_000 + grant.lease_ms.min(LEASE_MS);
                known.rtt_ms = clock::monotonic_ns().saturating_sub(asked_ns) as f64 / 1e6;
                known.slow = if known.rtt_ms > LATE_MS { known.slow + 1 } else { 0 };
                // No more than it can have been: what it says decides how much leaves.
                served = grant.served.min(served.saturating_add((known.rate * 4.0) as u64 + SERVED_BETWEEN));
                known.served = before.saturating_add(served);
                if grant.knows_policy {
                    known.revision = want.revision;
                } else if known.revision == want.revision {
                    known.revision = 0; // it has forgotten
                }
                known.takes_redirect = grant.takes_redirect;
                if !grant.knows_policy && grant.trouble.is_empty() {
                    handed = 0;
                }
                known.trouble = grant.trouble;
                was_usable != (known.usable(now_ms) > 0.0)
            };
            if is_news {
                news.notify_one();
            }
            let pause = if self.is_busy.get() { SOON } else { CALM };
            tokio::select! {
                biased;
                () = stream.closed() => return Err(format!("{address} has ended the link")),
                () = self.ask.notified() => {}
                () = pannier_reactor::sleep(pause) => {}
            }
        }
        Ok(())
    }
}

async fn ask(stream: &Stream, out: &[u8], input: &mut Vec<u8>) -> Result<Grant, String> {
    say(stream, out).await.map_err(|error| error.to_string())?;
    loop {
        if let Some(grant) = wire::read(input, wire::MOST)? {
            return Ok(grant);
        }
        match hear(stream, input).await {
            Ok(0) => return Err("it has ended the link".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}
