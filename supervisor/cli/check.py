"""`pannier check`: whether this host can run Pannier and what runs here is well, with a next step for each fault.

√ is fine, ‼ works but is worth a look, and the cross says that it does not work. Exit 1 if anything does not.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
from pannier.shared.errors import PannierError
from pannier.shared.messages import Nothing, Status, Urls
from pannier.supervisor.cli.output import output_option, print_json, styled
from pannier.supervisor.cli.services import ask, name_option, orphaned, running, the_one

OLDEST_KERNEL: Final = (5, 10)
STALE: Final = 5.0  # seconds without a heartbeat, after which a table's writer is worth a look
_MARKS: Final = {"ok": ("√", "green"), "warning": ("‼", "yellow"), "failure": ("\N{MULTIPLICATION SIGN}", "red")}
_ALIVE: Final = frozenset({"ready", "draining"})


@dataclass(frozen=True)
class Finding:
    """`status`: ok, warning or failure; `hint` is the next step, unless it is ok."""

    category: str
    status: str
    text: str
    hint: str = ""


@click.command()
@name_option
@output_option
def command(*, name: str | None, output: str) -> int:
    """Check that this host can run Pannier, and what runs on it."""
    found = [finding for check in (_platform, _kernel, _folders, _binary, _sidecars) for finding in _guarded(check)]
    for each in [the_one(name)] if name else running():
        found += _service(each)
    found += [
        Finding(f"service {each}", "warning", "its supervisor is gone, its processes run on", f"pannier down -n {each}")
        for each in ([] if name else orphaned())
    ]
    if output == "json":
        print_json([asdict(finding) for finding in found])
    else:
        _print(found)
    return int(any(finding.status == "failure" for finding in found))


def _print(found: list[Finding]) -> None:
    category = ""
    for finding in found:
        if finding.category != category:
            category = finding.category
            click.echo(f"{category}\n{'-' * len(category)}")
        mark, colour = _MARKS[finding.status]
        click.echo(f"{styled(mark, colour, err=False)} {finding.text}")
        if finding.hint:
            click.echo(f"    try: {finding.hint}")


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except PannierError as error:
        yield Finding(check.__name__.strip("_"), "failure", error.message, error.hint)


def _platform() -> Iterator[Finding]:
    machine = platform.machine()
    good = sys.platform == "linux" and machine in {"x86_64", "aarch64"}
    hint = "" if good else "use Linux on x86-64 or arm64"
    yield Finding("platform", "ok" if good else "failure", f"{platform.system()} on {machine}", hint)
    yield Finding("platform", "ok", f"Python {platform.python_version()}")


def _kernel() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-", maxsplit=1)[0].split(".")[:2] if part.isdigit())
    good = numbers >= OLDEST_KERNEL
    oldest = ".".join(map(str, OLDEST_KERNEL))
    hint = "" if good else f"use Linux {oldest} or newer"
    yield Finding("kernel", "ok" if good else "failure", f"Linux {release}", hint)
    for call, what in (("memfd_create", "sealed memory"), ("pidfd_open", "watching processes")):
        has = hasattr(os, call)
        yield Finding("kernel", "ok" if has else "failure", f"{call} ({what})", "" if has else "use a newer Python")


def _folders() -> Iterator[Finding]:
    from pannier.shared.runtime import runtime_dir, state_dir

    yield Finding("folders", "ok", f"runtime folder {runtime_dir()}")
    yield Finding("folders", "ok", f"state folder {state_dir()}")


def _binary() -> Iterator[Finding]:
    hint = "install pannier again: pip install --force-reinstall pannier"
    for program in ("pannierd", "pannier-keeper"):
        path = Path(sys.executable).parent / program
        try:
            done = subprocess.run([path], capture_output=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Finding("binary", "failure", f"{path} does not run: {error}", hint)
            continue
        crashed = done.returncode < 0
        yield Finding("binary", "failure" if crashed else "ok", str(path), hint if crashed else "")
    try:
        from pannier import _native

        yield Finding("binary", "ok", f"pannier._native with {len(_native.SEGMENTS)} segments")
    except ImportError as error:
        yield Finding("binary", "failure", f"pannier._native cannot be loaded: {error}", hint)


def _sidecars() -> Iterator[Finding]:
    from pannier.shared.rights import Broken
    from pannier.supervisor.sidecar_types import sidecar_types

    for name, type_ in sidecar_types().items():
        if issubclass(type_, Broken):
            yield Finding("sidecars", "warning", f"{name}: {type_.reason}", type_.remedy)
        else:
            yield Finding("sidecars", "ok", f"{name}, with the settings {type_.__module__}.{type_.__qualname__}")


def _service(name: str) -> Iterator[Finding]:
    from pannier.supervisor.tables import TableStates

    category = f"service {name}"
    try:
        status = ask(name, lambda bus: bus.request("supervisor", "status", Nothing(), Status))
        tables = ask(name, lambda bus: bus.request("supervisor", "tables", Nothing(), TableStates))
        urls = ask(name, lambda bus: bus.request("supervisor", "urls", Nothing(), Urls))
    except PannierError as error:
        yield Finding(category, "failure", error.message, error.hint)
        return
    for process in status.processes:
        good = process.state in _ALIVE
        restarts = f", {process.restarts} restarts" if process.restarts else ""
        text = f"{process.kind} {process.name} is {process.state} (pid {process.pid or '-'}{restarts})"
        yield Finding(category, "ok" if good else "failure", text, "" if good else f"pannier logs --name {name}")
    for table in tables.tables:
        if table.absent:
            yield Finding(category, "ok", f"table {table.kind}: absent")
            continue
        fresh = table.age_s is not None and table.age_s < STALE
        text = f"table {table.kind}: generation {table.generation}, heartbeat {table.age_s} s ago"
        hint = "" if fresh else "its last content holds; see whether its writer runs: pannier ps"
        yield Finding(category, "ok" if fresh else "warning", text, hint)
    for what, url in urls.urls.items():
        yield Finding(category, "ok", f"{what} at {url}")
