//! The door of a Central: links of hosts, calls that their apps make, calls that others make of them.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pannier_http::forwarding::Peer;
use pannier_table::record::Flag;
use pannier_table::series::Direction;

use crate::answer::Answer;
use crate::central::contact::say;
use crate::central::entrance::{self, Entered};
use crate::central::hosts::Host;
use crate::central::link_served;
use crate::central::preface::{ACCEPTED, Preface, Role};
use crate::central::tenant::{Side, Tenant};
use crate::connection::{self, Serving};
use crate::stream::Stream;
use crate::worker::{InForce, Worker};

/// How often, and how far apart, a host is looked for whose kernel has sent a connection.
const LOOKS: usize = 10;
const LOOK: Duration = Duration::from_millis(150);

/// On whose behalf a connection is served: a host that leans on this Central.
pub struct Guest {
    /// The host.
    pub host: Arc<Host>,
    tenant: Arc<Tenant>,
    direction: Direction,
    draw: f64,
    in_force: RefCell<(u64, Rc<InForce>)>,
}

impl Guest {
    fn new(host: Arc<Host>, tenant: Arc<Tenant>, direction: Direction, draw: f64) -> Guest {
        let side = side(&tenant, direction);
        let in_force = RefCell::new((side.version(), Rc::new(InForce::new(side.policy()))));
        Guest { host, tenant, direction, draw, in_force }
    }

    /// The policy in force for it.
    pub fn policy(&self) -> Rc<InForce> {
        let side = side(&self.tenant, self.direction);
        let mut in_force = self.in_force.borrow_mut();
        if in_force.0 != side.version() {
            *in_force = (side.version(), Rc::new(InForce::new(side.policy())));
        }
        in_force.1.clone()
    }

    fn is_newest(&self) -> bool {
        self.host.policy(0).is_some_and(|newest| Arc::ptr_eq(&newest, &self.tenant))
    }

    /// Whether its connection may have another request.
    pub fn stays(&self) -> bool {
        match self.direction {
            Direction::Outbound => self.host.keeps(self.draw) && self.is_newest(),
            Direction::Inbound => self.host.takes_callers() && self.host.weight() > 0.0 && self.is_newest(),
        }
    }
}

fn side(tenant: &Tenant, direction: Direction) -> &Side {
    match direction {
        Direction::Outbound => &tenant.outbound,
        Direction::Inbound => &tenant.inbound,
    }
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: Stream, peer: Peer, from: Option<IpAddr>) {
    let timer = worker.timers.register();
    let Some(settings) = worker.mesh.settings().filter(|settings| settings.is_gateway()) else {
        return;
    };
    let Ok(Entered { stream, preface, rest }) = entrance::enter(&worker, &settings, stream, from, &timer).await else {
        return worker.mesh.turned_away();
    };
    drop(timer);
    let Some(preface) = preface else {
        return redirected(worker, stream, peer, from, rest).await;
    };
    let is_known = !stream.is_encrypted() || preface.role == Role::Inbound || stream.peer_is(&preface.service);
    if !is_known {
        return worker.mesh.turned_away();
    }
    if preface.hops > 0 {
        return refuse(&stream, 508, "a call passes one Central at the most").await;
    }
    let serving = match preface.role {
        Role::Control => {
            if let Some(ip) = from
                && say(&stream, &[ACCEPTED]).await.is_ok()
            {
                link_served::serve(&worker, &settings, stream, ip, &preface, rest).await;
            }
            return;
        }
        Role::PassThrough => None,
        Role::Outbound => outbound(&worker, &preface),
        Role::Inbound => inbound(&worker, &preface),
    };
    let Some(serving) = serving else {
        return worker.mesh.turned_away();
    };
    if say(&stream, &[ACCEPTED]).await.is_ok() {
        connection::serve(worker, stream, peer, serving, rest).await;
    }
}

/// Calls of a host's app.
fn outbound(worker: &Worker, preface: &Preface) -> Option<Serving> {
    let host = worker.mesh.hosts.find(&preface.service, &preface.instance).filter(|host| !host.is_over())?;
    let tenant = host.policy(preface.revision)?;
    Some(Serving::guest(Guest::new(host, tenant, Direction::Outbound, preface.draw), Direction::Outbound))
}

/// Calls of an instance that has no CPU to spare.
fn inbound(worker: &Worker, preface: &Preface) -> Option<Serving> {
    let host = worker.mesh.hosts.find(&preface.service, &preface.instance).filter(|host| host.takes_callers())?;
    let tenant = host.policy(0)?;
    Some(Serving::guest(Guest::new(host, tenant, Direction::Inbound, 0.0), Direction::Inbound))
}

/// What a kernel sent here: the app's own connection, which says nothing of itself. Its address has to.
async fn redirected(worker: Rc<Worker>, stream: Stream, peer: Peer, from: Option<IpAddr>, rest: Vec<u8>) {
    let find = || {
        let host = from.filter(|_| !stream.is_encrypted()).and_then(|ip| worker.mesh.hosts.at(ip))?;
        host.policy(0).map(|tenant| (host, tenant))
    };
    // This process may have begun a moment ago, and the host's link be on its way.
    let mut found = find();
    for _ in 0..LOOKS {
        if found.is_some() {
            break;
        }
        pannier_reactor::sleep(LOOK).await;
        found = find();
    }
    let Some((host, tenant)) = found else {
        worker.mesh.turned_away();
        return refuse(&stream, 421, "this is a Central, and it does not know you: it is not reached directly").await;
    };
    let draw = worker.random.borrow_mut().unit() * host.weight();
    let serving = Serving::guest(Guest::new(host, tenant, Direction::Outbound, draw), Direction::Outbound);
    connection::serve(worker, stream, peer, serving, rest).await;
}

async fn refuse(stream: &Stream, status: u16, message: &str) {
    let mut out = Vec::new();
    Answer::new(status, Flag::DN, message).write(&mut out, &[], false, false);
    if say(stream, &out).await.is_ok() {
        let _ = stream.shutdown();
    }
}
