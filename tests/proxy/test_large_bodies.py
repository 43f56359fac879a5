"""Large bodies of known length, which go through a pipe: whole, nobody else's, and cut off where they break off."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.proxy.origin import Origin, pattern
from tests.proxy.process import Proxy
from tests.proxy.wire import Ended, Wire, request


def send_length(size: int) -> Callable[[Origin, Wire], None]:
    """Answers each request with a body of known length, in odd pieces; that for /broken breaks off near its end."""

    def converse(origin: Origin, wire: Wire) -> None:
        body = pattern(size)
        while True:
            is_broken = origin.take(wire.read_request()).target == "/broken"
            end = size - 7 if is_broken else size
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for at in range(0, end, 77_777):
                wire.send(body[at : min(at + 77_777, end)])
            if is_broken:
                return

    return converse


@pytest.mark.parametrize("size", [40_000, 65_536, 300_001, 16 << 20], ids=str)
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_large_body_of_known_length_arrives_whole_and_leaves_the_connections_in_place(
    proxy: Proxy, start_origin: Callable[..., Origin], short_path: Path, size: int, unix: bool
) -> None:
    origin = start_origin(unix=short_path / "app") if unix else start_origin()
    proxy.publish_base(app=origin.address)
    origin.converse = send_length(size)
    with proxy.call() as caller:
        for _ in range(3):
            caller.send(request("/"))
            assert caller.read_answer().body == pattern(size)
    assert origin.connections == 1
    (series,) = proxy.wait_counted(3)
    assert series.response_bytes >= 3 * size


def test_callers_of_large_bodies_do_not_see_each_others(proxy: Proxy, origin: Origin) -> None:
    origin.converse = send_length(400_000)
    with ThreadPoolExecutor(16) as pool:
        bodies = pool.map(lambda _: proxy.fetch("/").body, range(64))
        assert {body == pattern(400_000) for body in bodies} == {True}


def test_a_large_body_that_breaks_off_ends_the_callers_connection_and_spoils_nobody_elses(
    proxy: Proxy, origin: Origin
) -> None:
    origin.converse = send_length(500_000)
    for _ in range(3):
        with proxy.call() as caller, pytest.raises((Ended, ConnectionError)):
            caller.send(request("/broken"))
            caller.read_answer()
        assert proxy.fetch("/").body == pattern(500_000)


def test_a_caller_that_leaves_a_large_body_spoils_nobody_elses(proxy: Proxy, origin: Origin) -> None:
    origin.converse = send_length(4 << 20)
    for _ in range(5):
        with proxy.call_narrow() as caller:
            caller.send(request("/"))
            caller.read_until(b"\r\n\r\n")
        assert proxy.fetch("/").body == pattern(4 << 20)
