"""A real `pannierd proxy`, with a test in the place of keeper and supervisor.

`PANNIERD` in the environment names another binary than the one beside the interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pannier import _native
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.resilience.table import limits_table
from pannier.sidecars.traffic import config as traffic
from pannier.sidecars.traffic.table import routes_table

from tests.proxy.wire import PATIENCE_S, Message, Wire, request

TABLES = tuple(_native.TABLES)
FUTEX = {"x86_64": 202, "aarch64": 98}


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for a condition of another process, which has no event to wait for; looks every 2 ms."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def binary() -> str:
    """The program under test."""
    return os.environ.get("PANNIERD") or str(Path(sys.executable).parent / "pannierd")


class Proxy:
    """The proxy of the service `svc`: segments and listeners live as long as this object, the process may be restarted.

    Each `publish` returns when every worker has the table in force.
    """

    def __init__(self, directory: Path, *, workers: int = 1, unix: bool = False) -> None:
        """With `unix` it is called through Unix sockets, too."""
        self.workers = workers
        self.fds: dict[str, int] = {}
        for name, size in _native.SEGMENTS.items():
            fd = self.fds[name] = os.memfd_create(name)
            os.ftruncate(fd, size)
            _native.initialise(name, fd)
        self.inbound = self._listen("inbound")
        self.outbound = self._listen("outbound")
        self.sockets = {name: self._listen_unix(name, directory) for name in ("inbound", "outbound") if unix}
        self.counters = _native.Counters(self.fds["counters"])
        self.rings = _native.Rings(self.fds["rings"], self.fds["counters"])
        self.base: dict[str, Any] = {"service": "svc", "lifecycle": "serving", "app": None}
        self._writers = {kind: _native.TableWriter(kind, self.fds[f"table.{kind}"]) for kind in TABLES}
        self._log = directory / "access.log"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.settimeout(PATIENCE_S)
        self._notify_path = str(directory / "notify.sock")
        self._notify.bind(self._notify_path)
        self._stderr = directory / "stderr"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, descriptors: int | None = None) -> None:
        """Starts the process, which may open only so many descriptors; returns once it has said that it serves."""
        self.spawn(descriptors=descriptors)
        self.wait_notified("READY=1")

    def spawn(self, *, descriptors: int | None = None, under: Sequence[str] = ()) -> None:
        """Starts the process, `under` another program if need be, and waits for nothing."""
        command = [*under, binary(), "proxy", "--workers", str(self.workers)]
        if descriptors is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
        environment = {
            "PANNIER_FDS": ",".join(f"{name}={fd}" for name, fd in self.fds.items()),
            "NOTIFY_SOCKET": self._notify_path,
        }
        with self._stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=list(self.fds.values()),
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )

    def kill(self) -> None:
        """Ends the process as its worst death would, and forgets what it said."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        self.notified()

    def close(self) -> None:
        """Ends everything."""
        self.kill()
        self._notify.close()
        for fd in self.fds.values():
            os.close(fd)

    def wait_notified(self, line: str) -> None:
        """Waits until the process says this line on its notify socket."""
        while line not in self._notify.recv(4096).decode().splitlines():
            pass

    def notified(self) -> list[str]:
        """Takes what the process has said on its notify socket and nobody waited for; waits for nothing."""
        lines: list[str] = []
        self._notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                lines += self._notify.recv(4096).decode().splitlines()
        self._notify.settimeout(PATIENCE_S)
        return lines

    def fill_notify_socket(self) -> None:
        """Leaves no room for what the process says, as a supervisor does that is stopped."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
            sender.setblocking(False)
            while True:
                sender.sendto(b"x", self._notify_path)

    def heartbeat_ms(self) -> int:
        """When the process wrote last that it lives: ms since the epoch."""
        return self._enrolment().heartbeat_ms

    def stderr(self) -> str:
        """What the process said on its standard error."""
        return self._stderr.read_text()

    def publish_base(self, **changes: Any) -> int:
        """Publishes the base table with these keys changed."""
        self.base |= changes
        return self._publish("base", self.base)

    def publish_endpoints(self, **clusters: list[dict[str, Any]]) -> int:
        """Publishes endpoints; an endpoint is what differs from a healthy one in its own slot."""
        table: list[dict[str, Any]] = []
        slot = 0
        for name, endpoints in clusters.items():
            rows = []
            for endpoint in endpoints:
                rows.append({"id": f"{name}-{slot}", "slot": slot, "incarnation": 1} | endpoint)
                slot += 1
            table.append({"name": name.replace("_", "-"), "endpoints": rows})
        return self._publish("endpoints", {"clusters": table})

    def publish_telemetry(
        self, *, access_log: bool = True, sample_ratio: float = 1.0, routes: tuple[str, ...] = ()
    ) -> int:
        """Publishes the telemetry table."""
        table = {"access_log": access_log, "sample_ratio": sample_ratio, "routes": list(routes)}
        return self._publish("telemetry", table)

    def publish_routes(self, config: traffic.Config) -> int:
        """Publishes table `routes`, as the traffic sidecar would for `config`."""
        return self._publish_payload("routes", routes_table(config, {}))

    def publish_limits(self, config: resilience.Config, slots: Mapping[str, tuple[int, int]] | None = None) -> int:
        """Publishes table `limits`, as the resilience sidecar would for `config`."""
        return self._publish_payload("limits", limits_table(config, slots or {}))

    def publish_headers(self, *rules: dict[str, Any]) -> int:
        """Publishes table `headers`."""
        return self._publish("headers", {"rules": list(rules)})

    def withdraw(self, kind: str) -> int:
        """Publishes the absence of a table."""
        return self._await_in_force(kind, self._writers[kind].withdraw())

    def in_force(self) -> dict[str, int]:
        """Table kind -> the generation in force."""
        return self._enrolment().in_force

    def rejected_tables(self) -> int:
        """How many snapshots were rejected."""
        return self._enrolment().rejected_tables

    def publish_unchecked(self, kind: str, payload: bytes, *, damage: bool = False) -> int:
        """Publishes what no writer would let pass, by the layout of `table/src/snapshot.rs`; `damage` breaks its
        checksum. Returns without waiting."""
        size = _native.SEGMENTS[f"table.{kind}"]
        words = memoryview(mapped := mmap.mmap(self.fds[f"table.{kind}"], size)).cast("Q")
        try:
            generation = (words[8] & (1 << 40) - 1) + 1
            slot = generation % 3
            padded = payload + bytes(-len(payload) % 8)
            first = (4096 + slot * (16 << 20)) // 8
            for i in range(len(padded) // 8):
                words[first + i] = int.from_bytes(padded[i * 8 : i * 8 + 8], "little")
            words[17 + slot * 8] = len(payload)
            words[18 + slot * 8] = _checksum(generation, len(payload), padded) ^ damage
            words[16 + slot * 8] = generation
            words[8] = words[8] >> 40 << 40 | generation
            wake = ctypes.c_uint32.from_buffer(mapped, 64)
            syscall = ctypes.CDLL(None, use_errno=True).syscall
            assert syscall(FUTEX[platform.machine()], ctypes.byref(wake), 1, 2**31 - 1, 0, 0, 0) >= 0
            del wake
        finally:
            words.release()
            mapped.close()
        self._writers[kind] = _native.TableWriter(kind, self.fds[f"table.{kind}"])
        return generation

    def mend(self, kind: str, generation: int) -> None:
        """Mends the checksum of a snapshot that was published damaged, where it stands."""
        at = (18 + generation % 3 * 8) * 8
        with mmap.mmap(self.fds[f"table.{kind}"], _native.SEGMENTS[f"table.{kind}"]) as mapped:
            mapped[at] ^= 1

    def set_hot_word(self, slot: int, state: int, incarnation: int, until_ms: int) -> None:
        """Writes a hot word, by the layout of `table/src/hot.rs`; `until_ms` is in milliseconds since boot."""
        word = state << 56 | incarnation << 40 | until_ms
        with mmap.mmap(self.fds["hot"], _native.SEGMENTS["hot"]) as mapped:
            at = (64 + slot * 4) * 8
            mapped[at : at + 8] = word.to_bytes(8, "little")

    def call(self, *, outbound: bool = False) -> Wire:
        """A new connection to one of its listeners."""
        return Wire(socket.create_connection(self.outbound if outbound else self.inbound, PATIENCE_S))

    def call_unix(self, *, outbound: bool = False) -> Wire:
        """A new connection to one of its Unix listeners."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE_S)
        sock.connect(self.sockets["outbound" if outbound else "inbound"])
        return Wire(sock)

    def call_narrow(self) -> Wire:
        """A new connection to its inbound listener whose kernel buffers hold a few KiB towards the caller."""
        with socket.socket(fileno=os.dup(self.fds["inbound.0"])) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(self.inbound)
        return Wire(sock)

    def fetch(self, target: str = "/", *fields: str, outbound: bool = False, **rest: Any) -> Message:
        """The answer to one request on a connection of its own; takes what `request` takes."""
        with self.call(outbound=outbound) as wire:
            wire.send(request(target, *fields, **rest))
            return wire.read_answer(rest.get("method", "GET"))

    def totals(self, name: str) -> int:
        """A fixed counter."""
        return self.counters.totals()[name]

    def requests_counted(self) -> int:
        """Requests over all series."""
        return sum(series.count for series in self.counters.series())

    def wait_counted(self, requests: int) -> list[_native.Series]:
        """Waits until so many requests are counted, which they are after their answers; returns the series."""
        wait_until(lambda: self.requests_counted() >= requests)
        return self.counters.series()

    def drain(self, records: int) -> tuple[list[dict[str, Any]], list[_native.Span]]:
        """The lines and spans of the next `records` requests; fails if there are more."""
        lines: list[dict[str, Any]] = []
        spans: list[_native.Span] = []
        log = os.open(self._log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        seen = 0

        def drained() -> bool:
            nonlocal seen
            taken = self.rings.drain(log, True)
            seen += taken.records
            spans.extend(taken.spans)
            return seen >= records

        try:
            wait_until(drained)
        finally:
            os.close(log)
        assert seen == records
        text = self._log.read_text()
        assert text == "" or text.endswith("\n")
        lines = [json.loads(line) for line in text.splitlines()]
        return lines, spans

    def rss_bytes(self) -> int:
        """What the process holds in memory."""
        return self._status("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most that the process has held in memory."""
        return self._status("VmHWM")

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(field)

    def _publish(self, kind: str, table: dict[str, Any]) -> int:
        return self._publish_payload(kind, msgspec.msgpack.encode(table))

    def _publish_payload(self, kind: str, payload: bytes) -> int:
        return self._await_in_force(kind, self._writers[kind].publish(payload))

    def _await_in_force(self, kind: str, generation: int) -> int:
        if self.process is not None:
            wait_until(lambda: self.in_force()[kind] == generation)
        return generation

    def _enrolment(self) -> _native.Enrolment:
        return next(e for e in self.counters.enrolled() if e.pid == self.pid)

    def _listen(self, name: str) -> tuple[str, int]:
        port = 0
        for index in range(self.workers):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(4096)
            port = listener.getsockname()[1]
            self.fds[f"{name}.{index}"] = listener.detach()
        return ("127.0.0.1", port)

    def _listen_unix(self, name: str, directory: Path) -> str:
        """As the keeper does: one socket, a descriptor of it for each worker."""
        path = str(directory / f"{name}.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(4096)
        with listener:
            for index in range(self.workers, 2 * self.workers):
                self.fds[f"{name}.{index}"] = os.dup(listener.fileno())
        return path


def _checksum(generation: int, length: int, padded: bytes) -> int:
    mask = (1 << 64) - 1

    def rotate(value: int, by: int) -> int:
        return (value << by | value >> (64 - by)) & mask

    state = generation * 0x9E37_79B9_7F4A_7C15 & mask ^ rotate(length, 32)
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        state = rotate((state ^ word) * 0xFF51_AFD7_ED55_8CCD & mask, 29)
    return (state ^ state >> 32) * 0xC4CE_B9FE_1A85_EC53 & mask
