//! The Central Mesh in the data path: how work leaves a host that has nothing left to give, and how another host's proxy
//! takes it on. ADR 26 has the shape; `pannier_central` decides, what is here does.
//!
//! | file | on a host | on a Central |
//! | --- | --- | --- |
//! | `shift` | the controller's thread: reads, decides, puts in force | how hard pressed it is |
//! | `pressure`, `rates` | what this host has left, what passes and what it costs | the same |
//! | `kernel` | its redirect of new connections | |
//! | `link`, `link_served` | asks for tokens, hands over its policy | grants them |
//! | `away`, `relay`, `warm` | which connections of the app leave, and how | |
//! | `gateway`, `hosts`, `tenant` | | who leans on it, and what it serves for them |
//! | `passthrough` | lets a Central in to the app | |
//! | `detouring` | which calls go to an instance by way of a Central | reaches the app of an instance |
//! | `detours` | | publishes that instances are reached by way of it |
//! | `preface`, `wire`, `contact`, `entrance`, `networks`, `settings`, `bulletin` | what both say, and how | the same |

use std::net::{IpAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use pannier_decide::address::Address;
use pannier_decide::cluster::{Cluster, Endpoint};
use pannier_decide::policy::{Policy, Tables};
use pannier_decide::schema::Lifecycle;
use pannier_table::clock;
use pannier_table::kind::Kind;
use pannier_table::layout::name_hash;
use tokio::sync::Notify;

pub mod away;
pub mod bulletin;
pub mod contact;
pub mod detouring;
pub mod detours;
pub mod entrance;
pub mod gateway;
pub mod hosts;
pub mod kernel;
pub mod link;
pub mod link_served;
pub mod networks;
pub mod passthrough;
pub mod preface;
pub mod pressure;
pub mod rates;
pub mod relay;
pub mod settings;
pub mod shift;
pub mod tenant;
pub mod warm;
pub mod wire;

use away::Away;
use hosts::{Host, Hosts};
use settings::Settings;
use tenant::Tenant;

/// How long a complaint is shown.
const NEW_MS: u64 = 5_000;

/// What the threads of this process share about it.
#[derive(Default)]
pub struct Mesh {
    /// The way out of this host.
    pub away: Away,
    /// Who leans on this Central.
    pub hosts: Hosts,
    /// Rung for the controller's thread when a table has changed.
    pub changed: Notify,
    settings: Mutex<Option<Arc<Settings>>>,
    there: Condvar,
    known: Mutex<Known>,
    compiling: Mutex<()>,
    revision: AtomicU64,
    draining: AtomicBool,
    leaving: AtomicBool,
    turned_away: AtomicU64,
    trouble: Mutex<Option<(u64, String)>>,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("weight", &self.away.weight()).finish_non_exhaustive()
    }
}

/// The tables in force, as far as a Central Mesh needs them.
#[derive(Default)]
struct Known {
    tables: Option<Tables>,
    handover: wire::Policy,
    centrals: Vec<std::net::SocketAddr>,
    app: Option<SocketAddrV4>,
}

impl Mesh {
    /// What table `central` says; none without it.
    pub fn settings(&self) -> Option<Arc<Settings>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same for a thread that has nothing to do before they are as it wants them: it sleeps until then.
    pub fn wait_settings(&self, wanted: impl Fn(&Settings) -> bool) -> Arc<Settings> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = settings.as_ref().filter(|settings| wanted(settings)) {
                return found.clone();
            }
            settings = self.there.wait(settings).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads the certificate anew if its files have been changed. One that does not hold is said, and the one before stays.
    pub fn renew_certificate(&self) {
        let Some(before) = self.settings().filter(|settings| settings.is_stale()) else {
            return;
        };
        let renewed = Settings::of(before.table.clone()).unwrap_or_else(|reason| {
            eprintln!("the certificate that was read before stays in force: {reason}");
            before.as_looked_at()
        });
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if settings.as_ref().is_some_and(|current| Arc::ptr_eq(current, &before)) {
            *settings = Some(Arc::new(renewed));
        }
    }

    /// The revision of the policy that a Central needs of us.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Our policy, for a Central.
    pub fn handover(&self) -> wire::Policy {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).handover.clone()
    }

    /// The Centrals that table `central` names, and those that discovery knows.
    pub fn centrals(&self) -> Vec<std::net::SocketAddr> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).centrals.clone()
    }

    /// Where the app listens, if only this host reaches it.
    pub fn app(&self) -> Option<SocketAddrV4> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).app
    }

    /// Whether a Central is at that address.
    pub fn is_central(&self, ip: IpAddr) -> bool {
        self.centrals().iter().any(|central| central.ip().to_canonical() == ip.to_canonical())
    }

    /// What an operator should know of publishing.
    pub fn complain(&self, trouble: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock::monotonic_ms(), trouble));
    }

    /// The last of that, while it is new.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().filter(|(at, _)| clock::monotonic_ms() < at + NEW_MS).map(|(_, text)| text.clone())
    }

    /// Counts somebody who was not let in.
    pub fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Those who were not let in.
    pub fn strangers(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Takes in a host's policy, joined with what is known here. One after the other, however many hosts come at once; for one
    /// that has gone meanwhile nothing is done.
    ///
    /// # Errors
    /// One line for what does not hold.
    pub fn take_in(&self, host: &Host, policy: &wire::Policy) -> Result<(), String> {
        let _turn = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if !host.is_linked() {
            return Ok(());
        }
        let tenant = Tenant::of(policy, &host.hello)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tables) = &known.tables {
            tenant.join(tables.endpoints.as_ref(), tables.telemetry.as_ref());
        }
        host.take(Arc::new(tenant));
        Ok(())
    }

    /// Whether the service is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether another generation of this process has taken over.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Another generation of this process takes over: it has links of its own.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Takes in tables that are about to be in force, of which one has changed.
    ///
    /// # Errors
    /// One line for a table `central` that does not hold.
    pub fn learn(&self, kind: Kind, payload: Option<&[u8]>, tables: &Tables, policy: &Policy) -> Result<(), String> {
        self.draining.store(tables.base.lifecycle == Lifecycle::Draining, Ordering::Relaxed);
        if kind == Kind::Central {
            let settings = tables.central.clone().map(Settings::of).transpose()?.map(Arc::new);
            let gateway = |settings: &Arc<Settings>| settings.table.gateway.clone();
            let (before, now) = (self.settings().as_ref().and_then(gateway), settings.as_ref().and_then(gateway));
            if let Some(gateway) = now.filter(|now| before.as_ref() != Some(now)) {
                self.hosts.open(gateway.capacity, gateway.hosts);
            }
            *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
            self.there.notify_all();
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let handed = &mut known.handover;
        let place = match kind {
            Kind::Base => Some(&mut handed.base),
            Kind::Routes => Some(&mut handed.routes),
            Kind::Limits => Some(&mut handed.limits),
            Kind::Headers => Some(&mut handed.headers),
            Kind::Endpoints | Kind::Telemetry | Kind::Central => None,
        };
        if let Some(place) = place {
            *place = payload.unwrap_or_default().to_vec();
        }
        let Some(settings) = self.settings() else {
            return Ok(());
        };
        let is_called = |cluster: &&Cluster| {
            !cluster.is_app() && !cluster.endpoints.is_empty() && *cluster.name != *settings.table.service
        };
        let mut services: Vec<String> = policy.clusters.iter().filter(is_called).map(|c| c.name.to_string()).collect();
        services.sort_unstable();
        services.dedup();
        handed.services = services;
        handed.revision = revision(handed);
        self.revision.store(handed.revision, Ordering::Release);
        known.app = app(policy);
        known.centrals = centrals(&settings, policy);
        if settings.is_gateway() {
            if matches!(kind, Kind::Endpoints | Kind::Telemetry) {
                self.hosts.rejoin(tables.endpoints.as_ref(), tables.telemetry.as_ref());
            }
            known.tables = Some(tables.clone());
        }
        drop(known);
        self.changed.notify_one();
        Ok(())
    }
}

fn app(policy: &Policy) -> Option<SocketAddrV4> {
    let endpoint = policy.app.and_then(|app| policy.clusters.get(app)).and_then(|cluster| cluster.endpoints.first());
    match endpoint.map(|endpoint| &endpoint.address) {
        Some(Address::Ip(std::net::SocketAddr::V4(v4))) if v4.ip().is_loopback() => Some(*v4),
        _ => None,
    }
}

fn revision(policy: &wire::Policy) -> u64 {
    let mut bytes = policy.services.join(" ").into_bytes();
    for table in [&policy.base, &policy.routes, &policy.limits, &policy.headers] {
        bytes.extend_from_slice(&table.len().to_le_bytes());
        bytes.extend_from_slice(table);
    }
    name_hash(&bytes).max(1)
}

fn centrals(settings: &Settings, policy: &Policy) -> Vec<std::net::SocketAddr> {
    if settings.is_gateway() {
        return Vec::new();
    }
    let cluster = policy.by_name.get(&*settings.table.service).and_then(|named| policy.clusters.get(named.cluster));
    // A service may be called so that is none of ours.
    let is_one = |endpoint: &&Endpoint| endpoint.healthy && endpoint.metadata.contains_key(detours::HEADROOM);
    let found = cluster.iter().flat_map(|cluster| &cluster.endpoints).filter(is_one);
    let named = settings.table.addresses.iter().filter_map(|address| Address::parse(address).ok());
    let mut all: Vec<_> = named
        .chain(found.map(|endpoint| endpoint.address.clone()))
        .filter_map(|address| match address {
            Address::Ip(ip) => Some(ip),
            Address::Name(..) | Address::Unix(_) => None,
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}
