"""The shell around every sidecar: connect → decode its configuration → run its service → leave in order.

A sidecar is a function of its `Context`; processes, signals, reconnecting and exit codes are here. Rules:

- Fail static: when the supervisor dies, the service goes on and the bus comes back by itself.
- SIGTERM cancels the service, which cleans up in `finally` under a shield of at most 2 s; the bus outlives it.
- SIGINT is ignored: a terminal sends it to all processes at once, and the supervisor stops them in order.
- A new configuration comes over the bus, so that a process keeps what it knows. A service that cannot take one while it
  runs says nothing: the shell answers for it, and the supervisor gives it a new process.
- A configuration is never changed in place: the same object may be handed out again.
- What the supervisor hands over (`PANNIER_BUS`, `PANNIER_TOKEN`, `PANNIER_FDS`) is read once. The token leaves the
  environment, so that nothing the sidecar might start can speak for it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

import msgspec
import trio
from pannier.shared import framing
from pannier.shared.backoff import full_jitter
from pannier.shared.bus import RECONNECT_BASE_SECONDS, RECONNECT_CAP_SECONDS, Bus, open_bus
from pannier.shared.errors import PannierError, Unreachable, UsageError
from pannier.shared.inheritance import inherited_fds
from pannier.shared.messages import CONFIGURE, Configure, Configured

C = TypeVar("C", bound=msgspec.Struct)

KNOWN = 4
"""Configurations that a sidecar keeps decoded: one of a thousand rules is a megabyte, and takes ten milliseconds."""
_EMPTY = framing.encode(None)


@dataclass
class Context(Generic[C]):
    """All that a service has. `directory` is the service's runtime directory; `config` is the one in force; `fds` are
    the inherited listeners and the tables granted by the supervisor, by name; their numbers stay valid while the
    service runs."""

    name: str
    service: str
    directory: Path
    config: C
    bus: Bus
    fds: Mapping[str, int]
    _known: OrderedDict[bytes, C] = field(default_factory=OrderedDict, init=False, repr=False)
    _take: Callable[[C], Awaitable[None]] | None = field(default=None, init=False, repr=False)
    _taking: trio.Lock = field(default_factory=trio.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.bus.config:
            self._known[self.bus.config] = self.config
        self.bus.serve(CONFIGURE, Configure, self._configure)

    def on_config(self, handler: Callable[[C], Awaitable[None]]) -> None:
        """Takes new configurations from now on, so call it before `bus.ready`.

        `handler` puts one in force, or raises PannierError to refuse it; then what held goes on to hold. They come one
        at a time; `config` is the new one once the handler has returned.
        """
        self._take = handler

    async def _configure(self, request: Configure) -> Configured:
        config = self._decoded(request.config)
        if self._take is None or request.dry_run:
            return Configured(live=self._take is not None)
        async with self._taking:
            await self._take(config)
            self.config = config
        return Configured(live=True)

    def _decoded(self, data: bytes) -> C:
        """The configuration; one that was asked about, or held lately, is at hand, since it may come again at once."""
        config = self._known.get(data)
        if config is None:
            config = self._known[data] = _decoded(data, type(self.config))
        self._known.move_to_end(data)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return config


def main(name: str, config: type[C], service: Callable[[Context[C]], Awaitable[None]]) -> NoReturn:
    """Runs the sidecar `name` until SIGTERM (exit 0), until its service returns (exit 0), or until it fails with a
    `PannierError` (its text on stderr, its exit code). Waits for the supervisor as long as it takes."""
    try:
        path = os.environ["PANNIER_BUS"]
    except KeyError:
        error = UsageError(f"the sidecar `{name}` is started by a supervisor", hint="use `pannier run`")
        sys.exit(complain(name, error))
    token = os.environ.pop("PANNIER_TOKEN", "")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_code = 0
    try:
        trio.run(_run, name, config, service, Path(path), token)
    except* PannierError as group:
        exit_code = complain(name, group)
    sys.exit(exit_code)


async def _run(
    name: str,
    config: type[C],
    service: Callable[[Context[C]], Awaitable[None]],
    path: Path,
    token: str,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            ending = Ending()
            nursery.start_soon(_end_when_told, ending, signals)
            await live(name, config, service, path, token, ending=ending)
            nursery.cancel_scope.cancel()


async def live(
    name: str,
    config: type[C],
    service: Callable[[Context[C]], Awaitable[None]],
    path: Path,
    token: str,
    *,
    ending: Ending,
) -> None:
    """One life of a sidecar in this process, until `ending`, or until its service returns. Raises what that raises."""
    with ending.scope:
        async with AsyncExitStack() as stack:
            bus = await _connect(stack, path, name, token)
            context = Context(
                name=name,
                service=bus.service,
                directory=path.parent,
                config=_decoded(bus.config, config),
                bus=bus,
                fds={**inherited_fds(os.environ), **bus.fds},
            )
            with trio.CancelScope() as ending.scope:
                async with trio.open_nursery() as watch:
                    watch.start_soon(_fail_when_replaced, bus)
                    await service(context)
                    watch.cancel_scope.cancel()


class Ending:
    """What the end of a sidecar cancels: everything while there is no service yet, then the service alone, so that the
    bus is still there for what the service says last."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()

    def cancel(self) -> None:
        self.scope.cancel()


async def _end_when_told(ending: Ending, signals: AsyncIterator[int]) -> None:
    async for _ in signals:
        ending.cancel()


def complain(name: str, error: PannierError | BaseExceptionGroup[PannierError]) -> int:
    """Says on stderr, and for the log, why a sidecar ends; the exit code."""
    while isinstance(error, BaseExceptionGroup):
        (error, *_) = error.exceptions
    hint = f"\n  hint: {error.hint}" if error.hint else ""
    sys.stderr.write(f"{name}: {error.message}{hint}\n")
    return error.exit_code


async def _connect(stack: AsyncExitStack, path: Path, role: str, token: str) -> Bus:
    for attempt in count():
        try:
            return await stack.enter_async_context(open_bus(path, role=role, token=token, reconnect=True))
        except Unreachable:
            await trio.sleep(
                full_jitter(attempt, base=RECONNECT_BASE_SECONDS, cap=RECONNECT_CAP_SECONDS, random=random.random())
            )
    raise AssertionError("count() does not end")


async def _fail_when_replaced(bus: Bus) -> None:
    await bus.wait_closed()
    raise Unreachable("a newer process has taken this sidecar's place")


def _decoded(config: bytes, type_: type[C]) -> C:
    return framing.decode(config or _EMPTY, type_, most=framing.MAX_CONFIG_ITEMS)
