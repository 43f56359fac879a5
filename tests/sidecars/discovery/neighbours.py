"""Discovery sidecars of several hosts, each a process with a folder, a broker and a table of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from pannier import _native
from pannier.shared import framing
from pannier.shared.detours import OF, WEIGHT, Share
from pannier.shared.messages import EVENTS, SERVICES
from pannier.shared.unix import connect_unix
from pannier.sidecars.discovery.config import Config, Pilot
from pannier.sidecars.discovery.table import decode

from tests.conftest import RunningBroker

TABLE = "table.endpoints"
PATIENCE_SECONDS = 20.0


class Neighbour:
    """The discovery of one host. `environ` is that of its processes."""

    def __init__(self, directory: Path, segment: int, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.environ = environ
        self.process: trio.Process
        self._reader = _native.TableReader("endpoints", segment)

    def centrals(self, service: str = "orders") -> dict[str, tuple[Share, ...]]:
        """By way of whom the instances of a service get a part of their requests, as the table in force says."""
        table = decode(self._reader.read())
        return {row.id: row.centrals for one in table.clusters if one.name == service for row in one.endpoints}

    async def wait_for(self, found: Mapping[str, Sequence[Share]], *, look: float = 0.005) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while self.centrals() != found:  # noqa: ASYNC110 - shared memory has no event to wait for
                await trio.sleep(look)

    async def ask(self, method: str, path: str, body: object = None) -> int:
        """The status of the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        async with await connect_unix(self.directory / "api.sock") as stream:
            head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
            await stream.send_all(head.encode() + data)
            return int(b"".join([bytes(part) async for part in stream]).split()[1])

    async def register(self, name: str, address: str, *, ttl: str = "30s", **metadata: str) -> None:
        body = {"address": address, "ttl": ttl, "metadata": metadata}
        assert await self.ask("PUT", f"/v1/instances/orders/{name}", body) in {200, 201}

    async def shift(self, of: str, weight: float, *, ttl: str = "30s", at: str = "10.77.0.2:15090") -> None:
        """A Central takes over that much of an instance."""
        await self.register(f"{of}.central", at, ttl=ttl, **{OF: of, WEIGHT: f"{weight:g}"})


@asynccontextmanager
async def neighbour(folder: Path, pilot: Path | None, *, config: Config | None = None) -> AsyncIterator[Neighbour]:
    """A running one. Several in one `folder` are on one host, if its name is another each time."""
    os.makedirs(folder, mode=0o700)
    segment = os.memfd_create(TABLE)
    os.truncate(segment, _native.SEGMENTS[TABLE])
    _native.initialise(TABLE, segment)
    settings = None if pilot is None else Pilot([f"unix:{pilot}"])
    config = config or Config(register=False, vouches=True, pilot=settings)
    async with trio.open_nursery() as nursery:
        broker = RunningBroker(folder / "bus.sock", nursery)
        broker.start()
        token = broker.grants.issue(
            "discovery", topics=[SERVICES, EVENTS], fds={TABLE: segment}, config=framing.encode(config)
        )
        environ = {
            **os.environ,
            "PANNIER_BUS": str(broker.path),
            "PANNIER_TOKEN": token,
            "PANNIER_STATE_DIR": f"{folder}-state",
        }
        found = Neighbour(folder, segment, environ)
        try:
            found.process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "pannier.sidecars.discovery"], env=environ
            )
            await broker.wait_seen("ready", "discovery")
            yield found
        finally:
            found.process.kill()
            with trio.CancelScope(shield=True):
                await found.process.wait()
            os.close(segment)
        nursery.cancel_scope.cancel()
