//! Steps 1 to 4 of the [`stack`](crate::stack), which wait for nothing: a head becomes what is sent in its place.

use pannier_decide::cluster::Cluster;
use pannier_decide::hashing::draw;
use pannier_decide::matching::View;
use pannier_decide::policy::Policy;
use pannier_decide::route::{self, Route};
use pannier_decide::rules::Rule;
use pannier_decide::trace::{self, Span};
use pannier_decide::{cors, deadline, hex, rewriting};
use pannier_http::body::{Coding, Framing, Relay};
use pannier_http::edits::Changes;
use pannier_http::fields;
use pannier_http::forwarding::Client;
use pannier_http::refusal::Refusal;
use pannier_http::request::{self, Edits, Request};
use pannier_table::series::Direction;

use pannier_central::order::Criticality;

use crate::admission::criticality;
use crate::answer::Answer;
use crate::central::away::Class;
use crate::connection::Serving;
use crate::stack::Arrived;
use crate::timers::NEVER;
use crate::worker::Worker;

/// A request that was understood, and what is sent in its place.
pub struct Plan<'p> {
    /// Where it goes.
    pub route: Route,
    /// What follows from the route that it matched.
    pub rule: Option<&'p Rule>,
    #[allow(missing_docs)]
    pub method: &'p str,
    /// Path and query; `/` where an absolute target named none.
    pub path: &'p str,
    #[allow(missing_docs)]
    pub authority: &'p str,
    #[allow(missing_docs)]
    pub host: &'p str,
    #[allow(missing_docs)]
    pub port: u16,
    /// Minor version of HTTP/1.
    pub version: u8,
    /// It is HEAD.
    pub head_only: bool,
    /// The protocols that an upgrade is asked for to.
    pub upgrade: Option<&'p [u8]>,
    /// The caller means to send another request.
    pub keep_alive: bool,
    /// A lost attempt may be repeated without harm.
    pub repeatable: bool,
    request_id: Option<&'p [u8]>,
    new_request_id: [u8; 32],
    trace_state: Option<&'p [u8]>,
    /// Where it came from; empty for a call of the app's own.
    pub client: &'p str,
    /// Its span; none without telemetry.
    pub span: Option<Span>,
    /// What its session is balanced by.
    pub session: Option<u64>,
    /// How important it says it is.
    pub criticality: Criticality,
    /// Drawn, 0…1: whether it goes by way of a Central where a part does.
    pub detour: f64,
    /// When it began: milliseconds since boot.
    pub started_ms: u64,
    /// When all patience ends: milliseconds since boot.
    pub deadline_ms: u64,
    /// It was the caller who set that.
    pub deadline_is_callers: bool,
    /// How long one attempt may take, milliseconds; 0 = any time.
    pub attempt_ms: u64,
    /// That is a route's timeout, and for the whole answer.
    pub bounds_answer: bool,
    /// The answer is marked for other origins.
    pub has_cors_marks: bool,
    /// What the route answers itself.
    pub answer: Option<Box<Answer>>,
    /// What is changed in the head of the answer.
    pub answer_edits: Option<Changes<'p>>,
    /// Fields that the answer gets, each line ended.
    pub answer_fields: Vec<u8>,
    /// The head, and what has arrived of the body, as they are sent.
    pub out: Vec<u8>,
    /// Bytes of `out` that are its head.
    pub head_out: usize,
    /// Bytes of the body that came with the head.
    pub early_body: usize,
    /// Bytes of the input that `out` stands for.
    pub consumed: usize,
    /// What is still to come of the body.
    pub upload: Option<Relay>,
    /// What has arrived of the body is malformed.
    pub malformed: Option<Refusal>,
}

impl Plan<'_> {
    /// Its id: the caller's, or a new one.
    pub fn request_id(&self) -> &[u8] {
        self.request_id.unwrap_or(&self.new_request_id)
    }

    /// How soon it leaves for a Central.
    pub fn class(&self) -> Class {
        Class { criticality: self.criticality, repeatable: self.repeatable }
    }

    /// The trace state that came with it.
    pub fn trace_state(&self) -> &[u8] {
        self.trace_state.unwrap_or_default()
    }
}

/// Parses the head at the beginning of `input`, routes and traces it, and writes what is sent in its place.
///
/// # Errors
/// A refusal of the head; the connection is at no known place then.
pub fn plan<'p>(
    worker: &Worker,
    policy: &'p Policy,
    input: &'p [u8],
    arrived: &Arrived<'p>,
    serving: &Serving,
) -> Result<Plan<'p>, Refusal> {
    let direction = serving.direction;
    let (head_bytes, rest) = input.split_at_checked(arrived.head).unwrap_or((input, &[]));
    let mut room = fields::room();
    let request = request::parse(head_bytes, &mut room)?;
    let mut random = worker.random.borrow_mut();
    let mut new_request_id = [b'0'; 32];
    if request.request_id.is_none() {
        let (high, low) = new_request_id.split_at_mut(16);
        high.copy_from_slice(&hex::digits(random.bits()));
        low.copy_from_slice(&hex::digits(random.bits()));
    }
    let id = request.request_id.unwrap_or(&new_request_id);
    let port = request.host.port.unwrap_or(80);
    let view =
        View { host: request.host.host, port, method: request.method, target: request.path, fields: request.fields() };
    let routed = match direction {
        Direction::Inbound => route::inbound(policy, &view),
        Direction::Outbound => route::outbound(policy, &view, || draw(id)),
    };
    let span = policy
        .telemetry
        .as_ref()
        .map(|telemetry| trace::continue_or_start(request.trace_parent, telemetry.threshold, &mut random));
    let mut plan = Plan {
        route: routed.route,
        rule: routed.rule,
        method: request.method,
        path: request.path,
        authority: request.authority,
        host: request.host.host,
        port,
        version: request.version,
        head_only: request.method == "HEAD",
        upgrade: request.upgrade,
        keep_alive: request.keep_alive,
        repeatable: request.is_idempotent(),
        request_id: request.request_id,
        new_request_id,
        trace_state: request.trace_state,
        client: "",
        span,
        session: routed.session.map(|session| session.hash),
        criticality: Criticality::Default,
        detour: 1.0,
        started_ms: arrived.started_ns / 1_000_000,
        deadline_ms: NEVER,
        deadline_is_callers: false,
        attempt_ms: policy.timeouts.request_ms,
        bounds_answer: false,
        has_cors_marks: false,
        answer: None,
        answer_edits: None,
        answer_fields: Vec::new(),
        out: worker.buffers.take(),
        head_out: 0,
        early_body: 0,
        consumed: arrived.head,
        upload: None,
        malformed: None,
    };
    let away = &worker.mesh.away;
    let sheds = policy.inbound_limits.as_ref().is_some_and(|limits| limits.shedding.is_some()) || away.sheds();
    if sheds || away.is_open() || policy.has_detours {
        plan.criticality = criticality(request.field("x-pannier-criticality"));
        plan.detour = random.unit();
    }
    plan.keep_alive &= match &serving.guest {
        Some(guest) => guest.stays(),
        None => !(away.redirects() && direction == Direction::Outbound && away.takes(serving.draw(), plan.class())),
    };
    let left_ms = if policy.traffic.is_some() { govern_time(&mut plan, &request) } else { None };
    let header_rule = policy.headers.as_ref().and_then(|headers| {
        let side = if direction == Direction::Inbound { &headers.inbound } else { &headers.outbound };
        side.find(request.host.host, routed.rule.map(|rule| &*rule.name))
    });
    plan.answer_edits = Changes::of(
        routed.rule.and_then(|rule| rule.response.as_ref()),
        header_rule.and_then(|rule| rule.response.as_ref()),
    );
    let mut rewritten = None;
    if let Some(rule) = routed.rule {
        rewritten = rule.rewrite.as_ref().and_then(|r| rewriting::rewritten(r, routed.prefix, request.path));
        if rule.redirect.is_some() || rule.cors.is_some() {
            answer_of_route(&mut plan, rule, routed.prefix, &request);
        }
    }
    if let (Route::Cluster(index), Some(value)) = (routed.route, routed.session.and_then(|s| s.new_cookie)) {
        give_cookie(&mut plan.answer_fields, policy.clusters.get(index), &value);
    }
    let client =
        (direction == Direction::Inbound).then_some(Client { peer: arrived.peer, trusted_hops: policy.trusted_hops });
    plan.client = client.map_or("", |client| client.address(request.fields()));
    let trace_parent = span.map(|span| span.header());
    let edits = Edits {
        path: rewritten.as_deref(),
        authority: routed.rule.and_then(|rule| rule.rewrite.as_ref()?.host.as_deref()),
        headers: Changes::of(
            routed.rule.and_then(|rule| rule.request.as_ref()),
            header_rule.and_then(|rule| rule.request.as_ref()),
        ),
        deadline_ms: left_ms,
        request_id: id,
        trace_parent: trace_parent.as_ref().map(|header| header.as_slice()),
        drop_trace_state: span.is_some_and(|span| span.parent_id == 0),
        strip_ours: direction == Direction::Inbound,
        client,
    };
    request.write(&mut plan.out, &edits);
    plan.head_out = plan.out.len();
    let coding = if request.framing == Framing::Chunked { Coding::Chunked } else { Coding::Plain };
    let mut relay = Relay::new(request.framing, coding);
    if !relay.is_done() {
        match relay.relay(rest, &mut plan.out) {
            Ok(taken) => plan.consumed += taken,
            Err(refusal) => plan.malformed = Some(refusal),
        }
        plan.early_body = plan.out.len() - plan.head_out;
        plan.upload = (!relay.is_done()).then_some(relay);
    }
    Ok(plan)
}

/// Finds how long the request may take; what is left of that, if it is bounded.
fn govern_time(plan: &mut Plan<'_>, request: &Request<'_, '_>) -> Option<u64> {
    let callers = match (request.deadline, request.grpc_timeout) {
        (None, None) => None,
        (ours, grpc) => deadline::left_ms(ours, grpc),
    };
    let request_ms = plan.rule.and_then(|rule| rule.request_ms);
    let routes = request_ms.filter(|ms| *ms > 0);
    if let Some(ms) = plan.rule.and_then(|rule| rule.backend_request_ms) {
        plan.attempt_ms = ms;
        plan.bounds_answer = true;
    } else if request_ms.is_some() {
        plan.attempt_ms = 0;
    }
    let left_ms = match (callers, routes) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }?;
    plan.deadline_is_callers = callers == Some(left_ms);
    plan.deadline_ms = plan.started_ms.saturating_add(left_ms);
    Some(left_ms)
}

/// What a route answers itself; else it may mark the answer that comes.
fn answer_of_route(plan: &mut Plan<'_>, rule: &Rule, prefix: Option<&str>, request: &Request<'_, '_>) {
    if let Some(redirect) = &rule.redirect {
        let location = rewriting::location(redirect, prefix, request.host.host, plan.port, request.path);
        plan.answer = Some(Box::new(Answer::of_route(redirect.status, format!("location: {location}\r\n"))));
        return;
    }
    let Some((cors, origin)) = rule.cors.as_ref().and_then(|cors| Some((cors, request.field("origin")?))) else {
        return;
    };
    if request.method == "OPTIONS" && request.field("access-control-request-method").is_some() {
        plan.answer = cors::preflight(cors, origin).map(|fields| Box::new(Answer::of_route(204, fields)));
    } else if let Some(marks) = cors::marks(cors, origin) {
        plan.answer_fields.extend_from_slice(marks.as_bytes());
        plan.has_cors_marks = true;
    }
}

fn give_cookie(fields: &mut Vec<u8>, cluster: Option<&Cluster>, value: &[u8; 16]) {
    let Some(affinity) = cluster.and_then(|cluster| cluster.affinity.as_ref()) else {
        return;
    };
    let name = affinity.cookie.as_deref().unwrap_or("");
    fields.extend_from_slice(format!("set-cookie: {name}=").as_bytes());
    fields.extend_from_slice(value);
    fields.extend_from_slice(b"; Path=/; HttpOnly");
    if let Some(ttl) = affinity.ttl_s {
        fields.extend_from_slice(format!("; Max-Age={ttl}").as_bytes());
    }
    fields.extend_from_slice(b"\r\n");
}
