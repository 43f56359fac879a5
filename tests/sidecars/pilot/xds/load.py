"""Calls at a steady rate, through an Envoy or by gRPC's own client. Each is written down: when, to whom, what came."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from pannier.sidecars.pilot.xds import bootstrap

PATIENCE_S = 10.0
CLIENT = Path(__file__).with_name("grpc_client.py")
ASKS = Path(__file__).with_name("grpc_asks.py")


@dataclass(frozen=True)
class Called:
    """`answer` is the origin's name; `status` is HTTP's or gRPC's, or what went wrong before there was one."""

    service: str
    begun: float
    ended: float
    status: str
    answer: str
    details: str = ""

    @property
    def well(self) -> bool:
        return self.status in {"200", "OK"}


@dataclass
class Calls:
    """`asked` chooses what is called next. Nothing is, once it is `over`; `ended`: everything has come back."""

    asked: Callable[[], str]
    made: list[Called] = field(default_factory=list)
    over: bool = False
    ended: bool = False


async def through(port: int, calls: Calls, *, rate: float, connections: int = 8) -> None:
    """Over connections that stay open, one call after the other on each, until `over`."""
    async with trio.open_nursery() as nursery:
        for number in range(connections):
            nursery.start_soon(_connection, port, calls, connections / rate, number / rate)
    calls.ended = True


async def _connection(port: int, calls: Calls, pace: float, begin: float) -> None:
    due = trio.current_time() + begin
    stream: trio.SocketStream | None = None
    while not calls.over:
        await trio.sleep_until(due)
        due = max(due + pace, trio.current_time() - 1)
        service, begun = calls.asked(), time.time()
        status, answer, details = "lost", "", ""
        try:
            with trio.fail_after(PATIENCE_S):
                if stream is None:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                status, answer, details = await _call(stream, service)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, trio.ClosedResourceError) as error:
            details = repr(error)
            if stream is not None:
                await trio.aclose_forcefully(stream)
            stream = None
        calls.made.append(Called(service, begun, time.time(), status, answer, details))
    if stream is not None:
        await stream.aclose()


async def _call(stream: trio.SocketStream, service: str) -> tuple[str, str, str]:
    await stream.send_all(f"GET /who HTTP/1.1\r\nhost: {service}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _more(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(fields.get("content-length", "0")):
        body += await _more(stream)
    return lines[0].split()[1], body.decode(), ""


async def _more(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some(65_536))
    if not data:
        raise trio.BrokenResourceError("closed")
    return data


@asynccontextmanager
async def grpc_calls(folder: Path, pilot: int, node: str, service: str, *, rate: float) -> AsyncIterator[Calls]:
    """gRPC's own client calls `xds:///SERVICE` from a process of its own."""
    told = folder / f"{node}.json"
    told.write_text(json.dumps(bootstrap.grpc(f"127.0.0.1:{pilot}", node)))
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(told), "GRPC_VERBOSITY": "NONE"}
    command = [sys.executable, str(CLIENT), f"xds:///{service}", str(rate), "16"]
    calls = Calls(lambda: service)
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    output = process.stdout
    assert output is not None and process.stdin is not None

    async def read() -> None:
        rest = b""
        async for data in output:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                calls.made.append(Called(service, **json.loads(line)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        try:
            yield calls
            await process.stdin.aclose()
            with trio.fail_after(2 * PATIENCE_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.deadline = trio.current_time() + 1


@asynccontextmanager
async def asked(
    folder: Path, pilot: int, calls: Sequence[Mapping[str, Any]]
) -> AsyncIterator[Sequence[dict[str, int]]]:
    """What the calls by a client of gRPC's own came to, which follows the pilot meanwhile."""
    told = folder / "bootstrap.json"
    told.write_text(json.dumps(bootstrap.grpc(f"127.0.0.1:{pilot}", "grpc")))
    process = await trio.lowlevel.open_process(
        [sys.executable, str(ASKS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(told)},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        said = b""
        with trio.fail_after(6 * PATIENCE_S):
            await process.stdin.send_all(json.dumps(calls).encode() + b"\n")
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some() or b"\n"
        yield json.loads(said)
    finally:
        process.kill()
        await process.wait()
