"""Several workers, callers on TCP and on Unix sockets: who takes a connection, what a death costs, what is counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.proxy.census import call, named
from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy, wait_until
from tests.proxy.wire import Wire, answer, request

CALLERS = 64
Call = Callable[..., Wire]
CALLS = {"tcp": Proxy.call, "unix": Proxy.call_unix}


@pytest.fixture(params=CALLS)
def call_by(request: pytest.FixtureRequest) -> Call:
    """How a caller of a proxy connects."""
    found: Call = CALLS[request.param]
    return found


@pytest.fixture
def two(start_proxy: StartProxy) -> Proxy:
    """A proxy of two workers."""
    return start_proxy(workers=2, unix=True)


@pytest.fixture
def callers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def watched(pid: int) -> list[int]:
    """How many descriptors each reactor of the process watches, fewest first."""
    found = set()
    # Each worker has a table of its own.
    for entry in Path(f"/proc/{pid}/task").glob("*/fd/*"):
        with suppress(OSError):
            if os.readlink(entry) == "anon_inode:[eventpoll]":
                lines = (entry.parent.parent / "fdinfo" / entry.name).read_text().splitlines()
                found.add(frozenset(line.split()[1] for line in lines if line.startswith("tfd:")))
    return sorted(len(each) for each in found)


def accepted(proxy: Proxy) -> int:
    return proxy.totals("connections_accepted")


def test_both_workers_accept_and_every_caller_is_answered_and_counted(
    two: Proxy, callers: ExitStack, call_by: Call
) -> None:
    before = watched(two.pid)
    wires = []
    for number in range(1, CALLERS + 1):
        wires.append(callers.enter_context(call_by(two)))
        wait_until(lambda: accepted(two) == number)  # noqa: B023
    taken = [after - at for at, after in zip(before, watched(two.pid), strict=True)]
    assert (len(taken), sum(taken)) == (2, CALLERS)
    assert min(taken) > 0, taken
    for wire in wires:
        wire.send(request())
    assert [wire.read_answer().body for wire in wires] == [b"hello"] * CALLERS
    assert sum(series.count for series in two.wait_counted(CALLERS)) == CALLERS


def test_who_comes_while_the_proxy_is_dead_is_answered_by_the_next_and_totals_go_on(
    two: Proxy, callers: ExitStack, call_by: Call
) -> None:
    for _ in range(CALLERS):
        with call_by(two) as wire:
            wire.send(request())
            assert wire.read_answer().status == 200
    two.wait_counted(CALLERS)
    two.kill()
    wires = [callers.enter_context(call_by(two)) for _ in range(CALLERS)]
    for wire in wires:
        wire.send(request())
    two.start()
    assert {wire.read_answer().status for wire in wires} == {200}
    assert sum(series.count for series in two.wait_counted(2 * CALLERS)) == 2 * CALLERS
    assert accepted(two) == 2 * CALLERS
    two.kill()
    assert two.requests_counted() == 2 * CALLERS, "what the dead have counted stays"


def test_both_legs_may_be_unix_sockets_on_either_side(
    start_proxy: StartProxy, start_origin: Callable[..., Origin], short_path: Path
) -> None:
    app = named(start_origin(unix=short_path / "app.sock"), "app")
    other = named(start_origin(unix=short_path / "other.sock"), "other")
    clusters = [{"name": "up", "endpoints": [{"address": other.address}]}]
    proxy = start_proxy(unix=True, app=app.address, clusters=clusters)
    for outbound, host, name in ((False, "localhost", b"app"), (True, "up", b"other")):
        with proxy.call_unix(outbound=outbound) as wire:
            wire.send(request(host=host) * 3)
            assert [wire.read_answer().body for _ in range(3)] == [name] * 3
    assert call(proxy).body == b"other", "and the TCP listener beside it serves, too"


def test_a_body_crosses_a_unix_socket_in_both_directions(start_proxy: StartProxy, origin: Origin) -> None:
    origin.answer = lambda asked: answer(asked.body[::-1])
    proxy = start_proxy(unix=True)
    body = os.urandom(1 << 20)
    with proxy.call_unix() as wire:
        wire.send(request(method="POST", body=body))
        assert wire.read_answer().body == body[::-1]
        wire.finish()
        assert wire.has_ended()


def test_a_caller_on_a_unix_socket_that_hangs_up_is_noticed(start_proxy: StartProxy, origin: Origin) -> None:
    proxy = start_proxy(unix=True)
    with proxy.call_unix() as wire:
        wire.send(request("/", "Content-Length: 10", method="POST") + b"half")
        origin.wait(lambda: origin.connections == 1)
    origin.wait(lambda: origin.ended == 1)
    (series,) = proxy.wait_counted(1)
    assert (series.status, series.flag) == (0, "DC")
