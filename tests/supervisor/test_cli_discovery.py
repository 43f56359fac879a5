"""`pannier discovery` and `pannier pilot status` over real servers: the local API of a discovery, and a pilot's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from pannier.shared.endpoints import Endpoint, Endpoints, Source, Sources
from pannier.shared.http_server import Limits, serve_http
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.shared.unix import listen_unix
from pannier.sidecars.discovery.api import Api as LocalApi
from pannier.sidecars.discovery.catalogue import Catalogue
from pannier.sidecars.discovery.health import Thresholds
from pannier.sidecars.discovery.table import Table
from pannier.sidecars.pilot.bridges.opening import Status as BridgeStatus
from pannier.sidecars.pilot.documents.documents import Documents
from pannier.sidecars.pilot.http.api import Api as PilotApi
from pannier.sidecars.pilot.http.status import Account, Status
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.registry.peers import Peer
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stream.stream import Streams
from pannier.supervisor.cli import main as cli
from pannier.supervisor.cli.discovery import ServiceRow, by_service
from pannier.supervisor.cli.pilot_status import overview, tables

TOKEN = "a-token-of-the-pilot"
SOURCES = [Source("lease", "/a/socket", 1), Source("file", "/a/file", 0, "line 3: no such thing")]

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def pannier(
    broker: object, short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command in a runtime folder where a supervisor of `orders` answers; its exit code and what it printed."""
    runtime = short_path / "run"
    (runtime / "orders").mkdir(parents=True, mode=0o700)
    runtime.chmod(0o700)
    (runtime / "orders" / "bus.sock").symlink_to(short_path / "bus.sock")
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("PANNIER_PILOT", raising=False)

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        return int(caught.value.code or 0)

    async def call(*arguments: str) -> tuple[int, str, str]:
        with trio.fail_after(20):
            code = await trio.to_thread.run_sync(partial(run, *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
async def local(pannier: Run, short_path: Path, nursery: trio.Nursery) -> Catalogue:
    """What the discovery of `orders` knows, which answers on its socket."""
    written = {"stock": (StaticEndpoint("127.0.0.1:9001", weight=3, metadata={"version": "1", "zone": "a"}),)}
    catalogue = Catalogue(written, Thresholds(), Table(), trio.current_time())
    api = LocalApi(
        catalogue.leases,
        lambda: catalogue.services(catalogue.table()),
        endpoints=lambda: catalogue.endpoints(catalogue.table()),
        sources=lambda: Sources(SOURCES),
        changed=lambda: None,
        touched=lambda _: None,
        clock=trio.current_time,
        ttl=10,
    )
    nursery.start_soon(serve_http, listen_unix(short_path / "run" / "orders" / "api.sock"), api.handle)
    return catalogue


@asynccontextmanager
async def running_pilot(short_path: Path) -> AsyncIterator[int]:
    """A pilot on `pilot.sock`, and on a TCP port, where changes need the token."""
    async with open_sqlite(short_path / "store") as store, trio.open_nursery() as nursery:
        registry = Registry(store)
        await nursery.start(registry.follow)
        fanout = Fanout(registry)
        streams = Streams(registry, fanout, Documents(store))
        account = Account(registry, store="a file")
        account.parts["stream"] = streams.statistics
        account.parts["bridge file:/a"] = lambda: BridgeStatus(False, 3, 0, 0, 0)
        api = partial(PilotApi, registry, streams, account=account)
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        unix = listen_unix(short_path / "run" / "pilot.sock")
        nursery.start_soon(fanout.run)
        nursery.start_soon(partial(serve_http, limits=Limits()), unix, api().handle)
        nursery.start_soon(serve_http, tcp, api(token=TOKEN).handle)
        yield tcp.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture
async def pilot(pannier: Run, short_path: Path) -> AsyncIterator[int]:
    async with running_pilot(short_path) as port:
        yield port


@pytest.mark.parametrize("whom", [(), ("--pilot",)], ids=["beside a service", "a pilot"])
async def test_what_goes_by_way_of_a_central_is_said_of_the_instance(
    pannier: Run, local: Catalogue, pilot: int, whom: tuple[str, ...]
) -> None:
    words = ("discovery", "register", "db")
    assert (await pannier(*words, "one", "10.0.0.1:5432", *whom))[0] == 0
    assert (await pannier(*words, "two", "10.0.0.2:5432", *whom))[0] == 0
    metadata = ("--metadata", "pannier-central-of=one", "--metadata", "pannier-central-weight=12.5")
    assert (await pannier(*words, "one.central", "10.77.0.2:15090", *metadata, *whom))[0] == 0
    _, out, _ = await pannier("discovery", "endpoints", "db", *whom)
    heading, *rows = out.splitlines()
    assert heading.endswith("BY WAY OF A CENTRAL")
    assert [(row.split()[1], row.partition(" no ")[2].strip()) for row in rows] == [
        ("one", "12.5 % by 10.77.0.2:15090"),
        ("two", "-"),
    ]
    _, out, _ = await pannier("discovery", "services", "-o", "json", *whom)
    assert [row["up"] for row in json.loads(out) if row["service"] == "db"] == [2]


async def test_services_endpoints_and_stores_of_the_discovery_beside_a_service(pannier: Run, local: Catalogue) -> None:
    code, out, err = await pannier("discovery", "register", "db", "one", "10.0.0.1:5432", "--metadata", "zone=b")
    assert (code, out) == (0, "")
    assert "db/one at 10.0.0.1:5432 is registered with epoch 1" in err
    assert "renew it within 10 s" in err
    assert (await pannier("discovery", "register", "db", "two", "10.0.0.2:5432", "--state", "DOWN"))[0] == 0
    code, out, _ = await pannier("discovery", "services")
    assert [line.split() for line in out.splitlines()] == [
        ["SERVICE", "UP", "OTHER", "SUSPECT", "SOURCES"],
        ["db", "1", "1", "0", "lease"],
        ["stock", "1", "0", "0", "file"],
    ]
    code, out, _ = await pannier("discovery", "endpoints")
    assert [line.split() for line in out.splitlines()] == [
        ["SERVICE", "ID", "ADDRESS", "STATE", "SOURCE", "EPOCH", "ZONE", "VERSION", "WEIGHT", "SUSPECT"],
        ["db", "one", "10.0.0.1:5432", "UP", "lease", "1", "b", "-", "1", "no"],
        ["db", "two", "10.0.0.2:5432", "DOWN", "lease", "1", "-", "-", "1", "no"],
        ["stock", "127.0.0.1:9001", "127.0.0.1:9001", "UP", "file", "-", "a", "1", "3", "no"],
    ]
    _, out, _ = await pannier("discovery", "endpoints", "stock", "-o", "json")
    assert [(row["id"], row["metadata"]) for row in json.loads(out)] == [
        ("127.0.0.1:9001", {"version": "1", "zone": "a"})
    ]
    _, out, _ = await pannier("discovery", "stores")
    assert out.splitlines()[1].split() == ["lease", "/a/socket", "1", "none"]
    assert out.splitlines()[2].endswith("line 3: no such thing")
    code, _, err = await pannier("discovery", "endpoints", "stok")
    assert (code, "did you mean stock?" in err) == (2, True)


@pytest.mark.parametrize("where", [(), ("--pilot",)])
async def test_a_life_drains_and_ends_and_an_older_one_changes_nothing(
    pannier: Run, local: Catalogue, pilot: int, where: tuple[str, ...]
) -> None:
    async def state() -> list[str]:
        _, out, _ = await pannier("discovery", "endpoints", "-o", "json", *where)
        return [f"{row['state']} {row['epoch']}" for row in json.loads(out) if row["service"] == "db"]

    db = ("db", "one")
    assert (await pannier("discovery", "register", *db, "h:1", "--epoch", "4", *where))[0] == 0
    _, out, _ = await pannier("discovery", "register", *db, "h:2", "-o", "json", *where)
    assert json.loads(out)["epoch"] == 5
    for words in (("register", *db, "h:1"), ("drain", *db), ("deregister", *db)):
        code, _, err = await pannier("discovery", *words, "--epoch", "4", *where)
        assert (code, "epoch 5 at h:2 is in force" in err, "leave --epoch out" in err) == (1, True, True)
    assert await state() == ["UP 5"]
    assert (await pannier("discovery", "drain", *db, *where))[2] == "db/one drains (epoch 5)\n"
    assert await state() == ["DRAINING 5"]
    assert (await pannier("discovery", "deregister", *db, *where))[2] == "db/one is deregistered\n"
    assert await state() == []
    assert (await pannier("discovery", "deregister", *db, *where))[0] == 1
    code, _, err = await pannier("discovery", "drain", *db, *where)
    assert (code, "no instance one of db is registered" in err) == (2, True)


async def test_over_tcp_a_change_takes_the_token_along(
    pannier: Run, pilot: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    at = f"http://127.0.0.1:{pilot}"
    register = ("discovery", "register", "db", "one", "h:1", "--pilot", at)
    code, _, err = await pannier(*register)
    assert (code, "--token-file FILE" in err) == (1, True)
    assert (await pannier(*register, "--token-file", str(token)))[0] == 0
    assert (await pannier(*register, "--token-file", str(tmp_path / "none")))[0] == 2
    own = tmp_path / "state" / "pilot"
    own.mkdir(parents=True)
    (tmp_path / "state").chmod(0o700)
    (own / "token").write_text(TOKEN)
    monkeypatch.setenv("PANNIER_PILOT", at)
    assert (await pannier("discovery", "deregister", "db", "one", "--pilot"))[0] == 0


async def test_pilot_status_says_how_it_stands_and_whom_it_serves(pannier: Run, pilot: int) -> None:
    assert (await pannier("discovery", "register", "db", "one", "h:1", "--pilot"))[0] == 0
    code, out, _ = await pannier("pilot", "status")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"store a file", "trouble none", "register requests 1 created"} <= {*lines}
    assert "instances 1 in 1 services: 1 UP" in lines
    assert lines[lines.index("stream") + 1].startswith("CONNECTED FOLLOWING")
    _, out, _ = await pannier("pilot", "status", "-o", "json", "--pilot", f"http://127.0.0.1:{pilot}")
    assert json.loads(out)["states"]["UP"] == 1
    code, _, err = await pannier("pilot", "--listen", "127.0.0.1:0", "status")
    assert (code, "for a pilot that starts" in err) == (2, True)


async def test_the_stores_of_a_pilot_are_its_own_and_those_to_which_it_has_bridges(pannier: Run, pilot: int) -> None:
    _, out, _ = await pannier("discovery", "stores", "--pilot")
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["store", "a", "file", "0", "none"],
        ["bridge", "file:/a", "3", "it", "does", "not", "answer"],
    ]
    _, out, _ = await pannier("pilot", "status")
    assert out.splitlines()[out.splitlines().index("bridge file:/a") + 2].split()[:2] == ["no", "3"]


async def test_who_is_not_there_is_named_with_the_next_step(pannier: Run, short_path: Path) -> None:
    code, _, err = await pannier("pilot", "status")
    assert (code, "start one: pannier pilot" in err) == (69, True)
    code, _, err = await pannier("discovery", "services")
    assert (code, "pannier sidecar add discovery --name orders" in err) == (4, True)
    code, _, err = await pannier("discovery", "register", "db", "one", "h:1")
    assert (code, "pannier sidecar add discovery --name orders" in err) == (4, True)
    for place in ("ftp://h:1", "http://h", "h:1"):
        assert (await pannier("discovery", "stores", "--pilot", place))[0] == 2
    assert (await pannier("discovery", "register", "db", "one", "h:1", "--metadata", "version"))[0] == 2


def test_a_service_of_whom_nobody_is_there_is_a_row() -> None:
    found = Endpoints(["b", "a"], [Endpoint("a", "1", "h:1", "UP", "pilot", suspect=True)])
    assert by_service(found) == [ServiceRow("a", 1, 0, 1, ["pilot"]), ServiceRow("b", 0, 0, 0, [])]


def test_a_status_of_another_version_is_shown_as_it_says() -> None:
    kinds = {"cds": {"acks": 3, "nacks": 0}, "eds": {"acks": 7, "nacks": 1, "error": "no such cluster"}}
    clients = [{"node": "envoy-1", "left_out": {"db": ["unix:/s"]}, "types": [{"type": "cds", "acks": 3}]}]
    bridges = [{"name": "zk", "trouble": ""}, {"name": "dns", "trouble": "refused"}]
    status = Status(
        7,
        1,
        2,
        True,
        "etcd is gone",
        blind=True,
        lag_s=1.25,
        peers=[Peer("p-1", True, 0.5, False), Peer("p-2", False, 12.0, True)],
        parts={
            "xds": {"sent": 2, "nodes": ["e1", "e2"], "types": kinds, "clients": clients},
            "bridges": bridges,
            "new": 3,
        },
    )
    said = dict(overview(status))
    assert (said["trouble"], said["waiting"][:9]) == ("etcd is gone", "for 1.2 s")
    assert {"preserving", "blind"} <= said.keys()
    assert [(title, list(map(list, rows))) for title, _, rows in tables(status)] == [
        ("pilots of this store", [["p-1", "this one", 0.5], ["p-2", "gone", 12.0]]),
        ("bridges", [["zk", None], ["dns", "refused"]]),
        ("new", [[3]]),
        ("xds", [[2, "e1, e2"]]),
        ("xds: types", [["cds", 3, 0, None], ["eds", 7, 1, "no such cluster"]]),
        ("xds: clients", [["envoy-1", "db: unix:/s", "cds", 3]]),
    ]
