"""Services of several hosts that know one another through a pilot: under load, as instances, pilots, hosts come and go.

A host here is a runtime folder and a state folder of its own; `tests/faults` has hosts with networks of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.host import Host, until
from tests.system.load import Load
from tests.system.origin import Origin
from tests.system.test_pilot import UnixConnection, ask, over_unix, start


class Site:
    """A pilot, and hosts that use it."""

    def __init__(self, folder: Path, nginx: str, stack: ExitStack) -> None:
        self._folder = folder
        self._nginx = nginx
        self._stack = stack
        self.pilots = self.host("pilot")
        self.pilot, _ = start(self.pilots)

    def host(self, name: str) -> Host:
        folder = self._folder / name
        folder.mkdir()
        return self._stack.enter_context(_cleaned(Host(folder)))

    def serve(self, host: Host, service: str, *more: str) -> subprocess.Popen[str]:
        """A service with an app that answers at once; returns when it is ready."""
        profile = host.folder / "dev.toml"
        socket = self.pilots.runtime / "pilot.sock"
        profile.write_text(
            f'extends = "dev"\n[sidecars.discovery.pilot]\naddresses = ["unix:{socket}"]\nadvertise = "127.0.0.1"\n'
        )
        return Origin(host, self._nginx).serve(service, "--profile", str(profile), *more)

    def instances(self, service: str) -> list[dict[str, Any]]:
        """What the pilot says."""
        found: list[dict[str, Any]] = ask(over_unix(self.pilots), "GET", f"/v1/services/{service}")[1]["instances"]
        return found


@contextmanager
def _cleaned(host: Host) -> Iterator[Host]:
    try:
        yield host
    finally:
        for process in host.started:
            process.terminate()
        for process in host.started:
            process.communicate(timeout=20)


def endpoints(host: Host, name: str, service: str) -> dict[str, str]:
    """What the service `name` of that host knows: state by address."""
    _, found = ask(UnixConnection(host.runtime / name / "api.sock"), "GET", f"/v1/services/{service}")
    return {row["address"]: row["state"] for row in found.get("endpoints", [])}


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, require_peer: Callable[[str], str]) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("s"), require_peer("nginx"), stack)


@pytest.mark.semantics(
    "discovery", "Services of several hosts find each other by a pilot, and go on when it dies", "pilot", "pilot.follow"
)
def test_instances_come_and_go_under_load_and_the_pilot_dies(site: Site) -> None:
    one, two, caller = site.host("one"), site.host("two"), site.host("caller")
    site.serve(one, "orders")
    site.serve(caller, "web")
    until(lambda: len(endpoints(caller, "web", "orders")) == 1)
    site.pilots.run("pilot", "config", "set", "dev", "web", "limit=5")
    file = caller.runtime / "web" / "config.json"
    until(file.exists)
    assert json.loads(file.read_text())["values"] == {"limit": "5"}
    with Load(caller.urls("web")["outbound"], "orders") as load:
        second = site.serve(two, "orders")
        until(lambda: list(endpoints(caller, "web", "orders").values()) == ["UP", "UP"])
        second.terminate()
        until(lambda: len(endpoints(caller, "web", "orders")) == 1)
        assert len(site.instances("orders")) == 1, "it has said so before it went"
        second.wait(20)
        os.kill(site.pilot.pid, signal.SIGKILL)
        site.pilot.wait()
    load.assert_all_answered()
    # The host starts anew while no pilot answers: the disk knows.
    before = endpoints(caller, "web", "orders")
    assert before
    for process in caller.started:
        process.terminate()
        process.wait(20)
    site.serve(caller, "web")
    assert endpoints(caller, "web", "orders") == before
    assert json.loads(file.read_text())["values"] == {"limit": "5"}, "the disk knows the configuration, too"
    with Load(caller.urls("web")["outbound"], "orders") as load:
        site.pilot, said = start(site.pilots)
        assert "instances" in said
        until(lambda: len(site.instances("web")) == 1)
    load.assert_all_answered()
