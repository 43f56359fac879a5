"""Fixtures of more than one folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from pannier.shared.bus import Bus, open_bus
from pannier.shared.unix import listen_unix
from pannier.supervisor.broker import Broker, Grants


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the state of the machine it runs on."""
    monkeypatch.setenv("PANNIER_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def require_peer() -> Callable[[str], str]:
    """`require_peer("nginx")` is the path of a program of `make peers`. Without it the test is skipped; where
    `CI=true` it fails, since nobody reads there what was skipped."""

    def find(program: str) -> str:
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
        if path is None:
            _missing(program)
        return path

    return find


@pytest.fixture
def require_zookeeper(require_peer: Callable[[str], str]) -> str:
    """The path of a `java` that can run Debian's ZooKeeper; as `require_peer`."""
    if not Path("/usr/share/java/zookeeper.jar").exists():
        _missing("libzookeeper-java")
    return require_peer("java")


def _missing(program: str) -> NoReturn:
    missing = f"{program} is not installed: `make peers` does it"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's (pytest's own `tmp_path` may be too long)."""
    with tempfile.TemporaryDirectory(prefix="pannier-") as folder:
        yield Path(folder)


@dataclass
class RunningBroker:
    """A real broker on a real socket: `async with broker.join("discovery", topics=["services"]) as bus: …`

    `seen` holds what the broker told its supervisor: ("ready", role), ("beat", role), ("gone", role).
    """

    path: Path
    nursery: trio.Nursery
    grants: Grants = field(default_factory=Grants)
    seen: list[tuple[str, str]] = field(default_factory=list)
    broker: Broker = field(init=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _stopped: trio.Event = field(default_factory=trio.Event)

    def start(self) -> None:
        """Starts a new broker, with the same grants and nothing else of an older one."""
        self.broker = Broker(
            service="orders",
            grants=self.grants,
            on_ready=lambda role, pid: self._saw("ready", role),
            on_beat=lambda role: self._saw("beat", role),
            on_gone=lambda role: self._saw("gone", role),
        )
        self._scope, self._stopped = trio.CancelScope(), trio.Event()
        self.nursery.start_soon(self._serve, self._scope, self._stopped, listen_unix(self.path))

    async def stop(self) -> None:
        """Ends the broker as its death would: every connection closes without a word."""
        self._scope.cancel()
        await self._stopped.wait()

    def join(
        self,
        role: str = "cli",
        *,
        topics: list[str] | None = None,
        fds: dict[str, int] | None = None,
        config: bytes = b"",
        reconnect: bool = False,
    ) -> AbstractAsyncContextManager[Bus]:
        """Connects as `role`, with a new token unless it is `cli`."""
        token = "" if role == "cli" else self.grants.issue(role, topics=topics or [], fds=fds, config=config)
        return open_bus(self.path, role=role, token=token, reconnect=reconnect)

    async def wait_seen(self, what: str, role: str, times: int = 1) -> None:
        """Waits until the broker has said `what` of `role` so many times; fails after 10 s."""
        await self.wait_until(lambda: self.seen.count((what, role)) >= times)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition on the broker's `statistics()` or on `seen`, looking every 5 ms; fails after 10 s."""
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110 - statistics() is a snapshot and has no event to wait for
                await trio.sleep(0.005)

    async def _saw(self, what: str, role: str) -> None:
        self.seen.append((what, role))

    async def _serve(self, scope: trio.CancelScope, stopped: trio.Event, listener: trio.SocketListener) -> None:
        with scope:
            await self.broker.serve(listener)
        stopped.set()


@pytest.fixture
async def broker(short_path: Path, nursery: trio.Nursery) -> RunningBroker:
    """A running broker of the service `orders`; it ends with the test."""
    running = RunningBroker(short_path / "bus.sock", nursery)
    running.start()
    return running
