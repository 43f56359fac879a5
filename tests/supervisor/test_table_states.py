"""Where tables stand, looked at in real memory: also in what is damaged, and without writing anything."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgpack
import pytest
from pannier import _native
from pannier.supervisor.tables import TableState, table_states

ROUTES = msgpack.packb({"zone": None, "services": {}, "rules": []})


@pytest.fixture
def memory() -> Iterator[dict[str, int]]:
    descriptors = {}
    for name in ("table.routes", "table.limits", "counters"):
        descriptors[name] = os.memfd_create(name)
        os.truncate(descriptors[name], _native.SEGMENTS[name])
        _native.initialise(name, descriptors[name])
    yield descriptors
    for descriptor in descriptors.values():
        os.close(descriptor)


def states(memory: dict[str, int], now_ms: int = 0) -> dict[str, TableState]:
    return {each.kind: each for each in table_states(memory, now_ms)}


def test_a_table_says_who_wrote_it_and_how_often(memory: dict[str, int]) -> None:
    assert states(memory) == {kind: TableState(kind, 0, True, None) for kind in ("routes", "limits")}
    _native.TableWriter("routes", memory["table.routes"]).publish(ROUTES)
    second = _native.TableWriter("routes", memory["table.routes"])
    generation = second.publish(ROUTES)
    found = states(memory)["routes"]
    assert (found.generation, found.epoch, found.writer_pid) == (generation, 2, os.getpid())
    assert (found.length, found.intact, found.absent, found.in_force) == (len(ROUTES), True, False, None)
    second.withdraw()
    assert (states(memory)["routes"].absent, states(memory)["routes"].length) == (True, 0)
    assert states(memory)["limits"].generation == 0


def test_its_age_is_that_of_the_last_heartbeat(memory: dict[str, int]) -> None:
    _native.TableWriter("routes", memory["table.routes"]).publish(ROUTES)
    _, beat = _native.TableReader("routes", memory["table.routes"]).writer()
    assert states(memory, beat + 2500)["routes"].age_s == 2.5
    assert states(memory, beat - 10)["routes"].age_s == 0.0, "clocks are set back"


def test_a_damaged_table_is_said_and_hides_no_other(memory: dict[str, int]) -> None:
    _native.TableWriter("routes", memory["table.routes"]).publish(ROUTES)
    content = os.pread(memory["table.routes"], 1 << 26, 0)
    at = content.index(ROUTES)
    os.pwrite(memory["table.routes"], bytes([content[at] ^ 1]), at)
    found = states(memory)
    assert (found["routes"].intact, found["routes"].absent, found["limits"].intact) == (False, False, True)
