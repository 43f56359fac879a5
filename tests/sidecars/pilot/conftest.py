"""Real servers that the tests of this folder share: each is started once, by the first who wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.sidecars.pilot.real_etcd import running_etcd
from tests.sidecars.pilot.real_zookeeper import running_zookeeper

Start = Callable[[str, str], int]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The port of a server, of that kind and by that program."""
    ports: dict[str, int] = {}
    with ExitStack() as stack:

        def start(kind: str, program: str) -> int:
            if kind not in ports:
                folder = tmp_path_factory.mktemp(kind)
                if kind == "etcd":
                    ports[kind] = stack.enter_context(running_etcd(program, folder))
                else:
                    ports[kind] = stack.enter_context(running_zookeeper(program, folder)).port
            return ports[kind]

        yield start


@pytest.fixture
def etcd(require_peer: Callable[[str], str], servers: Start) -> tuple[str, int]:
    """Where an etcd with one member is."""
    return "127.0.0.1", servers("etcd", require_peer("etcd"))


@pytest.fixture
def zookeeper(require_zookeeper: str, servers: Start) -> tuple[str, int]:
    """Where a ZooKeeper is, that nobody kills."""
    return "127.0.0.1", servers("zookeeper", require_zookeeper)
