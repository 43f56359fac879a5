"""What is tried again, in Envoy's words. Pure.

Envoy's own words for failures (`5xx`, `gateway-error`) also mean connections that were lost; ours do not, so statuses
are named one by one. A connection that was refused is tried elsewhere in any case: nothing was sent. What is not
idempotent is never sent twice, so a route with retries becomes two; gRPC's calls, all POST, are among the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.xds.findings import Findings
from pannier.sidecars.pilot.xds.words import Json, duration, typed
from pannier.sidecars.resilience.config import Retry

IDEMPOTENT: Final = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")
DIALS: Final = 3
"""Endpoints that are tried where no connection can be had."""
RETRY_AFTER_SECONDS: Final = 300
"""The longest that a `Retry-After` is obeyed for."""
_ELSEWHERE: Final[Json] = {
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
        }
    ],
    "host_selection_retry_max_attempts": 10,
}


class Trying(NamedTuple):
    """The retry policy of a route, and what the route says of the bodies that are kept for it."""

    policy: Json
    kept: Json


def dialling() -> Trying:
    """Tried again is only what found no connection."""
    return Trying({"retry_on": "connect-failure", "num_retries": DIALS - 1, **_ELSEWHERE}, {})


def repeating(retry: Retry, attempts: int) -> Trying:
    """Tried again is what `retry` says, so often."""
    on, statuses = ["connect-failure"], []
    if "gateway-error" in retry.on:
        statuses += [502, 503, 504]
    if "429" in retry.on:
        statuses.append(429)
    policy: Json = {"num_retries": attempts, **_ELSEWHERE}
    if statuses:
        on.append("retriable-status-codes")
        policy["retriable_status_codes"] = statuses
    if "5xx" in retry.on:
        on.append("retriable-headers")
        policy["retriable_headers"] = [{"name": ":status", "string_match": {"safe_regex": {"regex": "5.."}}}]
    if "reset" in retry.on or "timeout" in retry.on:
        on.append("reset")
    policy["retry_on"] = ",".join(on)
    policy["retry_back_off"] = {
        "base_interval": duration(retry.backoff_min, 1),
        "max_interval": duration(retry.backoff_max, 1),
    }
    policy["rate_limited_retry_back_off"] = {
        "reset_headers": [{"name": "Retry-After", "format": "SECONDS"}],
        "max_interval": f"{RETRY_AFTER_SECONDS}s",
    }
    return Trying(policy, {"request_body_buffer_limit": retry.body_limit})


def by_method(method: str | None, retry: Retry | None, attempts: int) -> Iterator[tuple[Json | None, Trying]]:
    """Retry policies, each with the condition on the method under which it holds; the last one holds for the rest."""
    if retry is not None and attempts and (method is None or method in IDEMPOTENT):
        regex = {"safe_regex": {"regex": "|".join(IDEMPOTENT)}}
        condition = {"name": ":method", "string_match": regex} if method is None else None
        yield condition, repeating(retry, attempts)
        if condition is None:
            return
    yield None, dialling()


def report(retry: Retry, attempts: int, where: Path, found: Findings, *, has_attempt_timeout: bool) -> None:
    """What of it does not arrive; `where` is what resilience says of retries."""
    if attempts and has_attempt_timeout and ("reset" in retry.on) != ("timeout" in retry.on):
        found.add(
            (*where, "on"),
            "the difference between `reset` and `timeout`",
            "Envoy counts an attempt's timeout as a reset",
            "envoy",
        )
