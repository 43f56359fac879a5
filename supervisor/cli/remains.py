"""What is left of a service whose supervisor is gone: its processes, and the memory that they hold.

A process belongs to a service if its environment names the bus, or the supervisor's ear, in the service's folder; only
those of the same user can be looked at, which is what keeps others out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pannier.shared.errors import NotRunning
from pannier.shared.messages import Nothing
from pannier.shared.runtime import runtime_dir
from pannier.supervisor.cli.services import ask, running
from pannier.supervisor.tables import TableStates, table_states


def environments_of(service: str) -> dict[int, dict[str, str]]:
    """The environment of each process of the service, by PID."""
    folder = runtime_dir() / service
    marks = {f"PANNIER_BUS={folder / 'bus.sock'}".encode(), f"NOTIFY_SOCKET={folder / 'notify.sock'}".encode()}
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            pairs = path.read_bytes().split(b"\0")
            if not marks.isdisjoint(pairs):
                texts = [pair.decode(errors="replace").partition("=") for pair in pairs if b"=" in pair]
                found[int(path.parent.name)] = {name: value for name, _, value in texts}
    return found


@contextmanager
def memory_of(service: str) -> Iterator[Mapping[str, int]]:
    """Descriptors of the segments that some process of the service holds, by held name; for reading alone."""
    opened: dict[str, int] = {}
    try:
        for pid in _holders(service):
            with suppress(OSError):
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    with suppress(OSError):
                        name = os.readlink(link).removeprefix("/memfd:").removesuffix(" (deleted)")
                        if name.startswith("table.") and name not in opened:
                            opened[name] = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        yield opened
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def tables_of(service: str) -> TableStates:
    """Where the tables of a service stand, by its supervisor, else by the memory that its processes hold. Raises
    NotRunning if there is neither."""
    if service in running():
        return ask(service, lambda bus: bus.request("supervisor", "tables", Nothing(), TableStates))
    with memory_of(service) as descriptors:
        if not descriptors:
            raise NotRunning(f"no process of {service} holds tables any more", hint=f"pannier run --name {service} …")
        return TableStates(table_states(descriptors, time.time_ns() // 1_000_000))


def _holders(service: str) -> list[int]:
    return sorted(environments_of(service))
