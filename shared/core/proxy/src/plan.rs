//! Steps 1 to 4 of the [`stack`](crate::stack), which wait for nothing: a head becomes what is sent in its place.

use pannier_decide::policy::Policy;
use pannier_decide::route::{self, Route};
use pannier_decide::trace::{self, Span};
use pannier_http::body::{Coding, Framing, Relay};
use pannier_http::fields;
use pannier_http::refusal::Refusal;
use pannier_http::request::{self, Edits};
use pannier_table::series::Direction;

use crate::worker::Worker;

/// A part of the input, by its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text {
    from: usize,
    to: usize,
}

impl Text {
    fn of(part: &[u8], whole: &[u8]) -> Text {
        let from = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        Text { from, to: from.wrapping_add(part.len()) }
    }

    /// The text; empty for one that is no part of the input.
    pub fn get(self, whole: &[u8]) -> &str {
        whole.get(self.from..self.to).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }
}

/// A request that was understood, as texts of the input that it came in, and what is sent in its place.
pub struct Plan {
    /// Where it goes.
    pub route: Route,
    #[allow(missing_docs)]
    pub method: Text,
    path: Text,
    #[allow(missing_docs)]
    pub authority: Text,
    #[allow(missing_docs)]
    pub host: Text,
    #[allow(missing_docs)]
    pub port: u16,
    /// Minor version of HTTP/1.
    pub version: u8,
    /// It is HEAD.
    pub head_only: bool,
    /// The protocols that an upgrade is asked for to.
    pub upgrade: Option<Text>,
    /// The caller means to send another request.
    pub keep_alive: bool,
    /// A lost attempt may be repeated without harm.
    pub repeatable: bool,
    request_id: Option<Text>,
    new_request_id: [u8; 32],
    trace_state: Option<Text>,
    /// Its span; none without telemetry.
    pub span: Option<Span>,
    /// The head, and what has arrived of the body, as they are sent.
    pub out: Vec<u8>,
    /// Bytes of the input that `out` stands for.
    pub consumed: usize,
    /// What is still to come of the body.
    pub upload: Option<Relay>,
    /// What has arrived of the body is malformed.
    pub malformed: Option<Refusal>,
}

impl Plan {
    /// Its id: the caller's, or a new one.
    pub fn request_id<'a>(&'a self, input: &'a [u8]) -> &'a str {
        match self.request_id {
            Some(text) => text.get(input),
            None => std::str::from_utf8(&self.new_request_id).unwrap_or(""),
        }
    }

    /// Path and query; `/` where an absolute target named none.
    pub fn path<'a>(&self, input: &'a [u8]) -> &'a str {
        match self.path.get(input) {
            "" => "/",
            path => path,
        }
    }

    /// The trace state that came with it.
    pub fn trace_state<'a>(&self, input: &'a [u8]) -> &'a str {
        self.trace_state.map_or("", |text| text.get(input))
    }
}

/// Parses the head at the beginning of `input`, routes and traces it, and writes what is sent in its place.
///
/// # Errors
/// A refusal of the head; the connection is at no known place then.
pub fn plan(
    worker: &Worker,
    policy: &Policy,
    input: &[u8],
    head: usize,
    direction: Direction,
) -> Result<Plan, Refusal> {
    let (head_bytes, rest) = input.split_at_checked(head).unwrap_or((input, &[]));
    let mut room = fields::room();
    let request = request::parse(head_bytes, &mut room)?;
    let route = match direction {
        Direction::Inbound => route::inbound(policy, request.host.host),
        Direction::Outbound => route::outbound(policy, request.host.host),
    };
    let mut random = worker.random.borrow_mut();
    let span = policy
        .telemetry
        .as_ref()
        .map(|telemetry| trace::continue_or_start(request.trace_parent, telemetry.threshold, &mut random));
    let mut new_request_id = [b'0'; 32];
    if request.request_id.is_none() {
        write_hex(&mut new_request_id, u128::from(random.bits()) << 64 | u128::from(random.bits()));
    }
    let text = |part: &[u8]| Text::of(part, input);
    let mut plan = Plan {
        route,
        method: text(request.method.as_bytes()),
        path: text(request.path.as_bytes()),
        authority: text(request.authority.as_bytes()),
        host: text(request.host.host.as_bytes()),
        port: request.host.port.unwrap_or(80),
        version: request.version,
        head_only: request.method == "HEAD",
        upgrade: request.upgrade.map(text),
        keep_alive: request.keep_alive,
        repeatable: request.is_idempotent(),
        request_id: request.request_id.map(text),
        new_request_id,
        trace_state: request.trace_state.map(text),
        span,
        out: worker.buffers.take(),
        consumed: head,
        upload: None,
        malformed: None,
    };
    let trace_parent = span.map(|span| span.header());
    let edits = Edits {
        request_id: request.request_id.unwrap_or(&new_request_id),
        trace_parent: trace_parent.as_ref().map(|header| header.as_slice()),
        drop_trace_state: span.is_some_and(|span| span.parent_id == 0),
        strip_ours: direction == Direction::Inbound,
    };
    request.write(&mut plan.out, &edits);
    let coding = if request.framing == Framing::Chunked { Coding::Chunked } else { Coding::Plain };
    let mut relay = Relay::new(request.framing, coding);
    if !relay.is_done() {
        match relay.relay(rest, &mut plan.out) {
            Ok(taken) => plan.consumed += taken,
            Err(refusal) => plan.malformed = Some(refusal),
        }
        plan.upload = (!relay.is_done()).then_some(relay);
    }
    Ok(plan)
}

fn write_hex(out: &mut [u8; 32], mut value: u128) {
    for byte in out.iter_mut().rev() {
        let nibble = (value & 15) as u8;
        *byte = if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        value >>= 4;
    }
}
