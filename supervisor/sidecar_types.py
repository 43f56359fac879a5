"""Finds the installed sidecars: entry points of the group `pannier.sidecars`, `NAME = "PACKAGE.config:Config"`.

This is the one place that knows how a sidecar is found; a third party's is found in the same way as ours. The entry
point names the struct that its part of a profile decodes into, whose `needs` say the rest; `python -m` runs the package
around a module called `config`, and any other module itself.

A package that is broken is the trouble of whoever names its sidecar in a profile, and of nobody else: a `Broken` stands
in for its settings.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import msgspec
from pannier.shared.explain import printable
from pannier.shared.rights import Broken
from pannier.shared.runtime import NAME_PATTERN

GROUP: Final = "pannier.sidecars"
_OURS: Final = "pannier"
_TAKEN: Final = frozenset({"app", "cli", "fused", "keeper", "proxy", "supervisor"})
"""Names of processes and roles that are no sidecars."""


def sidecar_types() -> dict[str, type[msgspec.Struct]]:
    """The config type of each installed sidecar, by name; a `Broken` for one that cannot be had."""
    importlib.invalidate_caches()  # what was installed a moment ago is to be found, too
    return {name: _type(entries) for name, entries in _entries().items()}


def sidecar_modules() -> Mapping[str, str]:
    """The module that `python -m` runs for each installed sidecar, by name; nothing is imported."""
    return {name: _module(entries[0]) for name, entries in _entries().items()}


def _entries() -> dict[str, Sequence[EntryPoint]]:
    """All entry points by name. A name of ours is ours alone, whoever else claims it."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, not _is_ours(entry), entry.value)):
        others = found.setdefault(entry.name, [])
        if not (others and _is_ours(others[0])):
            others.append(entry)
    return dict(found)


def _module(entry: EntryPoint) -> str:
    package, _, last = entry.module.rpartition(".")
    return package if package and last == "config" else entry.module


def _type(entries: Sequence[EntryPoint]) -> type[msgspec.Struct]:
    entry = entries[0]
    if len(entries) > 1:
        packages = " and ".join(_package(each) for each in entries)
        return _broken(entry, f"{packages} both have a sidecar of that name", "uninstall one of them")
    if not re.fullmatch(NAME_PATTERN, entry.name) or entry.name in _TAKEN:
        return _broken(entry, f"{_said(entry)}: no sidecar can be called that", "another name in its entry point")
    if not _is_ours(entry) and entry.module.partition(".")[0] == _OURS:
        return _broken(entry, f"{_said(entry)}: the modules of pannier are its own", "a module of its own")
    try:
        found = entry.load()
        if not (isinstance(found, type) and issubclass(found, msgspec.Struct)):
            return _broken(entry, f"{_said(entry)} is no msgspec.Struct")
        if not _is_ours(entry):
            msgspec.json.schema(found)  # or a field of it would break everybody's `profile schema`
    except (Exception, SystemExit) as error:  # a third party's module may raise anything
        return _broken(entry, f"{_said(entry)} cannot be imported: {type(error).__name__}: {error}")
    return found


def _broken(entry: EntryPoint, reason: str, remedy: str = "") -> type[msgspec.Struct]:
    remedy = remedy or f"pip install --force-reinstall {_package(entry)}"
    return type(
        "Broken", (Broken,), {"reason": f"it is installed but broken: {printable(reason, 300)}", "remedy": remedy}
    )


def _said(entry: EntryPoint) -> str:
    return f"{entry.name} = {entry.value} of {_package(entry)}"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown package"


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == _OURS
