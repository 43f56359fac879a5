"""Finds the installed sidecars: entry points of the group `pannier.sidecars`, `NAME = "PACKAGE.config:Config"`.

This is the one place that knows how a sidecar is found; a third party's is found in the same way. The entry point names
the struct that its part of a profile decodes into, and the package around that struct is what `python -m` runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

import msgspec
from pannier.shared.errors import Blame, PannierError

GROUP = "pannier.sidecars"


def sidecar_types() -> dict[str, type[msgspec.Struct]]:
    """The config type of each installed sidecar, by name. Raises PannierError for one that cannot be imported."""
    return {name: _load(entry) for name, entry in _entries().items()}


def sidecar_modules() -> Mapping[str, str]:
    """The module that `python -m` runs for each installed sidecar, by name; nothing is imported."""
    return {name: entry.module.rpartition(".")[0] or entry.module for name, entry in _entries().items()}


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def _load(entry: EntryPoint) -> type[msgspec.Struct]:
    try:
        found = entry.load()
    except Exception as error:  # a third party's module may raise anything
        raise _broken(entry, f"cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, msgspec.Struct)):
        raise _broken(entry, "is no msgspec.Struct")
    return found


def _broken(entry: EntryPoint, reason: str) -> PannierError:
    package = entry.dist.name if entry.dist else "its package"
    return PannierError(
        f"the sidecar {entry.name} is installed but broken: {entry.value} {reason}",
        hint=f"pip install --force-reinstall {package}",
        blame=Blame.PLATFORM,
    )
