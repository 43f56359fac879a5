"""Where the sockets and the state of a host's services live, and that nobody else can reach them.

Whoever may write into these folders controls the mesh: a folder that is a symlink, belongs to somebody else, or is
writable for others is refused, never repaired, since what is in it may already be somebody else's. Socket names are
limited to 107 bytes by the kernel, so a path that is too long is refused here, before a bind fails far away.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from pannier.shared.errors import Blame, PannierError, UsageError

NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SOCKET_NAME_LIMIT = 107
"""Bytes of a socket's path that `sockaddr_un` holds, its terminator aside."""
LONGEST_SOCKET = "keeper.sock"
REGISTRY = "registry"


def runtime_dir() -> Path:
    """The folder of this user's running services, created if missing.

    `PANNIER_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/pannier`, else `/run/pannier` (root) or `/tmp/pannier-UID`.
    Raises PannierError if the folder cannot be trusted, cannot be made, or is too long for a socket name.
    """
    path = _first_of("PANNIER_RUNTIME_DIR", "XDG_RUNTIME_DIR")
    if path is None:
        path = Path("/run/pannier") if os.geteuid() == 0 else Path(f"/tmp/pannier-{os.geteuid()}")
    _check_length(path / "x")
    return private_dir(path)


def service_dir(name: str, *, create: bool = True) -> Path:
    """The folder of one service, created if missing unless `create` is false.

    Raises UsageError for a name that is none; PannierError as `runtime_dir` does.
    """
    check_name(name)
    path = runtime_dir() / name
    _check_length(path)
    if not create and not os.path.lexists(path):
        return path
    return private_dir(path)


def state_dir() -> Path:
    """The folder of what outlives a run (live layer, snapshots, history), created if missing.

    `PANNIER_STATE_DIR`, else `$XDG_STATE_HOME/pannier`, else `/var/lib/pannier` (root) or `~/.local/state/pannier`.
    Raises PannierError if the folder cannot be trusted or made.
    """
    path = _first_of("PANNIER_STATE_DIR", "XDG_STATE_HOME")
    if path is None:
        path = Path("/var/lib/pannier") if os.geteuid() == 0 else Path.home() / ".local/state/pannier"
    return private_dir(path, "PANNIER_STATE_DIR")


def default_name() -> str:
    """The name of this folder, made a service name."""
    text = re.sub(r"[^a-z0-9]+", "-", Path.cwd().name.lower()).strip("-")[:63].strip("-")
    return text or "app"


def check_name(name: str) -> str:
    """Returns `name` if a service may be called so, else raises UsageError."""
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise UsageError(
            f"{name[:80]!r} is no service name",
            hint="use 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or a digit",
        )
    if name == REGISTRY:
        raise UsageError(
            f"the name {REGISTRY!r} is taken by the host's registry", hint="choose another with --name NAME"
        )
    return name


def _first_of(own: str, xdg: str) -> Path | None:
    if text := os.environ.get(own):
        if not os.path.isabs(text):
            raise PannierError(
                f"{own} is {text!r}, not an absolute path", hint=f'export {own}="$PWD/{text}"', blame=Blame.CONFIG
            )
        return Path(text)
    # The XDG specification: a relative path is to be ignored.
    base = os.environ.get(xdg, "")
    return Path(base) / "pannier" if os.path.isabs(base) else None


def _check_length(service: Path) -> None:
    length = len(os.fsencode(service / LONGEST_SOCKET))
    if length > SOCKET_NAME_LIMIT:
        raise PannierError(
            f"the path {service / LONGEST_SOCKET} has {length} bytes; a socket name has at most {SOCKET_NAME_LIMIT}",
            hint=f"export PANNIER_RUNTIME_DIR=/tmp/pannier-{os.geteuid()}  # or a shorter --name",
            blame=Blame.PLATFORM,
        )


def private_dir(path: Path, variable: str = "PANNIER_RUNTIME_DIR") -> Path:
    """A folder that is ours alone to write into, created if missing (0700).

    Raises PannierError if it cannot be made or trusted; `variable` is what the hint says to set.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError as error:
        raise PannierError(
            f"cannot make the folder {path}: {error.strerror}",
            hint=f"export {variable}=/a/folder/of/your/own",
            blame=Blame.PLATFORM,
        ) from error
    if stat.S_ISLNK(found.st_mode):
        reason, hint = "it is a symbolic link", f"rm {path}"
    elif not stat.S_ISDIR(found.st_mode):
        reason, hint = "it is no folder", f"rm {path}"
    elif found.st_uid != os.geteuid():
        reason = f"it belongs to uid {found.st_uid}, and this is uid {os.geteuid()}"
        hint = f"export {variable}=/a/folder/of/your/own"
    elif found.st_mode & 0o022:
        reason = f"others may write into it (mode {stat.S_IMODE(found.st_mode):04o})"
        hint = f"look at what is in it, then: chmod 700 {path}"
    else:
        return path
    raise PannierError(f"{path} is not safe to use: {reason}", hint=hint, blame=Blame.PLATFORM)
