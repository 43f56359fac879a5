"""The payload of the table `routes`."""

from __future__ import annotations

from typing import Any

import msgspec
from pannier import _native
from pannier.sidecars.traffic.config import (
    Affinity,
    Config,
    Cors,
    Headers,
    Injected,
    Match,
    Mirror,
    Redirect,
    Rewrite,
    Route,
    RouteTimeouts,
    Service,
    Text,
)
from pannier.sidecars.traffic.table import routes_table

FULL = Config(
    allow=["fault", "mirror"],
    zone="a",
    services={
        "orders": Service(
            balance="maglev",
            affinity=Affinity(cookie="session", ttl="1h"),
            slow_start="30s",
            locality="host",
            subsets={"v1": {"version": "1"}, "v2": {"version": "2"}},
            split={"v1": 90, "v2": 10},
            mirror=Mirror("stock/shadow", 5.0),
            fault=Injected(delay="1500ms", abort=503, percent=10.0, until=1_700_000_000.25),
        ),
        "stock": Service(subsets={"shadow": {"stage": "shadow"}}),
    },
    routes=[
        Route(
            name="all",
            hosts=["orders", "*"],
            matches=[
                Match(prefix="/a", method="GET", headers={"X-A": Text(exact="1")}, query={"q": Text(present=False)}),
                Match(regex="/b/[0-9]+", port=80, source="shop"),
            ],
            to={"orders/v2": 1, "stock": 3},
            rewrite=Rewrite(prefix="/b", host="x"),
            request=Headers(set={"a": "1"}, add={"b": "2"}, remove=["c"]),
            response=Headers(remove=["server"]),
            timeouts=RouteTimeouts(request="3s", backend_request="0s"),
            retries=2,
            mirror=Mirror("stock"),
            fault=Injected(abort=500),
            cors=Cors(origins=["https://shop.example"], max_age="10m", credentials=True),
        ),
        Route(name="moved", matches=[Match(path="/old")], redirect=Redirect(status=308, scheme="https", path="/new")),
        Route(name="public", side="inbound"),
    ],
)


def decoded(config: Config, splits: dict[str, dict[str, int]] | None = None) -> Any:
    return msgspec.msgpack.decode(routes_table(config, splits or {}))


def test_an_empty_one() -> None:
    assert decoded(Config()) == {"zone": None, "services": {}, "rules": []}


def test_the_data_path_builds_all_of_it() -> None:
    _native.validate("routes", routes_table(Config(), {}))
    _native.validate("routes", routes_table(FULL, {}))


def test_units_and_names() -> None:
    table = decoded(FULL)
    assert table["services"]["orders"] == {
        "balance": "maglev",
        "affinity": {"cookie": "session", "header": None, "ttl_s": 3600},
        "slow_start_ms": 30_000,
        "locality": "host",
        "subsets": {"v1": {"version": "1"}, "v2": {"version": "2"}},
        "split": {"v1": 90, "v2": 10},
        "mirror": {"to": "stock/shadow", "percent": 5.0},
        "fault": {"delay_ms": 1500, "abort": 503, "percent": 10.0, "until_unix_ms": 1_700_000_000_250},
        "counted": False,
    }
    rule, moved, public = table["rules"]
    assert (rule["request_ms"], rule["backend_request_ms"], rule["retries"], rule["inbound"]) == (3000, 0, 2, False)
    assert rule["matches"][0]["headers"] == {"X-A": {"exact": "1", "regex": None, "present": None}}
    assert rule["fault"] == {"delay_ms": 0, "abort": 500, "percent": 100.0, "until_unix_ms": None}
    assert rule["cors"]["max_age_s"] == 600
    assert moved["redirect"]["status"] == 308
    assert (public["inbound"], public["request_ms"]) == (True, None)


def test_a_canary_under_way_has_its_own_split() -> None:
    table = decoded(FULL, {"orders": {"v1": 70, "v2": 30}})
    assert table["services"]["orders"]["split"] == {"v1": 70, "v2": 30}


def test_equal_configurations_are_equal_bytes() -> None:
    assert routes_table(FULL, {}) == routes_table(msgspec.structs.replace(FULL), {})
