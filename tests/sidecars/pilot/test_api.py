"""What the pilot answers over HTTP, to everything that a peer may send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from pannier.shared.errors import Unreachable
from pannier.shared.http_server import Request, Response
from pannier.sidecars.pilot.documents.documents import Documents
from pannier.sidecars.pilot.http.api import Api
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.registry.registry import Full, Registry
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stores.store import Store
from pannier.sidecars.pilot.stream.stream import Streams

from tests.sidecars.pilot.described import conforms

A = "/v1/instances/orders/a"
HERE = {"address": "10.0.0.1", "port": 80}


class Pilot:
    def __init__(self, registry: Registry, store: Store) -> None:
        self.registry = registry
        self.streams = Streams(registry, Fanout(registry), Documents(store))
        self.api = Api(registry, self.streams)

    async def ask(
        self, method: str, target: str, body: object = None, *, api: Api | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and decoded body."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        response = await (api or self.api).handle(Request(method, target, sent, data))
        assert isinstance(response, Response)
        said = json.loads(response.body)
        conforms(method, target, response.status, said)
        return response.status, said


@pytest.fixture
async def pilot(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Pilot]:
    async with open_sqlite(tmp_path / "store") as store:
        registry = Registry(store)
        await nursery.start(registry.follow)
        yield Pilot(registry, store)
        nursery.cancel_scope.cancel()


async def test_register_renew_drain_leave(pilot: Pilot) -> None:
    status, said = await pilot.ask("PUT", A, HERE | {"ttl": "6s", "metadata": {"version": "2"}})
    assert (status, said) == (
        201,
        {"service": "orders", "id": "a", "address": "10.0.0.1:80", "epoch": 1, "ttl_s": 6.0, "renew_s": 2.0},
    )
    assert (await pilot.ask("PUT", A, HERE | {"ttl": "6s", "metadata": {"version": "2"}}))[0] == 200
    assert (await pilot.ask("POST", f"{A}/drain", {"epoch": 1}))[1]["state"] == "DRAINING"
    assert (await pilot.ask("PUT", A, HERE | {"ttl": "6s", "metadata": {"version": "2"}}))[0] == 200
    _, found = await pilot.ask("GET", "/v1/services/orders")
    (instance,) = found["instances"]
    assert (instance["state"], instance["metadata"]) == ("DRAINING", {"version": "2"})
    assert await pilot.ask("DELETE", f"{A}?epoch=1") == (200, {"service": "orders", "id": "a", "removed": True})
    assert (await pilot.ask("GET", "/v1/services"))[1]["services"] == {}
    assert (await pilot.ask("DELETE", A))[0] == 404


async def test_who_is_not_up_yet_says_so(pilot: Pilot) -> None:
    await pilot.ask("PUT", A, HERE | {"state": "STARTING"})
    assert (await pilot.ask("GET", "/v1/services/orders"))[1]["instances"][0]["state"] == "STARTING"
    assert (await pilot.ask("PUT", A, HERE | {"state": "UP"}))[1]["epoch"] == 1
    assert (await pilot.ask("GET", "/v1/services/orders"))[1]["instances"][0]["state"] == "UP"


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("PUT", A, HERE | {"epoch": 1}),
        ("PUT", A, {"address": "10.0.0.3:80", "epoch": 2}),
        ("POST", f"{A}/drain", {"epoch": 1}),
        ("DELETE", A, {"epoch": 1}),
    ],
)
async def test_an_older_life_is_refused_and_told_which_epoch_would_do(
    pilot: Pilot, method: str, target: str, body: object
) -> None:
    await pilot.ask("PUT", A, {"address": "10.0.0.2:80", "epoch": 2})
    before = (await pilot.ask("GET", "/v1/services"))[1]["services"]
    status, said = await pilot.ask(method, target, body)
    assert status == 409
    assert "epoch 2 at 10.0.0.2:80 is in force" in said["error"]
    assert "epoch 3 or greater" in said["hint"]
    assert (await pilot.ask("GET", "/v1/services"))[1]["services"] == before


async def test_who_has_left_is_told_so(pilot: Pilot) -> None:
    await pilot.ask("PUT", A, HERE | {"epoch": 4})
    await pilot.ask("DELETE", A, {"epoch": 4})
    status, said = await pilot.ask("PUT", A, HERE | {"epoch": 4})
    assert (status, "epoch 4 has left" in said["error"]) == (409, True)
    assert (await pilot.ask("PUT", A, HERE))[1]["epoch"] == 5


async def test_a_watch_answers_when_something_changes_and_says_from_where_to_go_on(pilot: Pilot) -> None:
    revision = (await pilot.ask("GET", "/v1/services"))[1]["revision"]
    answers: list[tuple[int, Any]] = []

    async def watch(target: str) -> None:
        answers.append(await pilot.ask("GET", target))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, f"/v1/watch?after={revision}&service=orders&service=stock")
            await trio.testing.wait_all_tasks_blocked()
            await pilot.ask("PUT", "/v1/instances/other/x", HERE)
            assert answers == []
            await pilot.ask("PUT", A, HERE)
    ((status, said),) = answers
    assert (status, list(said["services"])) == (200, ["orders"])
    status, later = await pilot.ask("GET", f"/v1/watch?after={said['revision']}&wait=10ms")
    assert (status, later) == (200, {"revision": said["revision"], "services": {}})


@pytest.mark.parametrize("query", ["", "?after=5", "?after=99999999999999999&wait=1ms"])
async def test_a_watch_from_nowhere_is_410(pilot: Pilot, query: str) -> None:
    status, said = await pilot.ask("GET", f"/v1/watch{query}")
    assert (status, "/v1/services" in said["hint"]) == (410, True)


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("PUT", A, None, 400),
        ("PUT", A, b"{", 400),
        ("PUT", A, [], 400),
        ("PUT", A, {"address": "10.0.0.1"}, 400),
        ("PUT", A, HERE | {"port": 0}, 400),
        ("PUT", A, HERE | {"epoch": 0}, 400),
        ("PUT", A, HERE | {"epoch": 1 << 63}, 400),
        ("PUT", A, HERE | {"ttl": "0s"}, 400),
        ("PUT", A, HERE | {"ttl": "1 week"}, 400),
        ("PUT", A, HERE | {"state": "ASLEEP"}, 400),
        ("PUT", A, HERE | {"weight": 5}, 400),
        ("PUT", A, HERE | {"metadata": {f"k{n}": "v" for n in range(17)}}, 400),
        ("PUT", A, HERE | {"metadata": {"k": "v" * 257}}, 400),
        ("PUT", "/v1/instances/Orders/a", HERE, 400),
        ("PUT", "/v1/instances/orders/%00", HERE, 400),
        ("PUT", "/v1/instances/orders/..%2Fx", HERE, 400),
        ("POST", f"{A}/drain", {}, 400),
        ("POST", f"{A}/drain", {"epoch": 1}, 404),
        ("DELETE", f"{A}?epoch=one", None, 400),
        ("GET", "/v1/watch?after=one", None, 400),
        ("GET", "/v1/watch?after=1&wait=soon", None, 400),
        ("PATCH", A, HERE, 405),
        ("GET", f"{A}/drain", None, 405),
        ("POST", "/v1/services", None, 405),
        ("GET", "/v2/services", None, 404),
        ("GET", "/", None, 404),
    ],
)
async def test_what_is_wrong_is_said_and_changes_nothing(
    pilot: Pilot, method: str, target: str, body: object, status: int
) -> None:
    got, said = await pilot.ask(method, target, body)
    assert got == status, said
    assert said["error"]
    assert (await pilot.ask("GET", "/v1/status"))[1]["instances"] == 0


async def test_status_and_metrics_are_there_to_be_read(pilot: Pilot) -> None:
    await pilot.ask("PUT", A, HERE)
    status, said = await pilot.ask("GET", "/v1/status")
    assert (status, said["states"]["UP"], said["requests"]) == (200, 1, {"register": {"created": 1}})
    answer = await pilot.api.handle(Request("GET", "/metrics", (("accept", "text/plain"),)))
    assert isinstance(answer, Response)
    assert b'pannier_pilot_instances{state="UP"} 1.0' in answer.body
    assert (await pilot.ask("POST", "/metrics"))[0] == 405


async def test_all_who_read_everything_share_one_body_until_it_changes(pilot: Pilot) -> None:
    async def body() -> bytes:
        answer = await pilot.api.handle(Request("GET", "/v1/services"))
        assert isinstance(answer, Response)
        return answer.body

    await pilot.ask("PUT", A, HERE)
    first = await body()
    assert await body() is first
    await pilot.ask("PUT", A, HERE | {"metadata": {"version": "2"}})
    assert b'"version":"2"' in await body()


async def test_another_kind_of_body_is_415(pilot: Pilot) -> None:
    assert (await pilot.ask("PUT", A, HERE, content_type="text/plain"))[0] == 415


@pytest.mark.parametrize("shown", ["", "Bearer wrong", "Bearer s3cre", "s3cret ", "Basic s3cret"])
async def test_over_tcp_a_change_needs_the_token_and_reading_does_not(pilot: Pilot, shown: str) -> None:
    api = Api(pilot.registry, pilot.streams, token="s3cret")
    for method, target, body in (("PUT", A, HERE), ("POST", f"{A}/drain", {"epoch": 1}), ("DELETE", A, None)):
        status, said = await pilot.ask(method, target, body, api=api, authorization=shown)
        assert (status, "token" in said["error"]) == (401, True)
    assert (await pilot.ask("GET", "/v1/services", api=api))[0] == 200
    assert (await pilot.ask("PUT", A, HERE, api=api, authorization="Bearer s3cret"))[0] == 201


@pytest.mark.parametrize("error", [Full("no room"), Unreachable("the store is down", hint="see df")])
async def test_what_cannot_be_done_now_is_503(pilot: Pilot, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def refuse(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(pilot.registry, "register", refuse)
    assert (await pilot.ask("PUT", A, HERE))[0] == 503
