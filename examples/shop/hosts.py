"""Hosts on one machine: network namespaces on one bridge, each with a name, an address, and folders of its own.

The whole of it is in a namespace of its own (`enter`), so that nothing is left when the program ends, however it ends:
namespaces, addresses and mounts go with their last process, and processes with the one that started them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import trio

NETWORK = "10.213.7"
BRIDGE = "shop"
STOP_SECONDS = 30.0
_INSIDE = "SHOP_HOSTS_INSIDE"
_NAMED = 'hostname "$1"; shift; exec "$@"'


def enter() -> None:
    """Goes on in a namespace of its own; the program begins again there. Raises PermissionError without root."""
    if _INSIDE in os.environ:
        return
    if os.geteuid() != 0:
        raise PermissionError("hosts are network namespaces, which only root can make")
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvpe(words[0], [*words, sys.executable, *sys.argv], {**os.environ, _INSIDE: "1"})


@dataclass(frozen=True)
class Host:
    """One of them; `folder` has its runtime and state folders and the output of what runs there."""

    name: str
    address: str
    folder: Path

    @asynccontextmanager
    async def running(
        self, words: Sequence[str], *, log: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> AsyncIterator[trio.Process]:
        """A command on that host, ended on the way out; its output goes to `log`."""
        own = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("proxy")},
            "PANNIER_RUNTIME_DIR": str(self.folder / "run"),
            "PANNIER_STATE_DIR": str(self.folder / "state"),
            **(environment or {}),
        }
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", _NAMED, "sh", self.name, *words]
        with (self.folder / log).open("ab") as output:
            process = await trio.lowlevel.open_process(
                inside, stdin=DEVNULL, stdout=output, stderr=STDOUT, env=own, cwd=cwd, start_new_session=True
            )
        try:
            yield process
        finally:
            with trio.CancelScope(shield=True):
                await _stop(process)


def make_hosts(names: Sequence[str], folder: Path) -> Sequence[Host]:
    """The hosts, connected with one another and with this program (`.254`)."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    return [_make(name, f"{NETWORK}.{number}", folder / name) for number, name in enumerate(names, start=1)]


def _make(name: str, address: str, folder: Path) -> Host:
    for part in ("run", "state"):
        (folder / part).mkdir(mode=0o700, parents=True)
    _ip("netns", "add", name)
    _ip("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", f"to-{name}", "master", BRIDGE, "up")
    _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", name, "link", "set", device, "up")
    return Host(name, address, folder)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


async def _stop(process: trio.Process) -> None:
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()
