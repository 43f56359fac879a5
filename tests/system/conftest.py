"""What the tests with real services share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.system.host import PATIENCE, Host, free_port, until
from tests.system.origin import Origin


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("h"))
    try:
        yield host
    finally:
        for process in host.started:
            if process.poll() is None:
                process.terminate()
        for process in host.started:
            try:
                process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        if host.runtime.is_dir():
            until(host.nothing_left)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def origin(host: Host, require_peer: Callable[[str], str]) -> Origin:
    return Origin(host, require_peer("nginx"))
