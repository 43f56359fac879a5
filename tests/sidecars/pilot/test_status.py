"""What a pilot says of itself: its status, and the same as metrics."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
from pannier.shared.errors import Unreachable
from pannier.shared.instances import State
from pannier.sidecars.pilot.bridges.opening import Status as BridgeStatus
from pannier.sidecars.pilot.dns.server import Statistics as DnsStatus
from pannier.sidecars.pilot.documents.documents import Documents
from pannier.sidecars.pilot.documents.documents import Statistics as DocumentStatus
from pannier.sidecars.pilot.http.metrics import Exposition
from pannier.sidecars.pilot.http.status import Account, Status
from pannier.sidecars.pilot.registry.entries import Verdict
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.stream.stream import Streams
from pannier.sidecars.pilot.xds.service import Answers, ClientStatus, TypeStatus, XdsStatus
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.sidecars.pilot.test_registry import A, B, Rig, entry, following

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def account_of(rig: Rig) -> Account:
    account = Account(rig.registry, store="a file")
    account.parts["stream"] = Streams(rig.registry, Fanout(rig.registry), Documents(rig.store)).statistics
    return account


def values(account: Account) -> Values:
    body, _ = Exposition(account).render("text/plain")
    samples = (sample for family in parse_text(body.decode()) for sample in family.samples)
    return {
        (sample.name.removeprefix("pannier_pilot_"), tuple(sorted(sample.labels.items()))): sample.value
        for sample in samples
    }


async def test_status_counts_instances_by_state_and_requests_by_what_came_of_them(path: Path) -> None:
    async with following(path) as rig:
        account = account_of(rig)
        await rig.registry.register(A, entry(2))
        await rig.registry.register(B, entry(1), state=State.STARTING)
        await rig.registry.register(A, entry(2))
        await rig.registry.register(A, entry(1))
        await rig.registry.move(B, 1, State.DRAINING)
        await rig.registry.leave(("stock", "x"), None)
        await rig.caught_up()
        status = account.status()
        assert (status.instances, status.services, status.store) == (2, 1, "a file")
        assert status.states == {"STARTING": 0, "UP": 1, "DRAINING": 1, "DOWN": 0}
        assert status.requests == {
            "leave": {"unknown": 1},
            "move": {"changed": 1},
            "register": {"created": 2, "renewed": 1, "stale": 1},
        }
        assert status.lag_s == 0
        assert status.parts["stream"].connected == 0
        assert msgspec.json.decode(msgspec.json.encode(status), type=Status).states == status.states
        await rig.registry.leave(B, 1)
        await rig.caught_up()
        assert account.status().states["DRAINING"] == 0


async def test_a_store_that_takes_no_writes_is_said_until_it_does_again(path: Path) -> None:
    async with following(path) as rig:
        account = account_of(rig)
        rig.down = True
        with pytest.raises(Unreachable):
            await rig.registry.register(A, entry())
        assert account.status().trouble == "the store is down"
        assert account.status().requests == {"register": {"unreachable": 1}}
        assert values(account)["store_up", ()] == 0
        assert values(account)["store_errors_total", (("operation", "write"),)] == 1
        rig.down = False
        await rig.registry.register(A, entry())
        assert account.status().trouble == ""
        assert values(account)["store_up", ()] == 1


async def test_metrics_say_what_the_status_says_and_name_nobody(path: Path) -> None:
    async with following(path) as rig:
        account = account_of(rig)
        before = len(values(account))
        for key in (A, B, ("stock", "c")):
            await rig.registry.register(key, entry())
        assert (await rig.registry.register(A, entry(1, "10.0.0.9:80"))).verdict is Verdict.STALE
        await rig.caught_up()
        found = values(account)
        assert len(found) == before, "a series for each combination from the start, and none for who registers"
        assert found["instances", (("state", "UP"),)] == 3
        assert found["services", ()] == 2
        assert found["registrations_total", (("action", "register"), ("verdict", "stale"))] == 1
        assert found["registrations_total", (("action", "register"), ("verdict", "created"))] == 3
        assert found["revision", ()] == account.status().revision
        await rig.later(12)
        assert values(account)["suspects", ()] + values(account)["evictions_total", ()] == 3


def type_status(kind: str, *, error: str = "", waiting_s: float = 0.0) -> TypeStatus:
    return TypeStatus(kind, False, 1, "7", 9, 8, 1, 0, error, waiting_s)


CLIENTS = [
    ClientStatus("envoy-1", "10.0.0.1", "envoy", "delta", "production", 5.0, [type_status("cluster", waiting_s=0.5)]),
    ClientStatus(
        "envoy-2",
        "10.0.0.2",
        "envoy",
        "delta",
        "production",
        5.0,
        [type_status("cluster", waiting_s=2.5), type_status("routes", error="no such cluster")],
    ),
    ClientStatus("app-1", "10.0.0.3", "gRPC", "state-of-the-world", "production", 5.0, []),
]
XDS = XdsStatus(
    CLIENTS,
    4,
    30,
    28,
    1,
    {"asked": 1},
    {"db": ["unix:/s"]},
    {"cluster": Answers(20, 0), "routes": Answers(8, 1)},
)


async def test_parts_have_metrics_of_their_own_by_type_and_form_and_no_client(path: Path) -> None:
    async with following(path) as rig:
        account = account_of(rig)
        account.parts |= {"xds": lambda: XDS, "documents": lambda: DocumentStatus(3, 2, 9, 1, "")}
        found = values(account)
    assert {name: value for name, value in found.items() if name[0].startswith(("xds", "document"))} == {
        ("xds_clients", (("form", "delta"),)): 2,
        ("xds_clients", (("form", "state-of-the-world"),)): 1,
        ("xds_streams_total", ()): 4,
        ("xds_responses_total", ()): 30,
        ("xds_answers_total", (("type", "cluster"), ("verdict", "accepted"))): 20,
        ("xds_answers_total", (("type", "cluster"), ("verdict", "rejected"))): 0,
        ("xds_answers_total", (("type", "routes"), ("verdict", "accepted"))): 8,
        ("xds_answers_total", (("type", "routes"), ("verdict", "rejected"))): 1,
        ("xds_rejecting", (("type", "cluster"),)): 0,
        ("xds_rejecting", (("type", "routes"),)): 1,
        ("xds_unanswered_seconds", (("type", "cluster"),)): 2.5,
        ("xds_unanswered_seconds", (("type", "routes"),)): 0,
        ("xds_refused_total", (("reason", "asked"),)): 1,
        ("xds_left_out", ()): 1,
        ("documents", (("kind", "config"),)): 3,
        ("documents", (("kind", "policy"),)): 2,
        ("document_changes_total", (("verdict", "accepted"),)): 9,
        ("document_changes_total", (("verdict", "refused"),)): 1,
    }


BRIDGE = BridgeStatus(True, 4, 1, 2, 3, written=5)
PARTS: dict[str, Callable[[], object]] = {
    "xds": lambda: XDS,
    "documents": lambda: DocumentStatus(3, 2, 9, 1, ""),
    "bridge zookeeper://10.0.0.1": lambda: BRIDGE,
    "dns 127.0.0.1:53": lambda: DnsStatus(7, 1, 0, 0, 2),
    "dns [::1]:53": lambda: DnsStatus(1, 0, 0, 0, 0),
}


async def test_bridges_are_told_apart_and_questions_over_dns_are_not(path: Path) -> None:
    async with following(path) as rig:
        account = account_of(rig)
        account.parts |= PARTS
        found = values(account)
    label = ("bridge", "zookeeper://10.0.0.1")
    assert found["bridge_up", (label,)] == 1
    assert [found["bridge_instances", (label, ("direction", way))] for way in ("in", "out")] == [4, 5]
    assert found["bridge_events_total", (label, ("reason", "doubted"))] == 2
    assert found["dns_questions_total", (("verdict", "answered"),)] == 8
    assert found["dns_questions_total", (("verdict", "cut"),)] == 2


async def test_promtool_has_nothing_to_say(path: Path, require_peer: Callable[[str], str]) -> None:
    promtool = require_peer("promtool")
    async with following(path) as rig:
        account = account_of(rig)
        account.parts |= PARTS
        exposition = Exposition(account)
    body, kind = exposition.render("text/plain")
    assert kind.startswith("text/plain")
    checked = await trio.run_process(
        [promtool, "check", "metrics"], stdin=body, capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, b"")
    body, kind = exposition.render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert len(list(parse_open(body.decode()))) > 10
