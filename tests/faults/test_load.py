"""The load and its origin, with nothing of Pannier between them: a fault that happens must be seen."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults import origin
from tests.faults.ledger import Ledger, faults
from tests.faults.load import Flow, Load
from tests.faults.verdict import Trial, void, weigh
from tests.faults.victims import Victims, kill
from tests.faults.waiting import pause, wait_until
from tests.proxy.wire import Wire, request
from tests.system.host import free_port

GET, POST = Flow("GET", rate=100, connections=4), Flow("POST", rate=50, connections=4)
SECONDS = 0.6


class Server:
    """An origin of its own process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.ledger = Ledger(folder)
        self.body = folder / "body"
        self.body.write_bytes(origin.BODY)
        words = [sys.executable, str(Path(origin.__file__)), str(self.port), str(folder), "7"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        wait_until(self.answers, "the origin answers", within=10)

    def answers(self) -> bool:
        with suppress(ConnectionRefusedError), self.call() as wire:
            wire.send(request("/probe"))
            return wire.read_answer().status == 200
        return False

    def call(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port)))

    def load(self, tag: str) -> Load:
        return Load((GET, POST), f"127.0.0.1:{self.port}", "orders", seconds=SECONDS, tag=tag, body=self.body)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.process.kill()
    server.process.wait()


def test_a_load_with_nothing_broken_is_clean_and_in_the_ledger(server: Server) -> None:
    with server.load("clean") as load:
        counts = load.wait()
    assert void(counts, SECONDS) == ""
    assert {name: (found.due, found.answered) for name, found in counts.items()} == {"get": (60, 60), "post": (30, 30)}
    for flow in load.flows:
        seen = server.ledger.seen(load.path(flow))
        assert sorted(seen) == list(range(counts[flow.name].due))
        assert faults(seen, answered=counts[flow.name].answered, idempotent=False) == []


def test_an_origin_that_fails_is_seen(server: Server) -> None:
    (server.folder / "fail").touch()
    with server.load("failing") as load:
        counts = load.wait()
    assert [found.errors for found in counts.values()] == [60, 30]
    assert "503" in counts["get"].first_error
    assert void(counts, SECONDS)


def test_an_origin_that_dies_is_seen(server: Server) -> None:
    with server.load("dying") as load:
        pause(SECONDS / 3)
        kill([server.process.pid])
        server.process.wait()
        counts = load.wait()
    trial = Trial(0)
    weigh(trial, counts, forgiven=GET.connections + POST.connections)
    assert "refused" in trial.broken[0]


def test_an_origin_that_hangs_is_seen_when_it_goes_on(server: Server) -> None:
    with Victims([server.process.pid]) as victims, server.load("hanging") as load:
        pause(SECONDS / 3)
        victims.send(signal.SIGSTOP)
        pause(2.3)
        victims.send(signal.SIGCONT)
        counts = load.wait()
    assert counts["get"].late > 10
    assert counts["get"].unsent == 0, "a schedule is kept, however late"


def test_what_an_origin_refuses_at_first_it_answers_later(server: Server) -> None:
    def status(*fields: str) -> int:
        with server.call() as wire:
            wire.send(request("/a", *fields))
            return wire.read_answer().status

    routed = "x-faults: routed"
    assert [status("x-bench-number: 57", routed) for _ in range(2)] == [503, 200]
    assert status("x-bench-number: 107") == 200
    assert status("x-bench-number: 8", routed) == 200
    assert server.ledger.seen("/a") == {57: 2, 107: 1, 8: 1}


def test_nobody_is_struck_who_is_gone(server: Server) -> None:
    with Victims([server.process.pid]) as victims:
        assert not victims.gone()
        kill([server.process.pid])
        server.process.wait()
        assert victims.gone()
        kill([server.process.pid])
