"""A host of one's own for real services, and what a test asks of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import trio
from pannier.shared.bus import open_bus
from pannier.shared.errors import Unreachable
from pannier.shared.messages import Nothing, Process, Status

PANNIER = Path(sys.executable).parent / "pannier"
PATIENCE = 20.0
Reply = TypeVar("Reply", bound=msgspec.Struct)

APP = """
import signal, socket, sys
def leave(number, frame):
    print("told", number, flush=True)
    sys.exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
signal.signal(signal.SIGHUP, lambda *_: print("hung up", flush=True))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
while True:
    listener.accept()[0].close()
"""


class Host:
    """A runtime folder of its own, and everything that was started in it. `inside` are the words before each command,
    for a host with a network or a core of its own."""

    def __init__(self, folder: Path, inside: Sequence[str] = ()) -> None:
        self.folder = folder
        self.inside = inside
        self.runtime = folder / "r"
        self.app = folder / "app.py"
        self.app.write_text(APP)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.lower().endswith("proxy")},
            "PANNIER_RUNTIME_DIR": str(self.runtime),
            "PANNIER_STATE_DIR": str(folder / "s"),
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self.inside, PANNIER, *words],
            env=self.environment,
            cwd=self.folder,
            text=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        )
        self.started.append(process)
        return process

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, PANNIER, *words],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def serve(
        self, name: str, port: int | str, *more: str, code: int = 0, command: Sequence[str] = (), **options: Any
    ) -> subprocess.Popen[str]:
        """A service whose app listens on `port`; returns when it is ready."""
        command = command or (sys.executable, str(self.app), str(port), str(code))
        process = self.start("run", "--name", name, "--app-port", str(port), *more, "--", *command, **options)
        until(lambda: process.poll() is not None or self.ready(name))
        assert process.poll() is None, process.communicate()
        return process

    def ask(self, name: str, verb: str, body: msgspec.Struct, reply: type[Reply]) -> Reply:
        """Asks the supervisor directly: starting a command takes longer than most of what is tested."""

        async def ask() -> Reply:
            async with open_bus(self.runtime / name / "bus.sock") as bus:
                return await bus.request("supervisor", verb, body, reply, timeout=PATIENCE)

        return trio.run(ask)

    def processes(self, name: str) -> list[Process]:
        """What `ps` shows."""
        try:
            return self.ask(name, "status", Nothing(), Status).processes
        except Unreachable:
            return []

    def pids(self, name: str) -> dict[str, int]:
        return {process.name: process.pid for process in self.processes(name)}

    def ready(self, name: str) -> bool:
        found = self.processes(name)
        return bool(found) and all(process.ready for process in found)

    def urls(self, name: str) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.runtime / name / "urls.json").read_text())
        return found

    def metric(self, name: str, metric: str) -> float:
        """The sum of what `/metrics` says of that name, over all labels."""
        connection = http.client.HTTPConnection(urlsplit(self.urls(name)["metrics"]).netloc, timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"{metric}[ {{]", line))

    def orphaned(self, name: str) -> bool:
        return not self.processes(name) and (self.runtime / name / "keeper.sock").exists()

    def nothing_left(self) -> bool:
        return not any(entry.name != "registry" for entry in self.runtime.iterdir())

    def survivors(self) -> list[int]:
        """Every process that was started in this runtime folder, by whomever."""
        mark = f"PANNIER_RUNTIME_DIR={self.runtime}".encode()
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def until(condition: Callable[[], bool], *, within: float = PATIENCE) -> None:
    """Waits for what other processes do; there is no event to wait for."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
