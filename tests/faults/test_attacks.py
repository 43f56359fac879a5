"""The attacker, his toll and the tables of attacks, against a peer of which everything is known."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.attacker import Crowd, Toll, forwarded, say
from tests.faults.attacks import BOMBS, FRAMING, INJECTIONS, LEGITIMATE, pack
from tests.faults.trend import trend

REFUSAL = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"


@contextmanager
def peer(answer: bytes, *, linger: bool = False) -> Iterator[str]:
    """Reads once, answers, and ends the connection, unless it lingers."""
    kept: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(1 << 16)
            connection.sendall(answer)
            kept.append(connection)
            if not linger:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def test_what_is_said_and_heard_is_counted() -> None:
    toll = Toll()
    with peer(REFUSAL) as address:
        reply = say(address, b"x" * 10, toll)
    assert (reply.statuses, reply.ended) == ([400], True)
    assert (toll.sent, toll.received, toll.amplification) == (10, len(REFUSAL), len(REFUSAL) / 10)


def test_a_connection_that_is_not_ended_is_seen() -> None:
    with peer(REFUSAL * 2, linger=True) as address:
        reply = say(address, b"x", Toll(), timeout=0.1)
    assert (reply.statuses, reply.ended) == ([400, 400], False)


def test_a_crowd_hears_each_of_its_connections() -> None:
    with peer(REFUSAL) as address, Crowd(address, 3) as crowd:
        assert crowd.statuses() == [0, 0, 0]
        crowd.say(b"x")
        while crowd.alive():
            crowd.listen()
        assert crowd.statuses() == [400, 400, 400]
        assert (crowd.toll.sent, crowd.toll.received) == (3, 3 * len(REFUSAL))


def test_what_an_attack_made_origins_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "1.attacks").write_text("/a 100\n/b 7\n/a 50\n")
    (tmp_path / "2.attacks").write_text("/a 1\n")
    assert forwarded(tmp_path, "/a") == (3, 151)
    assert forwarded(tmp_path, "/c") == (0, 0)


def test_attacks_are_told_apart_and_have_the_size_they_claim() -> None:
    for table in (FRAMING, BOMBS, LEGITIMATE, INJECTIONS):
        assert len({case.name for case in table}) == len({case.data for case in table}) == len(table)
    line = len(b"GET /victim HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert len(pack(61, 1024)) == 61 * 1024 + line


@pytest.mark.parametrize(
    ("values", "per_hour", "grown"), [([5, 5, 5], 0, 0), ([1, 2, 3], 3600, 2), ([3, 1, 3, 1], -1440, -1.2)]
)
def test_a_trend_is_the_line_through_all_samples(values: list[float], per_hour: float, grown: float) -> None:
    found = trend([(float(at), value) for at, value in enumerate(values)])
    assert (found.per_hour, found.grown) == pytest.approx((per_hour, grown))
    with pytest.raises(ValueError, match="two moments"):
        trend([(1.0, 2.0)])
