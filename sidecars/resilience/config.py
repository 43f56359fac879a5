"""What a profile may say under `sidecars.resilience`: how much is tried, and when no more is.

`services` is about calls to others, by the service that is called; the entry `*` holds for every service without one of
its own. `inbound` is about what others ask of us. Defaults are those of the system that each mechanism is known from:
Envoy (outlier ejection, resource limits), Linkerd (endpoint breaker, retry budget), resilience4j (service breaker,
bulkhead).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, field
from pannier.shared.duration import Duration
from pannier.shared.explain import Finding
from pannier.shared.messages import EJECTIONS
from pannier.shared.profile import MAX_SERVICES
from pannier.shared.rights import Needs

EVERY = "*"

ServiceName = Annotated[
    str, Meta(pattern=r"^(\*|[a-z0-9][a-z0-9._-]{0,62})$(?!\n)", description='a service name such as "orders", or "*"')
]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Percent = Annotated[float, Meta(ge=0, le=100, description="a percentage, 0 to 100")]
Enforced = Annotated[float, Meta(ge=0, le=100, description="a percentage, 0 to 100; 0 = only counted")]
Failures = Annotated[int, Meta(ge=0, le=60_000, description="a number of failures; 0 = off")]


class Breaker(Struct, frozen=True, forbid_unknown_fields=True):
    """Endpoint breaker (Linkerd): opens after `consecutive_failures`, for a penalty that doubles from `penalty_min` to
    `penalty_max`, with so much jitter. Then one real request may try it: success closes, failure opens again.

    `success_rate` > 0 is the unified mode: it also opens below that rate over `window`, from `min_requests` up; 429
    counts as a failure there.
    """

    consecutive_failures: Failures = 7
    penalty_min: Duration = "1s"
    penalty_max: Duration = "60s"
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    success_rate: Annotated[float, Meta(ge=0, le=1)] = 0.0
    window: Duration = "10s"
    min_requests: Count = 5


class Outlier(Struct, frozen=True, forbid_unknown_fields=True):
    """Outlier ejection (Envoy): an endpoint is out for `base_ejection` times how often it was, at most `max_ejection`.

    The `enforcing_*` percentages say how often a detection has a consequence. Success rate: below the mean less
    `stdev_factor` standard deviations over `interval`, where at least `success_rate_hosts` had `success_rate_requests`
    each. `failure_percentage` 0 = off.
    """

    consecutive_5xx: Failures = 5
    consecutive_gateway_failure: Failures = 5
    consecutive_local_origin_failure: Failures = 5
    enforcing_consecutive_5xx: Enforced = 100.0
    enforcing_consecutive_gateway_failure: Enforced = 0.0
    enforcing_consecutive_local_origin_failure: Enforced = 100.0
    interval: Duration = "10s"
    base_ejection: Duration = "30s"
    max_ejection: Duration = "300s"
    max_ejected_percent: Percent = 10.0
    enforcing_success_rate: Enforced = 100.0
    stdev_factor: Annotated[float, Meta(ge=0, le=10)] = 1.9
    success_rate_hosts: Count = 5
    success_rate_requests: Count = 100
    failure_percentage: Percent = 0.0
    failure_percentage_hosts: Count = 5
    failure_percentage_requests: Count = 50


class ServiceBreaker(Struct, frozen=True, forbid_unknown_fields=True):
    """Service breaker (resilience4j): opens at `failure_rate` or `slow_rate` percent of the last `calls` calls, for
    `open`; then `half_open_calls` are let through and judged by the same rates. `slow` = what counts as slow."""

    failure_rate: Annotated[float, Meta(gt=0, le=100)] = 50.0
    slow_rate: Annotated[float, Meta(gt=0, le=100)] = 100.0
    slow: Duration = "60s"
    calls: Count = 100
    open: Duration = "60s"
    half_open_calls: Annotated[int, Meta(ge=1, le=1000)] = 10


class Resources(Struct, frozen=True, forbid_unknown_fields=True):
    """Resource limits (Envoy's circuit breakers), for all calls to one service together; beyond them 503 `UO`.

    `pending` calls wait for a connection while `connections` are in use. `retries` bounds retries under way where the
    budget is off.
    """

    connections: Count = 1024
    pending: Annotated[int, Meta(ge=0, le=1_000_000)] = 1024
    requests: Count = 1024
    retries: Annotated[int, Meta(ge=0, le=1_000_000)] = 3


class Budget(Struct, frozen=True, forbid_unknown_fields=True):
    """Retry budget (Linkerd, GEP-3388): retries within 10 s are at most `percent` of the requests plus
    `min_per_second`."""

    percent: Percent = 20.0
    min_per_second: Annotated[int, Meta(ge=0, le=10_000)] = 10


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """`attempts` retries at the most, of what can be repeated without harm: a request of an idempotent method, no byte
    of whose answer has been passed on. A refused connection is always tried elsewhere.

    `on`: an answer 502, 503 or 504 (`gateway-error`), any 5xx (`5xx`), a connection that ended without an answer
    (`reset`), an attempt's timeout (`timeout`), a 429 (`429`). Back-off: full jitter from `backoff_min`, doubling to
    `backoff_max`; the answer's `Retry-After` is obeyed. Bodies up to `body_limit` are kept for a second attempt.
    """

    attempts: Annotated[int, Meta(ge=0, le=10)] = 1
    on: list[Literal["gateway-error", "5xx", "reset", "timeout", "429"]] = field(
        default_factory=lambda: ["gateway-error", "reset"]
    )
    backoff_min: Duration = "25ms"
    backoff_max: Duration = "250ms"
    body_limit: Annotated[int, Meta(ge=0, le=1 << 20)] = 64 * 1024
    budget: Budget | None = Budget()


class RateLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """A token bucket: `max` tokens, `fill` more every `interval`; without one 429 `RL` with `RateLimit-*`.

    `enabled` percent of the requests take a token, `enforced` percent of those without one are refused: 0 is shadow
    mode, in which the refusals are only counted.
    """

    max: Count
    fill: Count
    interval: Duration = "1s"
    enabled: Percent = 100.0
    enforced: Enforced = 100.0


class Bulkhead(Struct, frozen=True, forbid_unknown_fields=True):
    """At most `concurrent` at the same time; a further one waits so long, then 503 `UO`."""

    concurrent: Count = 25
    wait: Duration = "0s"


class Shedding(Struct, frozen=True, forbid_unknown_fields=True):
    """Load shedding by criticality: of `requests` under way, `sheddable` ones may use that share, default ones that;
    the rest is kept for critical ones. Beyond it 503 `SH`.

    A request says what it is in `x-pannier-criticality`. From outside, only `sheddable` is believed, unless `trust`.
    """

    requests: Count = 200
    sheddable: Annotated[float, Meta(ge=0, le=1)] = 0.5
    default: Annotated[float, Meta(ge=0, le=1)] = 0.9
    trust: bool = False
    enforced: Enforced = 100.0


class Service(Struct, frozen=True, forbid_unknown_fields=True):
    """Calls to one service. `failure_policy` says who takes an endpoint out: the `breaker` or `outlier` ejection, not
    both, since an ejection at 5 failures would hide a breaker at 7."""

    failure_policy: Literal["breaker", "outlier", "none"] = "breaker"
    breaker: Breaker = Breaker()
    outlier: Outlier = Outlier()
    service_breaker: ServiceBreaker | None = None
    resources: Resources = Resources()
    retry: Retry = Retry()
    rate_limit: RateLimit | None = None
    bulkhead: Bulkhead | None = None


class Inbound(Struct, frozen=True, forbid_unknown_fields=True):
    """What others ask of us."""

    rate_limit: RateLimit | None = None
    bulkhead: Bulkhead | None = None
    shedding: Shedding | None = None


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a profile that configures this sidecar."""

    needs: ClassVar[Needs] = Needs(
        writes=("limits",), reads=("endpoints", "base", "hot", "counters"), publishes=(EJECTIONS,)
    )

    services: Annotated[dict[ServiceName, Service], Meta(max_length=MAX_SERVICES)] = {}
    inbound: Inbound = Inbound()

    def service(self, name: str) -> Service:
        """What holds for calls to `name`: its own entry, else that of `*`, else the defaults."""
        return self.services.get(name) or self.services.get(EVERY) or Service()

    def contradictions(self) -> list[Finding]:
        """What this says that cannot all hold, or cannot be meant; paths are relative to this part of the profile."""
        from pannier.sidecars.resilience.analysis import contradictions

        return contradictions(self)
