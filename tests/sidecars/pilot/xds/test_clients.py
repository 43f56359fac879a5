"""Real clients: Envoy in both forms, and gRPC's own, which never heard of us. What differs from this in the long form
(`churn.py`) is only how long it lasts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from pannier.shared.instances import State
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.registry.entries import Entry
from pannier.sidecars.pilot.xds.bootstrap import Form
from pannier.sidecars.pilot.xds.catalogue import Shape
from pannier.sidecars.pilot.xds.resources import Resource, Response, Type
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.service import TypeStatus
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic

from tests.sidecars.pilot.xds.churn import differences, free_port, is_well, run
from tests.sidecars.pilot.xds.load import Calls, asked, through
from tests.sidecars.pilot.xds.real_envoy import Envoy, envoy
from tests.sidecars.pilot.xds.rig import ECHO, pilot, serve_grpc_origin, serve_http_origin, wait_until

RICH = Policy(
    traffic=traffic.Config(
        routes=[
            traffic.Route(
                name="reads",
                to={"orders": 3, "stock": 1},
                matches=[traffic.Match(prefix="/read", method="GET")],
                timeouts=traffic.RouteTimeouts(request="3s", backend_request="1s"),
                retries=2,
            ),
            traffic.Route(name="old", redirect=traffic.Redirect(path="/new"), matches=[traffic.Match(path="/old")]),
        ],
        services={
            "orders": traffic.Service(
                subsets={"v1": {"version": "1"}, "v2": {"version": "2"}},
                split={"v1": 9, "v2": 1},
                mirror=traffic.Mirror(to="stock", percent=5),
                fault=traffic.Injected(percent=0.5, delay="10ms"),
            ),
            "stock": traffic.Service(balance="ring_hash", affinity=traffic.Affinity(header="x-session")),
        },
    ),
    resilience=resilience.Config(),
)
FORMS = ("DELTA_GRPC", "GRPC")


async def test_a_fleet_that_changes_under_load() -> None:
    summary = await run(40, 6, rate=60, pace=0.05, told_s=5.0)
    assert is_well(summary), json.dumps(summary)
    assert all(client["calls"] for client in summary["clients"].values())


@pytest.mark.parametrize("form", FORMS)
async def test_envoy_has_what_it_was_told_field_by_field(short_path: Path, form: Form) -> None:
    """A number or a type that is wrong in our tables would show as another field, or as none."""
    async with pilot(short_path) as tower:
        tower.stages.of["staging"] = RICH
        await tower.register("orders", "a", 1, version="1", weight="5", zone="west", protocol="h2")
        await tower.register("orders", "b", 2, version="2", protocol="h2")
        await tower.register("stock", "c", 3)
        await tower.move(("orders", "b"), State.DRAINING)
        place = f"unix:{tower.socket}"
        async with envoy(short_path, place, form, port=free_port(), stage="staging") as one:
            await one.wait_until_listening()
            await wait_until(lambda: tower.settled("envoy"))
            assert await one.rejected() == {}, one.log.read_text()
            assert (await one.health("orders"))[2] == "DRAINING"
            has = await _has(one)
            offering = tower.xds.catalogue.offering(Shape(stage="staging", port=one.port))
            for kind, names in (
                (Type.CLUSTER, sorted(offering.names(Type.CLUSTER))),
                (Type.ENDPOINTS, ["orders", "orders/v1", "orders/v2", "stock"]),
                (Type.LISTENER, ["outbound"]),
                (Type.ROUTES, ["outbound"]),
            ):
                assert sorted(has[kind]) == names
                for name in names:
                    assert _plain(has[kind][name]) == _plain(_told(kind, offering.get(kind, name)))


@pytest.mark.parametrize("form", FORMS)
async def test_a_pilot_that_comes_back_costs_nothing(short_path: Path, form: Form) -> None:
    calls, port = Calls(lambda: "orders"), free_port()
    async with trio.open_nursery() as nursery:
        origins = [await nursery.start(serve_http_origin, name) for name in "ab"]
        async with envoy(short_path, str(port), form, port=free_port()) as one:
            async with pilot(short_path, port=port) as tower:
                await tower.register("orders", "a", origins[0].port)
                await one.wait_until_listening()
                await wait_until(lambda: tower.settled("envoy"))
                nursery.start_soon(lambda: through(one.port, calls, rate=50))
                await wait_until(lambda: len(calls.made) > 10)
            async with pilot(short_path, port=port) as tower:
                await tower.register("orders", "b", origins[1].port)
                await wait_until(lambda: any(call.answer == "b" for call in calls.made))
                await wait_until(lambda: tower.settled("envoy"))
                calls.over = True
                await wait_until(lambda: calls.ended)
                assert await one.rejected() == {}
                assert await differences(tower, one) == []
        nursery.cancel_scope.cancel()
    assert [call for call in calls.made if not call.well] == []


@pytest.mark.parametrize("form", FORMS)
async def test_what_envoy_rejects_is_shown_and_not_sent_again(short_path: Path, form: Form) -> None:
    """Its port is taken: it tells the pilot why it has no listener, and goes on with everything else."""
    async with pilot(short_path) as tower, trio.open_nursery() as nursery:
        taken = await nursery.start(serve_http_origin, "a")
        await tower.register("orders", "a", taken.port)
        async with envoy(short_path, str(tower.port), form, port=taken.port) as one:

            def kinds() -> dict[str, TypeStatus]:
                client = tower.client("envoy")
                return {} if client is None else {kind.type: kind for kind in client.types}

            await wait_until(lambda: "listener" in kinds() and kinds()["listener"].rejected)
            await tower.register("stock", "b", 1)
            await wait_until(lambda: "endpoints" in kinds() and kinds()["endpoints"].names == 2)
            await wait_until(lambda: tower.settled("envoy"))
            listener = kinds()["listener"]
            assert (listener.sent, listener.accepted, listener.rejected) == (1, 0, 1)
            assert "in use" in listener.error
            assert set(await one.health("stock")) == {1}
        nursery.cancel_scope.cancel()


async def test_grpc_takes_endpoints_that_are_registered_in_two_spellings(short_path: Path) -> None:
    """It refuses all endpoints of a service for one that is there twice."""
    async with pilot(short_path) as tower, trio.open_nursery() as nursery:
        origin = await nursery.start(serve_grpc_origin, "a")
        for name, address in (("a", f"127.0.0.1:{origin.port}"), ("b", f"[127.0.0.1]:{origin.port}")):
            entry = Entry(0, address, State.UP, 3_600_000, {})
            await tower.registry.register(("orders", name), entry, state=State.UP)
        async with asked(short_path, tower.port, [{"target": "xds:///orders", "path": ECHO}]) as answers:
            assert answers == [{"a": 1}]
            assert {kind.error for client in tower.xds.statistics() for kind in client.types} == {""}
        nursery.cancel_scope.cancel()


async def _has(one: Envoy) -> dict[Type, dict[str, Any]]:
    found: dict[Type, dict[str, Any]] = {kind: {} for kind in Type}
    for part in (await one.dump())["configs"]:
        for told in part.get("dynamic_active_clusters", ()):
            found[Type.CLUSTER][told["cluster"]["name"]] = told["cluster"]
        for told in part.get("dynamic_listeners", ()):
            found[Type.LISTENER][told["name"]] = told["active_state"]["listener"]
        for told in part.get("dynamic_route_configs", ()):
            found[Type.ROUTES][told["route_config"]["name"]] = told["route_config"]
        for told in part.get("dynamic_endpoint_configs", ()):
            found[Type.ENDPOINTS][told["endpoint_config"]["cluster_name"]] = told["endpoint_config"]
    return found


def _told(kind: Type, resource: Resource | None) -> Any:
    assert resource is not None
    wire = Response(kind, "1", "v", [resource]).as_state_of_the_world()
    (packed,) = MESSAGES.parse("envoy.service.discovery.v3.DiscoveryResponse", wire).resources
    return MESSAGES.to_json(MESSAGES.parse(kind.value, packed.value))


def _plain(told: Any) -> Any:
    """Without what Envoy adds by itself, and without what means nothing: empty parts, the order of endpoints."""
    if isinstance(told, dict):
        plain = {key: _plain(value) for key, value in told.items() if key not in _ADDED}
        return {key: value for key, value in plain.items() if value not in ({}, [], None)}
    if told == "DRAINING":  # which Envoy's dump does not tell apart
        return "UNHEALTHY"
    if isinstance(told, list):
        return _in_order([_plain(value) for value in told])
    return told


_ADDED = {"@type", "policy"}


def _in_order(told: list[Any]) -> Sequence[Any]:
    return sorted(told, key=repr) if told and isinstance(told[0], dict) and "lb_endpoints" in told[0] else told
