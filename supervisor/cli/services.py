"""Which services run on this host, and how a command reaches one of them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import click
from pannier.shared.errors import NotRunning, UsageError
from pannier.shared.runtime import REGISTRY, check_name, runtime_dir
from pannier.supervisor.presence import answers

if TYPE_CHECKING:
    from pannier.shared.bus import Bus

T = TypeVar("T")

name_option = click.option("-n", "--name", help="The service (default: the only one that runs).")


def running() -> list[str]:
    """The names of the services whose supervisor answers."""
    return [name for name in _folders() if answers(runtime_dir() / name / "bus.sock")]


def orphaned() -> list[str]:
    """The names of those whose keeper lives on without a supervisor."""
    return [
        name
        for name in _folders()
        if not answers(runtime_dir() / name / "bus.sock")
        and answers(runtime_dir() / name / "keeper.sock", socket.SOCK_SEQPACKET)
    ]


def the_one(name: str | None, *, orphans: bool = False) -> str:
    """The service that a command is about: the named one, else the only one. Raises NotRunning, or UsageError with the
    choices."""
    found = running() + (orphaned() if orphans else [])
    if name is not None:
        if check_name(name) not in found:
            raise NotRunning(f"no service {name} runs here", hint=_choices(found) or "start it: pannier run -- CMD")
        return name
    if not found:
        raise NotRunning("no service runs here", hint="start one: pannier run --app-port 8080 -- CMD")
    if len(found) > 1:
        raise UsageError("several services run here", hint=f"choose one with --name: {', '.join(found)}")
    return found[0]


@asynccontextmanager
async def bus_of(name: str) -> AsyncIterator[Bus]:
    """A connection to the supervisor of that service. Raises Unreachable."""
    from pannier.shared.bus import open_bus

    async with open_bus(runtime_dir() / name / "bus.sock") as bus:
        yield bus


def ask(name: str, question: Callable[[Bus], Awaitable[T]]) -> T:
    """Connects, asks, and returns the answer."""
    import trio

    async def run() -> T:
        async with bus_of(name) as bus:
            return await question(bus)

    return trio.run(run)


def _folders() -> list[str]:
    return sorted(entry.name for entry in runtime_dir().iterdir() if entry.is_dir() and entry.name != REGISTRY)


def _choices(found: list[str]) -> str:
    return f"these run: {', '.join(found)}" if found else ""
