"""A real proxy between real sockets: one process a test, since counters, tables and pools are the process's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.proxy.origin import Origin
from tests.proxy.process import Proxy


class StartProxy(Protocol):
    """Starts a proxy with these keys of the base table."""

    def __call__(self, *, workers: int = 1, unix: bool = False, **base: Any) -> Proxy: ...


@pytest.fixture
def start_origin() -> Iterator[Callable[..., Origin]]:
    """Starts origins that end with the test."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(closing(Origin(**how)))


@pytest.fixture
def origin(start_origin: Callable[..., Origin]) -> Origin:
    """The app behind the proxy."""
    return start_origin()


@pytest.fixture
def start_proxy(short_path: Path, origin: Origin) -> Iterator[StartProxy]:
    """Starts one proxy, which ends with the test."""
    with ExitStack() as stack:

        def start(*, workers: int = 1, unix: bool = False, **base: Any) -> Proxy:
            proxy = stack.enter_context(closing(Proxy(short_path, workers=workers, unix=unix)))
            up = {"name": "up", "endpoints": [{"address": origin.address}]}
            proxy.publish_base(**{"app": origin.address, "clusters": [up]} | base)
            proxy.start()
            return proxy

        yield start


@pytest.fixture
def proxy(start_proxy: StartProxy) -> Proxy:
    """A proxy of one worker with the origin as its app, and as its cluster `up`."""
    return start_proxy()
