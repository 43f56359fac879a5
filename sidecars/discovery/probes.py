"""Asks endpoints whether they are there: over HTTP where a path is known, gRPC's health service, or a command, else by
connecting.

Rules: one task a target, none waits for another; at most `CONCURRENT` questions are open; the first question comes at
once and is repeated each second until the first success (for `EAGER_TRIES` at most), then each interval; with jitter,
so that checks spread.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

import h11
import trio

CONCURRENT = 32
EAGER_SECONDS = 1.0
EAGER_TRIES = 30
_JITTER = 0.1
_ANSWER_LIMIT = 16_384

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask: connect to `address`, then GET `path`, or ask gRPC's health service for the service `grpc`, unless
    they are None. A `command` is run instead."""

    address: str
    path: str | None = None
    grpc: str | None = None
    command: tuple[str, ...] = ()


async def probe(target: Target, timeout: float) -> str:
    """Asks once, within `timeout` seconds. Returns "" for a good answer (connected; 2xx or 3xx; SERVING; exit code 0),
    else the reason."""
    with trio.move_on_after(timeout):
        try:
            if target.command:
                return await _run(target.command)
            async with await _connect(target.address) as stream:
                if target.grpc is not None:
                    return await _ask_grpc(stream, target.grpc)
                return "" if target.path is None else await _get(stream, target.address, target.path)
        except OSError as error:
            return f"cannot connect: {error.strerror or error}"
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, ValueError) as error:
            return f"no usable answer: {error}"
    return f"no answer within {timeout:g} s"


async def _run(command: Sequence[str]) -> str:
    try:
        done = await trio.run_process(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            deliver_cancel=_end_group,
        )
    except OSError as error:
        return f"cannot run {command[0]}: {error.strerror}"
    return f"{command[0]} ended with {done.returncode}" if done.returncode else ""


async def _end_group(process: trio.Process) -> None:
    """Everything that the command has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _ask_grpc(stream: trio.SocketStream, service: str) -> str:
    # HTTP/2 is a megabyte, and most apps do not speak it.
    from pannier.sidecars.discovery.grpc_health import ask

    return await ask(stream, service)


async def _connect(address: str) -> trio.SocketStream:
    if address.startswith("unix:"):
        return await trio.open_unix_socket(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


async def _get(stream: trio.SocketStream, address: str, path: str) -> str:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ANSWER_LIMIT)
    host = "localhost" if address.startswith("unix:") else address
    headers = [("host", host), ("user-agent", "pannier-discovery"), ("connection", "close")]
    request = connection.send(h11.Request(method="GET", target=path, headers=headers)) or b""
    await stream.send_all(request + (connection.send(h11.EndOfMessage()) or b""))
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_ANSWER_LIMIT)))
        elif isinstance(event, h11.Response):
            return "" if 200 <= event.status_code < 400 else f"answered {event.status_code}"
        elif not isinstance(event, h11.InformationalResponse):
            return "left without an answer"


class Probes(Generic[K]):
    """Repeated questions to a changing set of targets; each outcome goes to `outcome(key, reason)`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        outcome: Callable[[K, str], None],
        *,
        interval: float,
        timeout: float,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._nursery = nursery
        self._outcome = outcome
        self._interval = interval
        self._timeout = timeout
        self._uniform = uniform
        self._limiter = trio.CapacityLimiter(CONCURRENT)
        self._asked: dict[K, tuple[Target, trio.CancelScope]] = {}

    def ask(self, targets: Mapping[K, Target]) -> None:
        """From now on asks exactly these: new ones begin at once, gone or changed ones end."""
        for key in [key for key, (target, _) in self._asked.items() if targets.get(key) != target]:
            self._asked.pop(key)[1].cancel()
        for key, target in targets.items():
            if key not in self._asked:
                scope = trio.CancelScope()
                self._asked[key] = (target, scope)
                self._nursery.start_soon(self._repeat, key, target, scope)

    async def _repeat(self, key: K, target: Target, scope: trio.CancelScope) -> None:
        pause = min(EAGER_SECONDS, self._interval)
        with scope:
            for tries in count(1):
                async with self._limiter:
                    reason = await probe(target, self._timeout)
                self._outcome(key, reason)
                if not reason or tries >= EAGER_TRIES:
                    pause = self._interval
                await trio.sleep(pause * self._uniform(1 - _JITTER, 1 + _JITTER))
