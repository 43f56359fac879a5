//! The controller's thread: four times a second it reads what this host has left, has decided how much is to leave, and puts
//! that in force. It is a thread of its own, with a reactor of its own, so that neither Python nor a worker holds it up.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use pannier_central::controller::{Controller, Decision, Offer, Reason, State};
use pannier_central::sample::Sample;
use pannier_decide::schema::central::Way;
use pannier_reactor::{Seat, sleep};
use pannier_table::clock;
use pannier_table::counters::Enrolment;
use tokio::sync::Notify;

use crate::central::Mesh;
use crate::central::away::Target;
use crate::central::bulletin::{self, Bulletin, Inputs};
use crate::central::kernel::Kernel;
use crate::central::link::{self, Link, Own};
use crate::central::pressure::{Pressure, Readings};
use crate::central::rates::Rates;
use crate::central::settings::Settings;
use crate::central::wire::Want;
use crate::notify::Beat;
use crate::policy_watch::Watched;

/// Between two steps.
const TICK: Duration = Duration::from_millis(250);
/// A Central that was told that it is no more let in has heard it by then.
const LET_IN_MS: u64 = 2_000;
/// How long what was away before stays away while the links are made.
const SETTLES_MS: u64 = 2_000;
/// How long a Central that is no more is known to be lost.
const REMEMBERED_MS: u64 = 60_000;
/// Between two looks at the files of the certificate, milliseconds.
const LOOK_MS: u64 = 5_000;
/// Points that are asked for beyond the weight while it may rise: two steps.
const AHEAD: f64 = 20.0;
/// Of what passes here so much is held while all is calm; what is not used nobody else has (`docs/central-mesh.md`).
const STANDBY: f64 = 0.01;
/// Load grows while it is measured.
const GROWS: f64 = 1.2;
/// Of what a request costs here so much stays when the proxy relays it (`docs/central-mesh.md`); where the kernel redirects, or the
/// callers go elsewhere, nothing does.
const RELAYED: f64 = 0.8;

/// Starts it.
///
/// # Errors
/// One line when there is no thread to be had.
pub fn start(seat: Seat, watched: Watched, beats: Vec<Arc<Beat>>, enrolment: Arc<Enrolment>) -> Result<(), String> {
    let mesh = watched.mesh();
    let run = move || {
        mesh.wait_settings(|_| true);
        let ended = pannier_reactor::run(seat, async move {
            let mut before = Before::of_another_generation(&enrolment);
            loop {
                let Some(settings) = mesh.settings().filter(|_| !mesh.is_leaving()) else {
                    enrolment.set_bulletin(&[]);
                    mesh.changed.notified().await;
                    continue;
                };
                let mut here = Here::new(mesh.clone(), settings.clone(), watched.service(), beats.clone(), before);
                here.run(&enrolment).await;
                // The kernel's part outlives even a process that leaves: connections that it redirected are broken with it.
                before = here.left();
            }
        });
        if let Err(error) = ended {
            eprintln!("no controller of the Central Mesh: {error}");
        }
    };
    let spawned = thread::Builder::new().name("central".into()).stack_size(512 << 10).spawn(run);
    spawned.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

/// What goes on when the settings are others, or another process takes over.
#[derive(Default)]
struct Before {
    kernel: Option<Kernel>,
    controller: Option<Controller>,
    decision: Option<Decision>,
    /// Points that were away: they stay so while the links are made.
    weight: f64,
}

impl Before {
    /// What another process of this service has said last: a new one goes on from there.
    fn of_another_generation(enrolment: &Enrolment) -> Before {
        let said = enrolment.bulletins_of_others();
        let weights = said.iter().filter_map(|said| rmp_serde::from_slice::<Said>(said).ok()).map(|said| said.weight);
        let weight = weights.fold(0.0, f64::max);
        Before { weight: if weight.is_finite() { weight.clamp(0.0, 100.0) } else { 0.0 }, ..Before::default() }
    }
}

/// Of a bulletin.
#[derive(serde::Deserialize)]
struct Said {
    weight: f64,
}

/// This host, for as long as its settings stand.
struct Here {
    mesh: Arc<Mesh>,
    settings: Arc<Settings>,
    service: String,
    beats: Vec<Arc<Beat>>,
    controller: Controller,
    pressure: Pressure,
    links: BTreeMap<SocketAddr, Rc<Link>>,
    news: Rc<Notify>,
    kernel: Kernel,
    rates: Rates,
    readings: Readings,
    sample: Sample,
    way: &'static str,
    forced: Option<f64>,
    decision: Decision,
    since_ms: u64,
    revision: u64,
    let_in_until_ms: u64,
    /// Until the links are there, but no longer than that, what was decided before stands.
    settles_ms: u64,
    /// Centrals whose link has been given up while they were down, and until when that is remembered.
    given_up: Vec<(SocketAddr, u64)>,
}

impl Here {
    fn new(mesh: Arc<Mesh>, settings: Arc<Settings>, service: String, beats: Vec<Arc<Beat>>, before: Before) -> Here {
        let seed = clock::unix_ns() ^ u64::from(std::process::id()) << 32;
        let config = settings.table.controller;
        let controller = match before.controller {
            Some(mut controller) => {
                controller.reconfigure(config);
                controller
            }
            None if settings.is_gateway() => Controller::new(config, seed),
            None => Controller::resumed(config, seed, before.weight),
        };
        let state = if before.weight > 0.0 { State::Shifted } else { State::Local };
        Here {
            kernel: Kernel::of(before.kernel, &settings),
            controller,
            mesh,
            settings,
            service,
            beats,
            pressure: Pressure::new(),
            links: BTreeMap::new(),
            news: Rc::default(),
            rates: Rates::default(),
            readings: Readings::default(),
            sample: Sample::default(),
            way: "none",
            forced: None,
            decision: before.decision.unwrap_or(Decision {
                weight: before.weight,
                state,
                reason: Reason::Calm,
                reversals: 0,
                starving: false,
            }),
            since_ms: clock::unix_ms(),
            revision: 0,
            let_in_until_ms: 0,
            settles_ms: if before.weight > 0.0 { clock::monotonic_ms() + SETTLES_MS } else { 0 },
            given_up: Vec::new(),
        }
    }

    /// What goes on after it.
    fn left(self) -> Before {
        let Here { kernel, controller, decision, .. } = self;
        Before { kernel: Some(kernel), controller: Some(controller), weight: decision.weight, decision: Some(decision) }
    }

    /// Until the settings are others; then nothing leaves any more, until the next decide.
    async fn run(&mut self, enrolment: &Enrolment) {
        let (mut due_ms, mut look_ms) = (0, 0);
        loop {
            if clock::monotonic_ms() >= look_ms {
                look_ms = clock::monotonic_ms() + LOOK_MS;
                self.mesh.renew_certificate();
            }
            let is_same = self.mesh.settings().is_some_and(|current| self.takes_over(&current));
            if !is_same || self.mesh.is_leaving() {
                break;
            }
            let now_ms = clock::monotonic_ms();
            // News is acted on at once, and is no step of the controller's.
            let is_step = now_ms >= due_ms;
            if is_step {
                due_ms = now_ms + TICK.as_millis() as u64;
            }
            self.step(now_ms, is_step, enrolment);
            let left = Duration::from_millis(due_ms.saturating_sub(clock::monotonic_ms()).max(1));
            tokio::select! {
                () = self.news.notified() => {}
                () = self.mesh.changed.notified() => {}
                () = sleep(left) => {}
            }
        }
        self.mesh.away.set(0.0, "none", false);
        self.mesh.away.point_to(Vec::new(), self.lost(clock::monotonic_ms()));
        self.kernel.put(0.0, &[]);
        self.links.values().for_each(|link| link.end());
    }

    /// Whether other settings can be taken over as they are: another number of the controller's, another forced weight.
    fn takes_over(&mut self, current: &Arc<Settings>) -> bool {
        if Arc::ptr_eq(current, &self.settings) {
            return true;
        }
        let mut table = current.table.clone();
        (table.controller, table.forced) = (self.settings.table.controller, self.settings.table.forced);
        let is_alike = table == self.settings.table;
        if is_alike {
            if current.table.controller != self.settings.table.controller {
                self.controller.reconfigure(current.table.controller);
            }
            self.settings = current.clone();
        }
        is_alike
    }

    fn step(&mut self, now_ms: u64, is_step: bool, enrolment: &Enrolment) {
        self.link_up();
        // A Central is to have the policy that is in force now.
        if std::mem::replace(&mut self.revision, self.mesh.revision()) != self.mesh.revision() {
            self.links.values().for_each(|link| link.ask.notify_one());
        }
        if is_step && self.settings.is_gateway() {
            let is_pressed = self.decision.starving;
            self.mesh.hosts.with_ledger(|ledger| {
                ledger.press(now_ms, is_pressed);
                ledger.expire(now_ms);
            });
        }
        if is_step {
            self.readings = self.pressure.read(clock::monotonic_ns());
            self.rates.measure(&self.beats, self.served(), self.readings.proxy_cpu_ns);
            self.sample = self.measured();
        }
        let sample = self.sample;
        let usable: Vec<_> =
            self.links.values().map(|link| (link.clone(), link.known.borrow().usable(now_ms))).collect();
        let granted: f64 = usable.iter().map(|(_, rate)| rate).sum();
        let total = self.rates.here + self.rates.moved;
        let limit = if granted <= 0.0 { 0.0 } else { (100.0 * granted / total.max(1.0)).min(100.0) };
        // A host that is about to end takes its work back, so that it ends here.
        let forced = if self.mesh.is_draining() { Some(0.0) } else { self.settings.table.forced.map(|f| f.weight) };
        let offer = Offer { usable: granted > 0.0, limit, forced: forced.filter(|_| !self.settings.is_gateway()) };
        let before = self.decision;
        // Between two steps only what cannot wait: a Central is gone, or somebody asks for a weight.
        let is_settling = granted <= 0.0 && now_ms < self.settles_ms;
        if granted > 0.0 {
            self.settles_ms = 0;
        }
        let is_due = is_step || forced != self.forced || (granted <= 0.0 && before.weight > 0.0);
        if is_due && !is_settling {
            self.decision = self.controller.step(now_ms, &sample, &offer);
            self.forced = forced;
        }
        if before.state != self.decision.state {
            self.since_ms = clock::unix_ms();
        }
        let weight = self.decision.weight / 100.0;
        let targets: Vec<_> = usable
            .iter()
            .filter(|(_, rate)| *rate > 0.0)
            .map(|(link, rate)| {
                let revision = link.known.borrow().revision;
                Target { address: link.address, share: rate / granted, revision }
            })
            .collect();
        let way = self.way(&targets, &usable);
        self.way = way;
        let sheds = self.decision.starving && !self.settings.is_gateway() && (granted <= 0.0 || limit < 1.0);
        let outbound = if way == "none" { 0.0 } else { weight };
        self.kernel.put(if way == "redirect" { outbound } else { 0.0 }, &targets);
        let direct = self.let_in(now_ms, weight > 0.0, &targets, &usable);
        self.mesh.away.set(outbound, way, sheds);
        self.mesh.away.point_to(targets, self.lost(now_ms));
        let is_busy = forced.is_some() || self.decision.weight > 0.0 || self.decision.starving || self.is_warm(&sample);
        let ahead = if is_busy { AHEAD } else { 0.0 };
        let points = forced.unwrap_or(self.decision.weight).max(0.0) + if forced.is_some() { 0.0 } else { ahead };
        let wanted = total * GROWS * (points / 100.0).clamp(STANDBY, 1.0) + 10.0;
        let up = self.links.values().filter(|link| link.known.borrow().is_up).count().max(1);
        for (link, rate) in &usable {
            // Its part, or what the others leave over.
            let rate = (wanted / up as f64).max(wanted - (granted - rate));
            let (inbound, leaves) = (self.settings.table.inbound, self.settings.table.outbound != Way::Off);
            let weight = self.decision.weight;
            link.want.set(Want { rate, weight, inbound, outbound: leaves, direct, ..Want::default() });
            // What a Central must know at once: it takes less, or sends connections back.
            if is_busy != link.is_busy.replace(is_busy) || (before.weight - weight).abs() >= 1.0 {
                link.ask.notify_one();
            }
        }
        enrolment.set_bulletin(&self.bulletin(&sample, limit, granted, way, sheds).encode());
    }

    /// A link to each Central that there is, and to none that there is not.
    fn link_up(&mut self) {
        if self.settings.is_gateway() {
            return;
        }
        let (centrals, now_ms) = (self.mesh.centrals(), clock::monotonic_ms());
        self.given_up.retain(|(_, until_ms)| now_ms < *until_ms);
        let given_up = &mut self.given_up;
        self.links.retain(|address, link| {
            let stays = centrals.contains(address);
            if !stays {
                link.end();
                if !link.known.borrow().is_up {
                    given_up.push((*address, now_ms + REMEMBERED_MS));
                }
            }
            stays
        });
        for address in centrals {
            let (mesh, news) = (&self.mesh, &self.news);
            let own = || Own {
                service: self.service.clone(),
                redirects: self.kernel.why_not.is_none(),
                seed: clock::unix_ns(),
            };
            self.links.entry(address).or_insert_with(|| Link::keep(address, mesh.clone(), own(), news.clone()));
        }
    }

    /// Centrals from which nothing will come any more.
    fn lost(&self, now_ms: u64) -> Vec<SocketAddr> {
        let down = self.links.values().filter(|link| link.known.borrow().is_lost(now_ms)).map(|link| link.address);
        down.chain(self.given_up.iter().map(|(address, _)| *address)).collect()
    }

    fn measured(&self) -> Sample {
        let readings = &self.readings;
        let lag_us = self.beats.iter().map(|beat| beat.lag_us.swap(0, Ordering::Relaxed)).max().unwrap_or(0);
        let waited = (lag_us as f64 / 1_000.0).max(readings.run_delay_ms.unwrap_or(0.0));
        Sample {
            host_pressure: readings.host_pressure,
            cgroup_pressure: readings.cgroup_pressure,
            throttled: readings.throttled,
            run_delay_ms: readings.run_delay_ms,
            queue_wait_ms: Some(waited),
            idle: readings.idle,
            returning: self.saved() / readings.cpus.unwrap_or(1.0).max(0.01),
        }
    }

    fn served(&self) -> u64 {
        let at_centrals = || self.links.values().map(|link| link.known.borrow().served).sum();
        if self.settings.is_gateway() { self.mesh.hosts.served() } else { at_centrals() }
    }

    /// Whether it may be needed soon: then tokens are asked for already.
    fn is_warm(&self, sample: &Sample) -> bool {
        let enter = &self.settings.table.controller.enter;
        [
            (sample.host_pressure, enter.host_pressure),
            (sample.cgroup_pressure, enter.cgroup_pressure),
            (sample.throttled, enter.throttled),
            (sample.queue_wait_ms, enter.queue_wait_ms),
        ]
        .into_iter()
        .any(|(is, most)| is.is_some_and(|is| is >= most / 2.0))
    }

    /// The controller's reason; of a Central that takes nothing, why.
    fn reason(&self) -> Reason {
        if self.decision.reason != Reason::CentralDown {
            return self.decision.reason;
        }
        let any = |is: fn(&link::Known) -> bool| self.links.values().any(|link| is(&link.known.borrow()));
        match () {
            () if self.links.is_empty() => Reason::NoCentral,
            () if any(|known| known.is_up && known.is_slow()) => Reason::CentralSlow,
            () if any(|known| known.is_up && known.revision == 0) => Reason::PolicyUnknown,
            () if any(|known| known.is_up && known.trouble.is_empty()) => Reason::NoTokens,
            () => Reason::CentralDown,
        }
    }

    /// Cores that need not work here: what leaves would cost so much.
    fn saved(&self) -> f64 {
        let stays = if self.way == "relay" { RELAYED } else { 0.0 };
        self.rates.moved * self.rates.cost_ns * (1.0 - stays) / 1e9
    }

    /// Has the kernel let Centrals in to the app, where it may and the app's callers go that way; says where they come in. They
    /// are told that it ends before it does.
    fn let_in(
        &mut self,
        now_ms: u64,
        is_away: bool,
        targets: &[Target],
        links: &[(Rc<Link>, f64)],
    ) -> Option<SocketAddrV4> {
        let own = self.settings.table.passthrough.as_deref().and_then(|own| own.parse::<SocketAddrV4>().ok());
        let all_take = links.iter().all(|(link, rate)| *rate <= 0.0 || link.known.borrow().takes_redirect);
        let (Some(app), Some(own)) = (self.mesh.app(), own) else {
            return None;
        };
        let may = is_away && self.settings.table.inbound && self.kernel.why_not.is_none() && all_take;
        let centrals: Vec<_> = targets
            .iter()
            .filter(|_| may && !own.ip().is_loopback())
            .filter_map(|target| match target.address.ip() {
                IpAddr::V4(v4) if !v4.is_loopback() => Some(v4),
                _ => None,
            })
            .collect();
        if !centrals.is_empty() {
            self.let_in_until_ms = now_ms + LET_IN_MS;
            let is_in = self.kernel.admit(app, centrals);
            return is_in.then(|| SocketAddrV4::new(*own.ip(), app.port()));
        }
        if now_ms >= self.let_in_until_ms {
            self.kernel.admit(app, Vec::new());
        }
        None
    }

    /// How the app's calls leave, as things are.
    fn way(&self, targets: &[Target], links: &[(Rc<Link>, f64)]) -> &'static str {
        let all_take = || links.iter().all(|(link, rate)| *rate <= 0.0 || link.known.borrow().takes_redirect);
        let can_redirect = self.kernel.why_not.is_none() && !targets.is_empty() && all_take();
        match (self.settings.table.outbound, can_redirect) {
            _ if targets.is_empty() => "none",
            (Way::Best | Way::Redirect, true) => "redirect",
            (Way::Best | Way::Relay, _) => "relay",
            (Way::Redirect, false) | (Way::Off, _) => "none",
        }
    }

    fn bulletin(&self, sample: &Sample, limit: f64, granted: f64, way: &'static str, sheds: bool) -> Bulletin {
        let mut trouble = self.readings.trouble.clone();
        trouble.extend(self.mesh.trouble());
        if let (Way::Best | Way::Redirect, Some(why)) = (self.settings.table.outbound, &self.kernel.why_not) {
            trouble.push(format!("no redirect: {why}"));
        }
        let centrals = self.links.values().map(|link| {
            let known = link.known.borrow();
            bulletin::Central {
                address: link.address.to_string(),
                up: known.is_up,
                granted_rps: known.rate,
                rtt_ms: known.rtt_ms,
                trouble: known.trouble.clone(),
            }
        });
        Bulletin {
            state: self.decision.state.name(),
            weight: self.decision.weight,
            limit,
            reason: self.reason().name(),
            forced: self.settings.table.forced.is_some(),
            way,
            inbound: self.settings.table.inbound,
            since_ms: self.since_ms,
            inputs: Inputs {
                host_pressure: sample.host_pressure,
                cgroup_pressure: sample.cgroup_pressure,
                throttled: sample.throttled,
                run_delay_ms: sample.run_delay_ms,
                queue_wait_ms: sample.queue_wait_ms,
                idle: sample.idle,
                returning: sample.returning,
            },
            moved_rps: if self.settings.is_gateway() { 0.0 } else { self.rates.moved },
            saved_cores: if self.settings.is_gateway() { 0.0 } else { self.saved() },
            granted_rps: granted,
            centrals: centrals.collect(),
            reversals: self.decision.reversals,
            shedding: sheds,
            trouble,
            gateway: self.settings.table.gateway.as_ref().map(|gateway| bulletin::Gateway {
                hosts: self.mesh.hosts.list().len(),
                capacity: gateway.capacity,
                granted_rps: self.mesh.hosts.with_ledger(|ledger| ledger.granted()).unwrap_or(0.0),
                served_rps: self.rates.moved,
                served: self.mesh.hosts.served(),
                pressed: self.decision.starving,
                strangers: self.mesh.strangers(),
            }),
        }
    }
}
