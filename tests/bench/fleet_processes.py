"""The two processes of `make bench-fleet`: the pilot on the first core, the load client on the last."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from tests.bench.processes import PROC, BenchmarkError, pinned
from tests.system.host import PATIENCE, free_port

ROOT: Final = Path(__file__).parents[2]
PANNIER: Final = Path(sys.executable).parent / "pannier"
CLIENT: Final = ROOT / "shared" / "core" / "target" / "release" / "pannier-bench"
TICKS: Final = os.sysconf("SC_CLK_TCK")
READY: Final = "the pilot is ready"


@dataclass(frozen=True)
class Fleet:
    """How many of what the client is."""

    instances: int
    hosts: int
    lease_ms: int


class Pilot:
    """`pannier pilot`, which can be killed and started again with the same store and places."""

    def __init__(self, folder: Path, store: str) -> None:
        self._folder = folder
        self._port, self._grpc = free_port(), free_port()
        self._log = folder / "pilot.log"
        self._socket = folder / "pilot.sock"
        self._argv = [str(PANNIER), "pilot", "--listen", f"127.0.0.1:{self._port}", "--store", store]
        self._argv += ["--socket", str(self._socket), "--grpc", f"127.0.0.1:{self._grpc}"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill(signal.SIGTERM)

    def start(self) -> None:
        """Returns when it is ready. Raises BenchmarkError."""
        folders = {"PANNIER_STATE_DIR": str(self._folder / "s"), "PANNIER_RUNTIME_DIR": str(self._folder / "r")}
        with self._log.open("wb") as log, pinned({min(os.sched_getaffinity(0))}):
            self._process = subprocess.Popen(
                self._argv, env=os.environ | folders, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while READY not in self.said():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the pilot does not start: {self.said()[-500:]}")
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Ends it, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BenchmarkError("the pilot does not run")
        return self._process.pid

    @property
    def token(self) -> str:
        return (self._folder / "s" / "pilot" / "token").read_text().strip()

    def place(self, over: str) -> str:
        """Where it listens."""
        return f"unix:{self._socket}" if over == "unix" else f"127.0.0.1:{self._port}"

    @property
    def xds(self) -> str:
        """Where it speaks xDS."""
        return f"127.0.0.1:{self._grpc}"

    def said(self) -> str:
        """All that it has said since it was started."""
        return self._log.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """What it has spent since it was started."""
        fields = (PROC / str(self.pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_bytes(self) -> int:
        """What it has of memory now."""
        return self._status("VmRSS")

    def most_resident_bytes(self) -> int:
        """And at most, since it was started."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        lines = (PROC / str(self.pid) / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


class Client:
    """`pannier-bench fleet`: is told one command after the other."""

    def __init__(self, place: str, token: str, fleet: Fleet, options: Mapping[str, str]) -> None:
        self.fleet = fleet
        words = {"connect": place, "token": token, "ttl-ms": str(fleet.lease_ms)}
        words |= {"instances": str(fleet.instances), "hosts": str(fleet.hosts), **options}
        self._argv = [str(CLIENT), "fleet", *(word for name, text in words.items() for word in (f"--{name}", text))]

    def __enter__(self) -> Self:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with pinned({max(os.sched_getaffinity(0))}):
            self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, command: str) -> Mapping[str, object]:
        """Says a command, and waits until it is done. Raises BenchmarkError."""
        self.begin(command)
        return self.answer()

    def begin(self, command: str) -> None:
        """Says a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()

    def answer(self) -> Mapping[str, object]:
        """What it says when a command is done. Raises BenchmarkError; it ends by itself if it cannot."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the load client has ended: {self._process.wait()}")
        return msgspec.json.decode(line, type=dict[str, object])
