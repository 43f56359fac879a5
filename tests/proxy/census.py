"""Who answers: origins that say their names, and counts of what they say."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from pannier import _native

from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import Message, answer, request

StartOrigin = Callable[..., Origin]


def named(origin: Origin, name: str) -> Origin:
    """The origin, which answers with its name from now on."""
    origin.answer = lambda _: answer(name.encode())
    return origin


def start_named(start_origin: StartOrigin, *names: str) -> list[Origin]:
    """An origin of each name."""
    return [named(start_origin(), name) for name in names]


def versions(**origins: Origin) -> list[dict[str, Any]]:
    """An endpoint for each origin, of the version that it is given as."""
    return [{"address": o.address, "metadata": {"version": version}} for version, o in origins.items()]


def call(proxy: Proxy, target: str = "/", *fields: str, host: str = "up", **rest: Any) -> Message:
    """The answer to one outbound request."""
    return proxy.fetch(target, *fields, host=host, outbound=True, **rest)


def who(proxy: Proxy, target: str = "/", *fields: str, **rest: Any) -> str:
    """Who answers one outbound request, which must be answered well."""
    got = call(proxy, target, *fields, **rest)
    assert got.status == 200, got
    return got.body.decode()


def spread(proxy: Proxy, requests: int | Iterable[bytes], host: str = "up") -> Counter[str]:
    """Who answers these outbound requests, or so many plain ones, each of which must be answered well."""
    counts: Counter[str] = Counter()
    with proxy.call(outbound=True) as caller:
        for one in [request(host=host)] * requests if isinstance(requests, int) else requests:
            caller.send(one)
            got = caller.read_answer()
            assert got.status == 200, got
            counts[got.body.decode()] += 1
    return counts


def refusal(got: Message) -> tuple[int, str | None]:
    """The status, and the reason if the answer is the proxy's own."""
    return got.status, got.get("x-pannier-reason")


def failures(proxy: Proxy, slot: int) -> int:
    """How many failures in a row are held against the endpoint in a slot; resilience must be there to hold them."""
    return _native.HotWords(proxy.fds["hot"]).read(slot, 1).failures


def dead_address() -> str:
    """An address that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
