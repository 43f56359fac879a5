"""Instances by way of a Central: our own discovery hears of them, whoever knows nothing of Centrals does not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import dns.message
import pytest
from pannier.shared import pilot_stream as wire
from pannier.shared.detours import OF, WEIGHT
from pannier.shared.http_server import Request, Response
from pannier.shared.instances import State
from pannier.sidecars.pilot.bridges.outward import Outward
from pannier.sidecars.pilot.documents.documents import Documents
from pannier.sidecars.pilot.grpc.registry import _Service
from pannier.sidecars.pilot.http.api import Api
from pannier.sidecars.pilot.registry.entries import Entry
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.service import Settings, _zone
from pannier.sidecars.pilot.stream.stream import Streams
from pannier.sidecars.pilot.xds.catalogue import Catalogue, NoPolicies
from pannier.sidecars.pilot.xds.endpoints import Client
from pannier.sidecars.pilot.xds.resources import Type

from tests.sidecars.pilot.test_registry import A, B, Rig, entry, following
from tests.sidecars.pilot.xds.test_catalogue import message

GATEWAY = "10.9.9.9:15090"
DETOUR = ("orders", "a.central")
LONELY = ("stock", "s.central")


def by_way(of: str = "a", *, ttl_ms: int = 5000) -> Entry:
    return Entry(1, GATEWAY, ttl_ms=ttl_ms, metadata={OF: of, WEIGHT: "40"})


async def fill(rig: Rig) -> None:
    """An instance with a detour, and a detour of a service that nobody else is in."""
    await rig.registry.register(A, entry())
    await rig.registry.register(DETOUR, by_way())
    await rig.registry.register(LONELY, by_way("s"))
    await rig.caught_up()


@pytest.mark.parametrize("client", Client)
async def test_xds_has_no_endpoint_of_a_detour_and_no_service_of_detours_alone(tmp_path: Path, client: Client) -> None:
    async with following(tmp_path / "store") as rig:
        await fill(rig)
        catalogue = Catalogue(rig.registry, NoPolicies())
        assert (catalogue.changed("orders"), catalogue.changed("stock")) == (True, False)
        assert list(catalogue.services) == ["orders"]
        assert catalogue.cluster(client, "production", "stock") is None
        resource = catalogue.endpoints(client, "production", "orders")
        (locality,) = message(Type.ENDPOINTS, resource).endpoints
        (one,) = locality.lb_endpoints
        assert one.endpoint.address.socket_address.address == "10.0.0.1"


async def test_dns_says_no_address_of_a_central(tmp_path: Path) -> None:
    async with following(tmp_path / "store") as rig:
        await fill(rig)
        zone = _zone(Settings(tmp_path / "pilot.sock", tmp_path / "store", tmp_path / "token"), rig.registry)
        found: dict[str, list[str]] = {}
        for name in ("orders.pannier.", "stock.pannier.", "a.orders.pannier."):
            packet = zone.answer(dns.message.make_query(name, "A").to_wire(), most=512).packet
            assert packet is not None
            found[name] = [str(item) for answer in dns.message.from_wire(packet).answer for item in answer]
        assert found == {"orders.pannier.": ["10.0.0.1"], "stock.pannier.": [], "a.orders.pannier.": ["10.0.0.1"]}


async def test_a_bridge_writes_no_detour_and_one_that_is_up_hides_nobody_who_drains(tmp_path: Path) -> None:
    async with following(tmp_path / "store") as rig:
        await fill(rig)
        bridge = Outward(rig.registry, SimpleNamespace(client=None), "/services", name="zookeeper://z/services")
        assert {name: wish.entry is not None for name, wish in bridge.wishes("orders").items()} == {"a": True}
        assert bridge.wishes("stock") == {}
        await rig.registry.move(A, 1, State.DRAINING)
        assert {name: wish.entry is not None for name, wish in bridge.wishes("orders").items()} == {"a": True}


async def test_the_registry_over_grpc_tells_instances_alone(tmp_path: Path) -> None:
    async with following(tmp_path / "store") as rig:
        await fill(rig)
        answer = await _Service(rig.registry).get(SimpleNamespace(services=["orders", "stock"]))
        assert {told.name: [one.id for one in told.instances] for told in answer.services} == {
            "orders": ["a"],
            "stock": [],
        }


async def test_over_http_and_in_the_status_they_are_marked_and_counted_apart(tmp_path: Path) -> None:
    async with following(tmp_path / "store") as rig:
        await fill(rig)
        api = Api(rig.registry, Streams(rig.registry, Fanout(rig.registry), Documents(rig.store)))

        async def ask(path: str) -> dict[str, object]:
            response = await api.handle(Request("GET", path, (), b""))
            assert isinstance(response, Response)
            return dict(json.loads(response.body))

        told = await ask("/v1/services/orders")
        assert [(one["id"], one.get("detour", False)) for one in told["instances"]] == [
            ("a", False),
            ("a.central", True),
        ]
        status = await ask("/v1/status")
        assert (status["instances"], status["detours"], status["states"]["UP"]) == (1, 2, 1)
        await rig.registry.leave(DETOUR, 1)
        await rig.registry.register(A, Entry(2, "10.0.0.1:80", ttl_ms=5000, metadata={OF: "b"}))
        status = await ask("/v1/status")
        assert (status["instances"], status["detours"], status["states"]["UP"]) == (0, 2, 0)


async def test_who_follows_by_our_own_protocol_is_told_of_them(tmp_path: Path) -> None:
    async with following(tmp_path / "store") as rig:
        await fill(rig)
        streams = Streams(rig.registry, Fanout(rig.registry), Documents(rig.store))
        (body,) = wire.Frames(wire.MAX_TOLD).feed(streams.whole("orders"))
        told = wire.said(body)
        assert isinstance(told, wire.Told)
        assert [(one.id, one.metadata.get(WEIGHT)) for one in told.instances] == [("a", None), ("a.central", "40")]


async def test_a_detour_is_given_up_as_soon_as_it_does_not_renew_and_keeps_nobody(tmp_path: Path) -> None:
    async with following(tmp_path / "store") as rig:
        await fill(rig)
        for number in range(20):
            await rig.registry.register(("orders", f"i{number}.central"), by_way(f"i{number}"))
        await rig.later(6)
        assert (rig.ids(), rig.ids("stock"), rig.registry.preserving) == (["a"], [], False)
        await rig.registry.register(DETOUR, by_way(ttl_ms=3_600_000))
        await rig.later(120)
        assert rig.ids() == ["a", "a.central"], "a is the last of its service, and nobody else can be called"
        assert [one.id for one in rig.registry.instances("orders") if one.suspect] == ["a"]
        await rig.registry.register(B, entry(address="10.0.0.2:80"))
        await rig.later(9)
        assert rig.ids() == ["a.central", "b"]
