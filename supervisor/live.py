"""The live layer of a service: what commands changed while it ran, in `<state>/live/NAME.toml`.

It is the topmost layer of the configuration. It survives the supervisor's death, since a change that was made by hand
must not vanish with a crash; a clean stop clears it, since the next run begins as the profile says. It needs not
survive the host, where nothing of the service does: hence no fsync, for which the supervisor would stand still.

A sidecar runs if the layer has it, as a table or as `true`; `false` takes it away. So a table that a change leaves
empty stays where it is all that makes the sidecar run, and is cleared away where the layers below have the sidecar.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pannier.shared.errors import Blame, PannierError
from pannier.shared.runtime import check_name, state_dir
from pannier.supervisor.difference import NOTHING

Setting: TypeAlias = tuple[Sequence[str], Any]
"""A path from the root, and its value; NOTHING takes it away."""
_SIDECARS = "sidecars"
_CENTRAL = "central"


def changed(live: Mapping[str, Any], settings: Iterable[Setting], below: Mapping[str, Any]) -> dict[str, Any]:
    """The layer with these settings over it, one after the other; `below` are the layers under it, merged."""
    layer = _copy(live)
    for path, value in settings:
        if value is NOTHING:
            _remove(layer, tuple(path), below)
        elif not (value is True and _is_sidecar(path) and isinstance(_parent(layer, path).get(path[-1]), dict)):
            _parent(layer, path)[path[-1]] = _own(value)
    return layer


def carried(
    live: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The layer over the layers `new` instead of `old`, and whose live settings are dropped.

    Settings of a sidecar that came with the old stage and is no part of the new one would make it run there: who tuned
    a sidecar did not ask for that. The Central Mesh is there by its table, in the same way.
    """
    dropped = tuple(
        name
        for name, settings in live.get(_SIDECARS, {}).items()
        if isinstance(settings, dict) and name in old.get(_SIDECARS, {}) and name not in new.get(_SIDECARS, {})
    )
    layer = _copy(live)
    for name in dropped:
        _remove(layer, (_SIDECARS, name), new)
    if _CENTRAL in live and _CENTRAL in old and _CENTRAL not in new:
        del layer[_CENTRAL]
        dropped += (_CENTRAL,)
    return layer, dropped


def live_path(service: str) -> Path:
    """Where the live layer of `service` is. Raises UsageError for a name that is none."""
    return state_dir() / "live" / f"{check_name(service)}.toml"


def read_live(service: str) -> dict[str, Any]:
    """The layer; empty if there is none. Raises PannierError if it cannot be read."""
    path = live_path(service)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PannierError(
            f"cannot read the live layer {path}: {error}", hint=f"rm {path}", blame=Blame.CONFIG
        ) from error


def write_live(service: str, layer: Mapping[str, Any]) -> None:
    """Replaces the layer, whole or not at all. Raises PannierError if it cannot be written."""
    path = live_path(service)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_suffix(".new")
        import tomlkit  # only who changes a service that runs needs it

        draft.write_text(tomlkit.dumps(layer), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise PannierError(
            f"cannot write the live layer {path}: {error.strerror}",
            hint="the change holds until the service stops; check the space and the rights of that folder",
            blame=Blame.PLATFORM,
        ) from error


def clear_live(service: str) -> None:
    """Takes the layer away. Raises PannierError if it is still there."""
    path = live_path(service)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise PannierError(
            f"cannot remove the live layer {path}: {error.strerror}",
            hint="the next run takes it up again, unless you remove it",
            blame=Blame.PLATFORM,
        ) from error


def _copy(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The layer in tables of its own. TOML has no None: what is None is not there."""
    return {key: _own(value) for key, value in layer.items() if value is not None}


def _own(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _copy(value)
    return [_own(entry) for entry in value] if isinstance(value, list) else value


def _is_sidecar(path: Sequence[str]) -> bool:
    return len(path) == 2 and path[0] == _SIDECARS


def _parent(layer: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The table that `path` is in, made where there is none."""
    table = layer
    for key in path[:-1]:
        inner = table.get(key)
        if not isinstance(inner, dict):
            inner = table[key] = {}
        table = inner
    return table


def _remove(layer: dict[str, Any], path: tuple[str, ...], below: Mapping[str, Any]) -> None:
    tables = [layer]
    for key in path[:-1]:
        inner = tables[-1].get(key)
        if not isinstance(inner, dict):
            return
        tables.append(inner)
    tables[-1].pop(path[-1], None)
    for depth in range(len(path) - 1, 0, -1):
        keeps = _is_sidecar(path[:depth]) and path[1] not in below.get(_SIDECARS, {})
        if tables[depth] or keeps:
            return
        del tables[depth - 1][path[depth - 1]]
