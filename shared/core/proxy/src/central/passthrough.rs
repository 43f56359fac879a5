//! The way in for a Central: what it has governed goes to the app as it is.

use std::net::IpAddr;
use std::rc::Rc;

use pannier_decide::cluster::Endpoint;

use crate::central::contact::say;
use crate::central::entrance::{self, Entered};
use crate::central::preface::{ACCEPTED, Role};
use crate::central::relay::{self, Relayed};
use crate::dial;
use crate::stream::Stream;
use crate::worker::Worker;

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: Stream, from: Option<IpAddr>) {
    let timer = worker.timers.register();
    let Some(settings) = worker.mesh.settings() else {
        return;
    };
    let entered = entrance::enter(&worker, &settings, stream, from, &timer).await;
    let Ok(Entered { stream, preface: Some(preface), rest }) = entered else {
        return worker.mesh.turned_away();
    };
    let is_central = if stream.is_encrypted() {
        stream.peer_is(&settings.table.service)
    } else {
        from.is_some_and(|ip| worker.mesh.is_central(ip))
    };
    let is_ours = preface.role == Role::PassThrough
        && preface.service == *worker.policy().service
        && preface.instance == settings.table.instance;
    if !is_central || !is_ours {
        return worker.mesh.turned_away();
    }
    let policy = worker.policy();
    let app = policy.app.and_then(|app| policy.clusters.get(app)).and_then(|cluster| cluster.endpoints.first());
    let Some(Endpoint { address, .. }) = app else {
        return;
    };
    // Before it is accepted: a Central that is told no has another try with others.
    let Ok(app) = dial::connect(&worker, &timer, address, policy.timeouts.connect_ms).await else {
        return;
    };
    if say(&stream, &[ACCEPTED]).await.is_ok() {
        let _in_flight = worker.enter();
        match relay::run(&worker, &stream, &app, None, &rest).await {
            Relayed::Ended => drop(stream.shutdown()),
            Relayed::Unanswered | Relayed::Broken => stream.end_by_reset(),
        }
        let _ = say(&stream, &[]).await;
    }
}
