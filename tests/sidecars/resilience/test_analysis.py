"""What a profile says that cannot all hold, through the struct that profiles are checked with."""

from __future__ import annotations

import pytest
from pannier.shared.explain import dotted
from pannier.sidecars.resilience.config import (
    Breaker,
    Bulkhead,
    Config,
    Inbound,
    Outlier,
    RateLimit,
    Resources,
    Retry,
    Service,
    ServiceBreaker,
    Shedding,
)

BREAKER = Breaker(consecutive_failures=3)
OUTLIER = Outlier(consecutive_5xx=3)


def found(config: Config) -> list[tuple[str, str, str]]:
    return [(one.code, one.severity, dotted(one.path)) for one in config.contradictions()]


def of(service: Service) -> list[tuple[str, str, str]]:
    return found(Config(services={"payments": service}))


def test_the_defaults_do_not_contradict_themselves() -> None:
    everything = Service(service_breaker=ServiceBreaker(), rate_limit=RateLimit(max=1, fill=1), bulkhead=Bulkhead())
    inbound = Inbound(rate_limit=RateLimit(max=1, fill=1), bulkhead=Bulkhead(), shedding=Shedding())
    assert found(Config(services={"*": everything}, inbound=inbound)) == []


@pytest.mark.parametrize(
    ("service", "finding"),
    [
        (Service("outlier", breaker=BREAKER), ("PAN0301", "error", "services.payments.breaker")),
        (Service("breaker", outlier=OUTLIER), ("PAN0301", "error", "services.payments.outlier")),
        (Service("outlier", BREAKER, OUTLIER), ("PAN0301", "error", "services.payments.breaker")),
        (Service("none", breaker=BREAKER), ("PAN0302", "warning", "services.payments.breaker")),
        (
            Service(breaker=Breaker(penalty_min="2s", penalty_max="1999ms")),
            ("PAN0303", "error", "services.payments.breaker.penalty_min"),
        ),
        (
            Service("outlier", outlier=Outlier(base_ejection="6m")),
            ("PAN0304", "error", "services.payments.outlier.base_ejection"),
        ),
        (
            Service(retry=Retry(backoff_min="1s")),
            ("PAN0305", "error", "services.payments.retry.backoff_min"),
        ),
        (Service(retry=Retry(attempts=4, budget=None)), ("PAN0306", "warning", "services.payments.retry.attempts")),
        (
            Service(rate_limit=RateLimit(max=1, fill=1, interval="49ms")),
            ("PAN0307", "error", "services.payments.rate_limit.interval"),
        ),
        (
            Service(resources=Resources(requests=10), bulkhead=Bulkhead(concurrent=11)),
            ("PAN0308", "warning", "services.payments.bulkhead.concurrent"),
        ),
        (
            Service(breaker=Breaker(penalty_max="50m")),
            ("PAN0310", "error", "services.payments.breaker.penalty_max"),
        ),
        (
            Service("outlier", outlier=Outlier(max_ejection="1h")),
            ("PAN0310", "error", "services.payments.outlier.max_ejection"),
        ),
        (
            Service(service_breaker=ServiceBreaker(open="2h")),
            ("PAN0310", "error", "services.payments.service_breaker.open"),
        ),
    ],
)
def test_each_contradiction_is_found_where_it_is(service: Service, finding: tuple[str, str, str]) -> None:
    assert of(service) == [finding]


@pytest.mark.parametrize(
    "service",
    [
        Service(retry=Retry(attempts=3, budget=None)),
        Service(retry=Retry(attempts=10)),
        Service(rate_limit=RateLimit(max=1, fill=1, interval="50ms")),
        Service(breaker=Breaker(penalty_min="1s", penalty_max="1s")),
        Service("outlier", outlier=OUTLIER),
        Service("breaker", breaker=BREAKER),
    ],
)
def test_what_can_be_meant_is_left_alone(service: Service) -> None:
    assert of(service) == []


def test_inbound_is_looked_at_too() -> None:
    inbound = Inbound(
        rate_limit=RateLimit(max=1, fill=1, interval="1ms"), shedding=Shedding(sheddable=0.95, default=0.9)
    )
    assert found(Config(inbound=inbound)) == [
        ("PAN0307", "error", "inbound.rate_limit.interval"),
        ("PAN0309", "error", "inbound.shedding.sheddable"),
    ]


def test_all_are_found_at_once_and_say_what_is_ignored() -> None:
    both = Service("none", BREAKER, OUTLIER)
    assert len(of(both)) == 2
    [first, _] = Config(services={"*": both}).contradictions()
    assert first.message == 'has no effect: failure_policy is "none"'
    assert first.expectation == 'failure_policy = "breaker", or no breaker'
