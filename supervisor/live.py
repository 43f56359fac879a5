"""The live layer of a service: what commands changed while it ran, in `<state>/live/NAME.toml`.

It is the topmost layer of the configuration. It survives the supervisor's death, since a change that was made by hand
must not vanish with a crash; a clean stop clears it, since the next run begins as the profile says. It needs not
survive the host, where nothing of the service does: hence no fsync, for which the supervisor would stand still.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from pannier.shared.errors import Blame, PannierError
from pannier.shared.runtime import check_name, state_dir


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
        draft.write_text(tomlkit.dumps(layer), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise PannierError(
            f"cannot write the live layer {path}: {error.strerror}",
            hint="the change holds until the service stops; check the space and the rights of that folder",
            blame=Blame.PLATFORM,
        ) from error


def switch_sidecar(service: str, name: str, *, on: bool) -> None:
    """Records that a sidecar was added or removed by hand."""
    layer = read_live(service)
    sidecars = layer.setdefault("sidecars", {})
    settings = sidecars.get(name)
    if not (on and isinstance(settings, dict)):
        sidecars[name] = on
    write_live(service, layer)


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
