"""The local API over a real socket, with the standard library's idea of HTTP on the other side."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from pannier.shared.endpoints import Sources
from pannier.shared.http_server import serve_http
from pannier.shared.unix import connect_unix, listen_unix
from pannier.sidecars.discovery.api import Api
from pannier.sidecars.discovery.catalogue import Catalogue
from pannier.sidecars.discovery.health import Thresholds
from pannier.sidecars.discovery.table import Table


@dataclass
class Client:
    path: Path
    catalogue: Catalogue
    changes: list[float] = field(default_factory=list)

    async def ask(
        self, method: str, target: str, body: object = None, *, kind: str = "application/json"
    ) -> tuple[int, dict[str, object]]:
        """One request on its own connection: status and decoded body."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        if body is not None:
            head += f"content-type: {kind}\r\ncontent-length: {len(data)}\r\n"
        async with await connect_unix(self.path) as stream:
            await stream.send_all(head.encode() + b"\r\n" + data)
            answer = b"".join([bytes(part) async for part in stream])
        top, _, rest = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), json.loads(rest) if rest else {}


@pytest.fixture
async def client(short_path: Path, nursery: trio.Nursery) -> AsyncIterator[Client]:
    catalogue = Catalogue({}, Thresholds(), Table(), trio.current_time())
    client = Client(short_path / "api.sock", catalogue)
    api = Api(
        catalogue.leases,
        lambda: catalogue.services(catalogue.table()),
        endpoints=lambda: catalogue.endpoints(catalogue.table()),
        sources=lambda: Sources([]),
        changed=lambda: client.changes.append(trio.current_time()),
        touched=lambda _: None,
        clock=trio.current_time,
        ttl=10,
    )
    nursery.start_soon(serve_http, listen_unix(client.path), api.handle)
    return client


INSTANCE = "/v1/instances/orders/o-1"


async def test_register_look_renew_leave(client: Client) -> None:
    status, answer = await client.ask("PUT", INSTANCE, {"address": "127.0.0.1", "port": 8001, "metadata": {"a": "b"}})
    assert (status, answer) == (
        201,
        {
            "service": "orders",
            "id": "o-1",
            "address": "127.0.0.1:8001",
            "epoch": 1,
            "ttl_s": 10.0,
            "renew_s": pytest.approx(10 / 3),
        },
    )
    assert len(client.changes) == 1
    row = {"id": "o-1", "address": "127.0.0.1:8001", "state": "UP", "source": "lease"}
    assert await client.ask("GET", "/v1/services") == (200, {"clusters": [{"name": "orders", "endpoints": [row]}]})
    assert await client.ask("GET", "/v1/services/orders") == (200, {"name": "orders", "endpoints": [row]})
    status, answer = await client.ask("PUT", INSTANCE, {"address": "127.0.0.1:8001", "metadata": {"a": "b"}})
    assert (status, answer["epoch"]) == (200, 1)
    assert len(client.changes) == 1
    assert await client.ask("DELETE", INSTANCE) == (200, {"service": "orders", "id": "o-1", "removed": True})
    assert await client.ask("GET", "/v1/services/orders") == (200, {"name": "orders", "endpoints": []})
    assert (await client.ask("DELETE", INSTANCE))[0] == 404


async def test_who_drains_says_which_life_and_stands_so_until_it_says_otherwise(client: Client) -> None:
    body = {"address": "127.0.0.1:8001", "metadata": {"zone": "a"}}
    assert (await client.ask("PUT", INSTANCE, body | {"epoch": 3, "state": "STARTING"}))[0] == 201
    assert (await client.ask("PUT", INSTANCE, body | {"state": "UP"}))[1]["epoch"] == 3
    for said, status in (({"epoch": 2}, 409), ({"epoch": 4}, 404), (None, 400), ({"epoch": 3}, 200)):
        assert (await client.ask("POST", f"{INSTANCE}/drain", said))[0] == status
    assert (await client.ask("GET", f"{INSTANCE}/drain"))[0] == 405
    assert (await client.ask("PUT", INSTANCE, body))[0] == 200
    _, found = await client.ask("GET", "/v1/endpoints")
    row = {"service": "orders", "id": "o-1", "address": "127.0.0.1:8001", "state": "DRAINING", "source": "lease"}
    more = {"epoch": 3, "weight": 1, "suspect": False, "metadata": {"zone": "a"}, "centrals": []}
    assert found == {"services": ["orders"], "endpoints": [row | more]}
    assert await client.ask("GET", "/v1/sources") == (200, {"sources": []})
    assert (await client.ask("PUT", "/v1/sources"))[0] == 405


async def test_a_new_address_is_a_new_incarnation(client: Client) -> None:
    await client.ask("PUT", INSTANCE, {"address": "127.0.0.1:8001"})
    assert (await client.ask("PUT", INSTANCE, {"address": "127.0.0.1:8002"}))[1]["epoch"] == 2


async def test_an_older_epoch_is_refused_and_told_which_would_do(client: Client) -> None:
    await client.ask("PUT", INSTANCE, {"address": "127.0.0.1:8001", "epoch": 5})
    for method, target, body in (
        ("PUT", INSTANCE, {"address": "127.0.0.1:8002", "epoch": 4}),
        ("PUT", INSTANCE, {"address": "127.0.0.1:8002", "epoch": 5}),
        ("DELETE", INSTANCE, {"epoch": 4}),
        ("DELETE", INSTANCE + "?epoch=4", None),
    ):
        status, answer = await client.ask(method, target, body)
        assert status == 409
        assert "127.0.0.1:8001 is in force" in str(answer["error"])
        assert "epoch 6 or greater" in str(answer["hint"])
    assert (await client.ask("DELETE", INSTANCE + "?epoch=5"))[0] == 200
    status, answer = await client.ask("PUT", INSTANCE, {"address": "127.0.0.1:8001", "epoch": 5})
    assert (status, "epoch 6" in str(answer["hint"])) == (409, True)


@pytest.mark.parametrize(
    ("body", "address", "ttl"),
    [
        ({"address": "::1", "port": 80}, "[::1]:80", 10),
        ({"address": "[::1]", "port": 80}, "[::1]:80", 10),
        ({"address": "unix:/run/app.sock"}, "unix:/run/app.sock", 10),
        ({"address": "host.example", "port": 80, "ttl": "1m30s"}, "host.example:80", 90),
        ({"address": "h:1", "ttl": 2.5}, "h:1", 2.5),
        ({"address": "h:1", "ttl": 30}, "h:1", 30),
    ],
)
async def test_addresses_and_ttls_as_people_write_them(client: Client, body, address: str, ttl: float) -> None:
    status, answer = await client.ask("PUT", INSTANCE, body)
    assert (status, answer["address"], answer["ttl_s"]) == (201, address, ttl)


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/", None, 404),
        ("GET", "/v1/services/unknown", None, 404),
        ("GET", "/v1/services/a/b", None, 404),
        ("POST", "/v1/services", {}, 405),
        ("GET", INSTANCE, None, 405),
        ("POST", INSTANCE, {}, 405),
        ("PUT", INSTANCE, None, 400),
        ("PUT", INSTANCE, b"{", 400),
        ("PUT", INSTANCE, b"\xff", 400),
        ("PUT", INSTANCE, b"[" * 60_000, 400),
        ("PUT", INSTANCE, {}, 400),
        ("PUT", INSTANCE, {"address": "127.0.0.1"}, 400),
        ("PUT", INSTANCE, {"address": "127.0.0.1", "port": 0}, 400),
        ("PUT", INSTANCE, {"address": "127.0.0.1", "port": 65536}, 400),
        ("PUT", INSTANCE, {"address": "a b", "port": 80}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "ttl": "0s"}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "ttl": "soon"}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "ttl": 1e9}, 400),
        ("PUT", INSTANCE, b'{"address": "h:1", "ttl": 1e999}', 400),
        ("PUT", INSTANCE, {"address": "h:1", "epoch": 0}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "epoch": 1 << 63}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "epoch": "1"}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "unknown": 1}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "metadata": {"k": 1}}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "metadata": {"k": "v" * 257}}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "metadata": {str(n): "" for n in range(17)}}, 400),
        ("PUT", INSTANCE, {"address": "h:1", "metadata": {"k": "v" * 70_000}}, 413),
        ("PUT", "/v1/instances/Bad_Name/o-1", {"address": "h:1"}, 400),
        ("PUT", "/v1/instances/orders/..", {"address": "h:1"}, 400),
        ("PUT", "/v1/instances/orders/a%2Fb", {"address": "h:1"}, 400),
        ("PUT", "/v1/instances/orders/" + "x" * 129, {"address": "h:1"}, 400),
        ("DELETE", INSTANCE, {"epoch": "x"}, 400),
        ("DELETE", INSTANCE + "?epoch=x", None, 400),
        ("DELETE", INSTANCE, {"epoch": 1}, 404),
    ],
)
async def test_what_is_wrong_is_said(client: Client, method: str, target: str, body: object, status: int) -> None:
    found, answer = await client.ask(method, target, body)
    assert found == status
    assert answer["error"]
    assert len(client.catalogue.leases) == 0


@pytest.mark.parametrize(("target", "body"), [("?epcoh=5", None), ("?epoch=", None), ("?epoch=5", {})])
async def test_who_leaves_is_not_misunderstood(client: Client, target: str, body: object) -> None:
    await client.ask("PUT", INSTANCE, {"address": "h:1", "epoch": 5})
    assert (await client.ask("DELETE", INSTANCE + target, body))[0] == 400
    assert len(client.catalogue.leases) == 1


async def test_a_body_that_is_no_json_or_does_not_fit_is_told_apart(client: Client) -> None:
    for body, error in ((b"", "is no JSON"), (b"{", "is no JSON"), ({"address": 5}, "does not fit: Expected `str`")):
        status, answer = await client.ask("PUT", INSTANCE, body)
        assert status == 400
        assert error in str(answer["error"])
        assert '"port": 8080' in str(answer["hint"])


async def test_another_kind_of_body_is_415(client: Client) -> None:
    assert (await client.ask("PUT", INSTANCE, b"address=h", kind="application/x-www-form-urlencoded"))[0] == 415
    assert (await client.ask("PUT", INSTANCE, {"address": "h:1"}, kind="application/json; charset=utf-8"))[0] == 201


async def test_a_full_house_is_503(client: Client) -> None:
    client.catalogue.leases._capacity = 1
    assert (await client.ask("PUT", INSTANCE, {"address": "h:1"}))[0] == 201
    assert (await client.ask("PUT", INSTANCE + "2", {"address": "h:2"}))[0] == 503
