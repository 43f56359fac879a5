"""Configurations and policies over HTTP, to everything that a peer may send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from pannier.shared.http_server import Request, Response
from pannier.sidecars.pilot.documents.documents import Documents
from pannier.sidecars.pilot.documents.policies import Policies
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.http import documents_api
from pannier.sidecars.pilot.http.api import Api
from pannier.sidecars.pilot.http.documents_api import DocumentsApi
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stores.store import Store
from pannier.sidecars.pilot.stream.stream import Streams

from tests.sidecars.pilot.described import conforms

ORDERS = "/v1/config/staging/orders"
STAGING = "/v1/policy/staging"
SPLIT = {"services": {"orders": {"subsets": {"v1": {"version": "1"}}, "split": {"v1": 100}}}}


class Pilot:
    def __init__(self, store: Store) -> None:
        self.documents = Documents(store)
        self.policies = Policies(self.documents)
        self.store = store
        self.registry = registry = Registry(store)
        self.streams = streams = Streams(registry, Fanout(registry), self.documents)
        self.api = Api(registry, streams, documents=DocumentsApi(self.documents, self.policies))
        self.guarded = Api(registry, streams, token="secret", documents=DocumentsApi(self.documents, self.policies))

    async def ask(
        self, method: str, target: str, body: object = None, *, api: Api | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and decoded body."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await (api or self.api).handle(Request(method, target, tuple(headers.items()), data))
        assert isinstance(response, Response)
        said = json.loads(response.body)
        conforms(method, target, response.status, said)
        return response.status, said


@pytest.fixture
async def pilot(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Pilot]:
    async with open_sqlite(tmp_path / "store") as store:
        pilot = Pilot(store)
        await nursery.start(pilot.documents.follow)
        yield pilot
        nursery.cancel_scope.cancel()


async def test_a_configuration_is_put_read_changed_and_taken_back(pilot: Pilot) -> None:
    assert (await pilot.ask("GET", ORDERS))[0] == 404
    status, said = await pilot.ask("PUT", ORDERS, {"values": {"limit": "5"}, "version": 0, "comment": "begun"})
    assert (status, said["version"], said["values"], said["comment"]) == (200, 1, {"limit": "5"}, "begun")
    assert (said["stage"], said["service"]) == ("staging", "orders")
    assert (await pilot.ask("PUT", ORDERS, {"values": {}, "version": 0}))[0] == 409
    status, said = await pilot.ask("PATCH", ORDERS, {"set": {"mode": "slow"}, "unset": ["limit", "none"]})
    assert (status, said["version"], said["values"]) == (200, 2, {"mode": "slow"})
    assert (await pilot.ask("PATCH", ORDERS, {"set": {"mode": "fast"}, "version": 1}))[0] == 409
    assert (await pilot.ask("GET", ORDERS))[1]["values"] == {"mode": "slow"}
    _, history = await pilot.ask("GET", f"{ORDERS}/history")
    assert [one["version"] for one in history["versions"]] == [2, 1]
    assert (await pilot.ask("GET", f"{ORDERS}/history/1"))[1]["values"] == {"limit": "5"}
    assert (await pilot.ask("GET", f"{ORDERS}/history/7"))[0] == 404
    status, said = await pilot.ask("POST", f"{ORDERS}/rollback", {"to": 1, "version": 2})
    assert (status, said["version"], said["values"], said["comment"]) == (200, 3, {"limit": "5"}, "back to version 1")
    assert (await pilot.ask("POST", f"{ORDERS}/rollback", {"to": 1, "version": 2}))[0] == 409
    assert (await pilot.ask("GET", "/v1/config"))[1]["documents"][0]["service"] == "orders"
    assert (await pilot.ask("DELETE", ORDERS, {"version": 3}))[1]["deleted"] is True
    assert (await pilot.ask("GET", ORDERS))[0] == 404
    assert (await pilot.ask("DELETE", ORDERS))[0] == 404
    assert (await pilot.ask("GET", "/v1/config"))[1]["documents"] == []
    assert (await pilot.ask("POST", f"{ORDERS}/rollback", {"to": 4}))[0] == 404
    assert (await pilot.ask("POST", f"{ORDERS}/rollback", {"to": 3}))[1]["version"] == 5


async def test_a_patch_is_made_to_a_version_as_a_put_is(pilot: Pilot) -> None:
    await pilot.ask("PATCH", ORDERS, {"set": {"limit": "5"}, "version": 0})
    await pilot.ask("DELETE", ORDERS)
    status, said = await pilot.ask("PATCH", ORDERS, {"set": {"mode": "slow"}, "version": 0})
    assert (status, said["version"], said["values"]) == (200, 3, {"mode": "slow"})
    assert (await pilot.ask("PATCH", ORDERS, {"set": {}, "version": 0}))[0] == 409


async def test_a_patch_of_a_version_that_another_pilot_has_just_told_catches_up(pilot: Pilot) -> None:
    behind = Documents(pilot.store)  # follows nothing
    api = Api(pilot.registry, pilot.streams, documents=DocumentsApi(behind, Policies(behind)))
    await pilot.ask("PUT", ORDERS, {"values": {"limit": "5"}})
    status, said = await pilot.ask("PATCH", ORDERS, {"set": {"mode": "slow"}, "version": 1}, api=api)
    assert (status, said["values"]) == (200, {"limit": "5", "mode": "slow"})


async def test_patches_of_different_keys_at_once_all_hold(pilot: Pilot) -> None:
    await pilot.ask("PUT", ORDERS, {"values": {}})
    statuses: list[int] = []

    async def patch(name: str) -> None:
        statuses.append((await pilot.ask("PATCH", ORDERS, {"set": {name: "1"}}))[0])

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(patch, name)
    assert statuses == [200] * 3
    assert (await pilot.ask("GET", ORDERS))[1]["values"] == {"a": "1", "b": "1", "c": "1"}


async def test_who_waits_is_told_of_the_next_version(pilot: Pilot) -> None:
    seen: list[tuple[int, Any]] = []

    async def wait(after: int) -> None:
        seen.append(await pilot.ask("GET", f"{ORDERS}?after={after}&wait=10s"))

    for after, body in ((0, {"values": {"a": "1"}}), (1, {"values": {"a": "2"}}), (2, None)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, after)
            await trio.testing.wait_all_tasks_blocked()
            await pilot.ask("PUT" if body is not None else "DELETE", ORDERS, body)
    assert [(status, said["version"], said.get("values")) for status, said in seen] == [
        (200, 1, {"a": "1"}),
        (200, 2, {"a": "2"}),
        (200, 3, None),
    ]
    assert seen[2][1]["deleted"] is True
    assert (await pilot.ask("GET", f"{ORDERS}?after=3&wait=1ms"))[1]["version"] == 3
    assert (await pilot.ask("GET", "/v1/config/staging/stock?after=0&wait=1ms"))[0] == 404


async def test_a_policy_is_put_reported_and_taken_back(pilot: Pilot) -> None:
    told: list[str] = []
    pilot.policies.listeners.append(told.append)
    assert pilot.policies.policy("staging") == Policy()
    status, said = await pilot.ask(
        "PUT", STAGING, {"traffic": SPLIT, "resilience": {}, "version": 0, "comment": "begun"}
    )
    assert (status, said["version"], said["traffic"]) == (200, 1, SPLIT)
    assert {'resilience.services."*".breaker.jitter', "proxy.balance"} <= {one["where"] for one in said["unmapped"]}
    assert (await pilot.ask("GET", f"{STAGING}/report"))[1]["unmapped"] == said["unmapped"]
    assert pilot.policies.policy("staging").service("orders").split == {"v1": 100}
    assert pilot.policies.policy("production") == Policy()
    await pilot.ask("PUT", STAGING, {"proxy": {"balance": "round_robin"}})
    assert pilot.policies.policy("staging").proxy.balance == "round_robin"
    assert (await pilot.ask("GET", STAGING))[1]["proxy"] == {"balance": "round_robin"}
    assert (await pilot.ask("POST", f"{STAGING}/rollback", {"to": 1}))[1]["version"] == 3
    assert pilot.policies.policy("staging").service("orders").split == {"v1": 100}
    assert (await pilot.ask("DELETE", STAGING))[0] == 200
    assert pilot.policies.policy("staging") == Policy()
    assert told == ["staging"] * 4
    assert (await pilot.ask("GET", f"{ORDERS}/report"))[0] == 404


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({"trafic": {}}, "trafic", "unknown field"),
        ({"traffic": {"zone": 5}}, "traffic.zone", "wrong type: 5"),
        ({"traffic": {"services": {"orders": {"balance": "best"}}}}, "traffic.services.orders.balance", "bad value"),
        (
            {"traffic": {"services": {"orders": {"split": {"v1": 1}}}}},
            "traffic.services.orders.split.v1",
            "orders has no subset v1",
        ),
        (
            {"traffic": {"routes": [{"name": "a", "fault": {"abort": 503}}]}},
            "traffic.routes[0].fault",
            "this stage injects no faults",
        ),
        (
            {"resilience": {"services": {"orders": {"retry": {"backoff_min": "5s"}}}}},
            "resilience.services.orders.retry",
            "",
        ),
    ],
)
async def test_a_policy_that_does_not_hold_together_is_refused_with_its_places(
    pilot: Pilot, body: object, path: str, message: str
) -> None:
    status, said = await pilot.ask("PUT", STAGING, body)
    assert status == 400
    assert said["problems"][0]["path"].startswith(path)
    assert message in said["problems"][0]["message"]
    assert path in said["error"]
    assert (await pilot.ask("GET", STAGING))[0] == 404


async def test_warnings_come_with_the_answer(pilot: Pilot) -> None:
    status, said = await pilot.ask("PUT", STAGING, {"traffic": {"services": {"orders": {"balance": "maglev"}}}})
    assert status == 200
    assert [(one["path"], one["severity"]) for one in said["problems"]] == [
        ("traffic.services.orders.balance", "warning")
    ]


async def test_a_policy_that_is_not_understood_leaves_the_one_before(pilot: Pilot) -> None:
    """A pilot of another version has put it."""
    await pilot.ask("PUT", STAGING, {"proxy": {"balance": "round_robin"}})
    key = next(iter(pilot.documents.keys("policy")))
    await pilot.documents.put(key, {"proxy": {"balance": "newest"}})
    assert pilot.policies.policy("staging").proxy.balance == "round_robin"


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("PUT", ORDERS, b"{", 400),
        ("PUT", ORDERS, b"", 400),
        ("PUT", ORDERS, {"values": {"a": 5}}, 400),
        ("PUT", ORDERS, {"values": {"a b": ""}}, 400),
        ("PUT", ORDERS, {"values": {"": ""}}, 400),
        ("PUT", ORDERS, {"values": {}, "version": -1}, 400),
        ("PUT", ORDERS, {"values": {}, "versoin": 1}, 400),
        ("PUT", ORDERS, {"values": {"a": "x" * 8193}}, 400),
        ("PUT", ORDERS, {"values": {"a": "é" * 8000}}, 413),
        ("PUT", ORDERS, {"values": {str(number): "" for number in range(257)}}, 400),
        ("PUT", ORDERS, {"values": {str(number): "x" * 8000 for number in range(7)}}, 413),
        ("PUT", "/v1/config/STAGING/orders", {"values": {}}, 400),
        ("PUT", "/v1/config/staging/or%2Fders", {"values": {}}, 400),
        ("PUT", "/v1/config/staging", {"values": {}}, 404),
        ("PUT", "/v1/config", {}, 405),
        ("POST", ORDERS, {}, 405),
        ("PUT", f"{ORDERS}/history", {}, 405),
        ("GET", f"{ORDERS}/rollback", None, 405),
        ("GET", f"{ORDERS}/nothing", None, 404),
        ("GET", f"{ORDERS}/history/x", None, 400),
        ("GET", f"{ORDERS}?after=x", None, 400),
        ("GET", f"{ORDERS}?after=1&wait=soon", None, 400),
        ("POST", f"{ORDERS}/rollback", {"to": 0}, 400),
        ("POST", f"{ORDERS}/rollback", {"to": 1}, 404),
        ("PATCH", STAGING, {}, 405),
        ("PUT", STAGING, [], 400),
        ("PUT", STAGING, b"[" * 60_000, 400),
        ("PUT", STAGING, b'{"traffic":' * 5_000 + b"1" + b"}" * 5_000, 400),
        ("PUT", ORDERS, b'{"values":' * 5_000, 400),
        ("PUT", ORDERS, b'{"values": {"a": "\\ud800"}}', 400),
        ("PUT", STAGING, {"comment": "x" * 201}, 400),
    ],
)
async def test_what_does_not_fit_is_refused(pilot: Pilot, method: str, target: str, body: object, status: int) -> None:
    answered, said = await pilot.ask(method, target, body)
    assert answered == status, said
    assert said["error"]


async def test_changes_and_reading_configurations_need_the_token_and_reading_policies_does_not(pilot: Pilot) -> None:
    guarded = pilot.guarded
    for method, target, body in (
        ("GET", "/v1/config", None),
        ("GET", ORDERS, None),
        ("HEAD", ORDERS, None),
        ("GET", f"{ORDERS}?after=0&wait=1ms", None),
        ("GET", f"{ORDERS}/history", None),
        ("GET", f"{ORDERS}/history/1", None),
        ("PUT", ORDERS, {"values": {}}),
        ("PATCH", ORDERS, {}),
        ("DELETE", ORDERS, None),
        ("POST", f"{ORDERS}/rollback", {"to": 1}),
        ("PUT", STAGING, {}),
        ("DELETE", STAGING, None),
        ("POST", f"{STAGING}/rollback", {"to": 1}),
    ):
        assert (await pilot.ask(method, target, body, api=guarded))[0] == 401
        assert (await pilot.ask(method, target, body, api=guarded, authorization="Bearer wrong"))[0] == 401
    status, _ = await pilot.ask("PUT", ORDERS, {"values": {}}, api=guarded, authorization="Bearer secret")
    assert status == 200
    assert (await pilot.ask("GET", ORDERS, api=guarded, authorization="Bearer secret"))[0] == 200
    await pilot.ask("PUT", STAGING, {})
    for target in ("/v1/policy", STAGING, f"{STAGING}/history", f"{STAGING}/report"):
        assert (await pilot.ask("GET", target, api=guarded))[0] == 200


async def test_those_who_wait_at_a_port_take_no_place_on_the_socket(
    pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_api, "MAX_WATCHES", 2)
    waiting = f"{STAGING}?after=9&wait=30s"
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(partial(pilot.ask, "GET", waiting, api=pilot.guarded))
        await trio.testing.wait_all_tasks_blocked()
        status, said = await pilot.ask("GET", waiting, api=pilot.guarded)
        assert (status, said["error"]) == (503, "2 wait already")
        assert (await pilot.ask("GET", f"{ORDERS}?after=9&wait=1ms"))[0] == 404
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("/v1/config/STAGE/orders", 400, "'STAGE' is no name of a stage"),
        ("/v1/config/staging/or%2Fders", 400, "'or/ders' is no name of a service"),
        ("/v1/policy/STAGE", 400, "'STAGE' is no name of a stage"),
        (ORDERS, 404, "there is no configuration of orders in staging"),
        (STAGING, 404, "there is no policy of staging"),
    ],
)
async def test_what_is_not_there_is_answered_with_what_to_do(pilot: Pilot, target: str, status: int, said: str) -> None:
    answered, told = await pilot.ask("GET", target)
    assert (answered, told["error"]) == (status, said)
    assert "use up to 63 of" in told["hint"] or "pannier pilot" in told["hint"]


async def test_anything_but_json_is_refused(pilot: Pilot) -> None:
    sent = {"content-type": "application/yaml"}
    assert (await pilot.ask("PUT", ORDERS, b"values: {}", **sent))[0] == 415
