from __future__ import annotations

import msgspec
from pannier import _native
from pannier.sidecars.resilience.config import (
    Bulkhead,
    Config,
    Inbound,
    Outlier,
    RateLimit,
    Retry,
    Service,
    ServiceBreaker,
    Shedding,
)
from pannier.sidecars.resilience.table import KIND, limits_table

FULL = Config(
    services={
        "*": Service(service_breaker=ServiceBreaker(slow="200ms"), rate_limit=RateLimit(max=1, fill=1)),
        "payments": Service(
            failure_policy="outlier", outlier=Outlier(interval="5s"), retry=Retry(budget=None), bulkhead=Bulkhead()
        ),
        "stock": Service(failure_policy="none"),
    },
    inbound=Inbound(rate_limit=RateLimit(max=5, fill=5), bulkhead=Bulkhead(wait="1s"), shedding=Shedding()),
)


def decoded(config: Config, places: dict[str, tuple[int, int]]) -> dict:
    return msgspec.msgpack.decode(limits_table(config, places))


def test_every_service_has_a_rule_though_none_is_configured() -> None:
    table = decoded(Config(), {})
    assert set(table["services"]) == {"*"}
    assert table["services"]["*"]["breaker"] == {
        "consecutive_failures": 7,
        "penalty_min_ms": 1000,
        "penalty_max_ms": 60_000,
        "jitter": 0.5,
    }
    assert table["services"]["*"]["outlier"] is None


def test_the_policy_that_is_not_chosen_is_absent() -> None:
    services = decoded(FULL, {})["services"]
    assert services["payments"]["breaker"] is None
    assert services["payments"]["outlier"]["interval_ms"] == 5000
    assert (services["stock"]["breaker"], services["stock"]["outlier"]) == (None, None)


def test_a_service_breaker_that_holds_for_all_is_one_each() -> None:
    services = decoded(FULL, {"orders": (3584, 1), "users": (3585, 2)})["services"]
    assert services["orders"]["service_breaker"] == {
        "slot": 3584,
        "incarnation": 1,
        "open_ms": 60_000,
        "half_open_calls": 10,
    }
    assert services["users"]["service_breaker"]["slot"] == 3585
    assert services["users"]["rate_limit"] == services["*"]["rate_limit"]
    assert services["*"]["service_breaker"] is None
    assert services["*"]["slow_ms"] == 200


def test_the_data_path_takes_all_of_it() -> None:
    _native.validate(KIND, limits_table(Config(), {}))
    _native.validate(KIND, limits_table(FULL, {"orders": (3584, 1)}))
