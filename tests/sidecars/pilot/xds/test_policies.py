"""A policy that has everything reaches a real Envoy and gRPC's own client: neither refuses any of it, and it holds."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from pannier.sidecars.pilot.documents.documents import Documents, Key
from pannier.sidecars.pilot.documents.policies import Policies
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.grpc.call import Call
from pannier.sidecars.pilot.grpc.server import serve_grpc
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic
from pannier.sidecars.traffic.config import Match, Route

from tests.sidecars.pilot.xds.load import asked
from tests.sidecars.pilot.xds.real_envoy import Envoy, envoy
from tests.sidecars.pilot.xds.rig import ECHO, PATIENCE_S, Pilot, pilot, wait_until
from tests.system.host import free_port

BETA, SLOW = "/test.Beta/Who", "/test.Slow/Who"
BALANCES = ("p2c_ewma", "least_request", "round_robin", "random", "ring_hash", "maglev")
SUBSETS = {"v1": {"version": "1"}, "v2": {"version": "2"}}
EVERYTHING = Policy(
    traffic=traffic.Config(
        services={
            "orders": traffic.Service(
                subsets=SUBSETS,
                split={"v1": 75, "v2": 25},
                slow_start="1s",
                mirror=traffic.Mirror(to="orders/v2", percent=1),
                fault=traffic.Injected(delay="1ms", abort=503, percent=0),
            ),
            "hashed": traffic.Service(affinity=traffic.Affinity(header="x-user"), subsets=SUBSETS, split={"v1": 100}),
            "cookied": traffic.Service(balance="ring_hash", affinity=traffic.Affinity(cookie="session", ttl="1h")),
            **{
                f"balance-{number}": traffic.Service(balance=balance, locality="host")
                for number, balance in enumerate(BALANCES)
            },
        },
        routes=[
            Route(name="beta", hosts=["orders"], matches=[Match(prefix="/test.Beta")], to={"orders/v2": 1}),
            Route(
                name="user",
                hosts=["orders"],
                matches=[Match(headers={"x-user": traffic.Text(regex="a.*"), "x-no": traffic.Text(present=False)})],
                to={"orders/v1": 1},
            ),
            Route(name="got", hosts=["*"], matches=[Match(method="GET", path="/got")], to={"hashed": 1, "orders": 1}),
            Route(
                name="posted",
                hosts=["orders"],
                matches=[Match(method="POST", headers={"x-post": traffic.Text(exact="1")})],
                to={"orders/v2": 1},
            ),
            Route(
                name="slow",
                hosts=["orders"],
                matches=[Match(prefix="/test.Slow")],
                timeouts=traffic.RouteTimeouts(request="200ms", backend_request="100ms"),
            ),
            Route(
                name="aborted",
                hosts=["orders"],
                matches=[Match(headers={"x-abort": traffic.Text(present=True)})],
                fault=traffic.Injected(abort=404),
            ),
            Route(
                name="moved",
                hosts=["*"],
                matches=[Match(headers={"x-moved": traffic.Text(present=True)})],
                redirect=traffic.Redirect(prefix="/", scheme="https", port=8443),
            ),
            Route(
                name="changed",
                hosts=["*.example.com", "api.example.com"],
                matches=[Match(prefix="/a", query={"q": traffic.Text(exact="1")}, port=8080), Match(regex="/b/[0-9]+")],
                to={"orders": 50, "hashed": 50},
                rewrite=traffic.Rewrite(prefix="/c", host="inner.example:81"),
                request=traffic.Headers(set={"x-a": "50%"}, add={"x-b": ""}, remove=["x-c"]),
                response=traffic.Headers(set={"x-a": "1"}),
                retries=3,
                mirror=traffic.Mirror(to="hashed", percent=5),
                cors=traffic.Cors(origins=["*"], headers=["x-a"], expose=["x-b"], max_age="10m"),
            ),
        ],
    ),
    resilience=resilience.Config(
        services={
            "orders": resilience.Service(
                failure_policy="outlier",
                outlier=resilience.Outlier(failure_percentage=90, enforcing_success_rate=0),
                retry=resilience.Retry(on=["gateway-error", "5xx", "reset", "timeout", "429"], attempts=2),
                rate_limit=resilience.RateLimit(max=10_000, fill=10_000),
                bulkhead=resilience.Bulkhead(concurrent=100, wait="1s"),
            ),
            "hashed": resilience.Service(breaker=resilience.Breaker(success_rate=0.5)),
            "cookied": resilience.Service(retry=resilience.Retry(budget=None)),
        }
    ),
)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Pilot]:
    """A pilot with that policy, and instances of its services, which say which version they are."""
    async with pilot(folder) as running, trio.open_nursery() as nursery:
        running.stages.of["production"] = EVERYTHING
        for version in ("1", "2"):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

            async def who(call: Call, version: str = version) -> None:
                await call.receive()
                await call.send(version.encode())

            async def slow(call: Call) -> None:
                await call.receive()
                await trio.sleep_forever()

            nursery.start_soon(serve_grpc, listener, {ECHO: who, BETA: who, SLOW: slow})
            assert EVERYTHING.traffic is not None
            for service in EVERYTHING.traffic.services:
                port = listener.socket.getsockname()[1]
                await running.register(service, f"v{version}", port, version=version, protocol="h2c")
        yield running
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("form", ["DELTA_GRPC", "GRPC"])
async def test_envoy_takes_all_of_it(short_path: Path, form: Any) -> None:
    async with serving(short_path) as running, envoy(short_path, str(running.port), form, port=free_port()) as started:
        await started.wait_until_listening()
        await wait_until(lambda: running.settled("envoy"))
        assert await started.rejected() == {}
        client = running.client("envoy")
        assert client is not None
        assert [one.rejected for one in client.types] == [0] * len(client.types)
        told = json.dumps(await started.dump())
        assert all(f'"{name}"' in told for name in ("orders/v1", "hashed/v1", "api.example.com", "balance-5"))


async def test_a_policy_that_is_put_reaches_who_is_connected(short_path: Path) -> None:
    """With the documents of a pilot, as they are kept in its store."""
    (short_path / "documents").mkdir()
    async with (
        open_sqlite(short_path / "documents" / "store") as store,
        serving(short_path) as running,
        envoy(short_path, str(running.port), "DELTA_GRPC", port=free_port()) as started,
        trio.open_nursery() as nursery,
    ):
        documents = Documents(store)
        await nursery.start(documents.follow)
        running.xds.catalogue.policies = policies = Policies(documents)
        policies.listeners.append(running.xds.policy_changed)
        running.xds.policy_changed("production")
        await started.wait_until_listening()
        for split in ({"v1": 40, "v2": 60}, {"v1": 100}):
            said = {"traffic": {"services": {"orders": {"subsets": SUBSETS, "split": split}}}}
            await documents.put(Key("policy", "production"), said)
            await until_told(started, lambda dump, split=split: told_split(dump) == split)
        await documents.put(Key("policy", "production"), None)
        await until_told(started, lambda dump: "orders/v1" not in json.dumps(dump))
        await wait_until(lambda: running.settled("envoy"))
        assert await started.rejected() == {}
        nursery.cancel_scope.cancel()


async def until_told(started: Envoy, holds: Callable[[Any], bool]) -> None:
    """Waits for what an Envoy has been told."""
    with trio.fail_after(PATIENCE_S):
        while not holds(await started.dump()):  # noqa: ASYNC110 what is waited for is another process
            await trio.sleep(0.05)


def told_split(dump: Any) -> Mapping[str, int]:
    """The subsets of orders in Envoy's routes, with their weights."""
    configurations = [one for part in dump["configs"] for one in part.get("dynamic_route_configs", ())]
    for host in (host for one in configurations for host in one["route_config"].get("virtual_hosts", ())):
        if host["name"] == "orders":
            action = host["routes"][-1]["route"]
            only = [{"name": action.get("cluster", ""), "weight": 100}]
            clusters = action.get("weighted_clusters", {"clusters": only})["clusters"]
            return {one["name"].removeprefix("orders/"): one["weight"] for one in clusters}
    return {}


async def test_grpc_takes_all_of_it_and_keeps_to_what_it_knows(short_path: Path) -> None:
    orders = "xds:///orders"
    times = 400
    calls: Sequence[Mapping[str, Any]] = [
        {"target": orders, "path": ECHO, "times": times},
        {"target": orders, "path": BETA, "times": 5},
        {"target": orders, "path": ECHO, "metadata": {"x-user": "ann"}, "times": 5},
        {"target": orders, "path": ECHO, "metadata": {"x-post": "1"}, "times": 5},
        {"target": orders, "path": SLOW},
        {"target": orders, "path": ECHO, "metadata": {"x-abort": "1"}},
        {"target": orders, "path": ECHO, "metadata": {"x-moved": "1"}},
        {"target": "xds:///hashed", "path": ECHO, "times": 5},
        {"target": "xds:///cookied", "path": ECHO},
        *({"target": f"xds:///balance-{number}", "path": ECHO} for number in range(len(BALANCES))),
    ]
    async with serving(short_path) as running, asked(short_path, running.port, calls) as answers:
        clients = running.xds.statistics()
    split, beta, user, posted, slow, aborted, moved, hashed, *others = answers
    assert len(clients) == len({call["target"] for call in calls})  # gRPC has a stream for each
    assert {one.rejected for client in clients for one in client.types} == {0}
    assert set(split) == {"1", "2"} and sum(split.values()) == times
    assert abs(split["1"] - times * 0.75) <= 5 * math.sqrt(times * 0.75 * 0.25)
    assert (beta, user, posted) == ({"2": 5}, {"1": 5}, {"2": 5})
    assert (slow, aborted, moved) == ({"DEADLINE_EXCEEDED": 1}, {"UNIMPLEMENTED": 1}, {"UNAVAILABLE": 1})
    assert hashed == {"1": 5}
    assert [sum(one.values()) for one in others] == [1] * (1 + len(BALANCES))
    assert all(set(one) <= {"1", "2"} for one in others)
