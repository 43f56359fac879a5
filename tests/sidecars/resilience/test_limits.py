from __future__ import annotations

from dataclasses import dataclass

from pannier.shared.messages import LimitState
from pannier.sidecars.resilience.config import Config, Inbound, RateLimit, Service
from pannier.sidecars.resilience.limits import limit_states


@dataclass
class Gauge:
    service: str
    limit: str
    used: int
    most: int


def test_each_limit_names_the_setting_that_it_comes_from() -> None:
    config = Config(services={"*": Service(), "payments": Service()})
    gauges = [Gauge("payments", "requests", 3, 1024), Gauge("stock", "bulkhead", 5, 25), Gauge("", "shedding", 9, 200)]
    assert limit_states(gauges, config) == [
        LimitState("", "shedding", 9, 200, "inbound.shedding.requests"),
        LimitState("payments", "requests", 3, 1024, "services.payments.resources.requests"),
        LimitState("stock", "bulkhead", 5, 25, 'services."*".bulkhead.concurrent'),
    ]
    assert limit_states(gauges[:1], Config())[0].reason == "the default of resources.requests"


def test_rate_limits_are_listed_by_their_rate() -> None:
    config = Config(
        services={"a.b": Service(rate_limit=RateLimit(max=10, fill=5, interval="100ms", enabled=50, enforced=20))},
        inbound=Inbound(rate_limit=RateLimit(max=100, fill=100, enforced=0)),
    )
    assert limit_states([], config) == [
        LimitState("", "rate_limit", None, 100, "inbound.rate_limit: 100 more every 1s, only counted"),
        LimitState(
            "a.b",
            "rate_limit",
            None,
            10,
            'services."a.b".rate_limit: 5 more every 100ms, for 50 % of the requests, enforced for 20 %',
        ),
    ]
