"""What one supervisor leaves with the keeper for the next, and what the next finds. Pure but for `save` and `load`.

A note holds the plan and what became of it; the keeper's list says what runs. Together they are all that a new
supervisor needs: it goes on with the *running* plan, whatever the command line says now, and reports the difference
in one line.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Mapping
from typing import Final

import msgspec
from pannier.shared.errors import Blame, PannierError
from pannier.supervisor.central_table import Forced
from pannier.supervisor.hold import exit_of
from pannier.supervisor.keeper import NOTE_MAX, Keeper, KeeperError, Listing
from pannier.supervisor.objective import Trial
from pannier.supervisor.plan import Arguments, Plan, Said
from pannier.supervisor.restart import Exit

KEY: Final = "plan"


class Pending(msgspec.Struct, frozen=True):
    """A change that is taken back at `until` (seconds since boot) unless somebody confirms it: then `arguments` and
    `said`, which held before, hold again. With `trials` it is taken back as soon as one of them fails, else it
    stands at `until`."""

    until: float
    arguments: Arguments
    said: Said
    trials: tuple[Trial, ...] = ()


class Record(msgspec.Struct, frozen=True):
    """`restarts` by process, the life with the PID in `counted` included; `revision` of the configuration in force.
    `changing` are sidecars that a change was just about to touch: they may be as `plan` does not say.
    `forced` is the weight that somebody asked for, the last of so many `forcings`."""

    plan: Plan
    restarts: dict[str, int] = {}
    counted: dict[str, int] = {}
    revision: int = 1
    changing: tuple[str, ...] = ()
    pending: Pending | None = None
    forced: Forced | None = None
    forcings: int = 0


class Found(msgspec.Struct, frozen=True):
    """What the keeper still has: PIDs of what runs, ends of what ended meanwhile; by name."""

    running: dict[str, int]
    ended: dict[str, tuple[int, Exit]]


def found(listing: Listing) -> Found:
    """Sorts the keeper's list."""
    ended = {}
    for process in listing.processes:
        if (end := process.exited) is not None:
            ended[process.name] = (process.pid, exit_of(end))
    return Found({process.name: process.pid for process in listing.processes if process.running}, ended)


def encode(record: Record) -> bytes:
    """The note. Raises PannierError if it does not fit."""
    plain = msgspec.msgpack.encode(record)
    note = zlib.compress(plain, 1)  # thrice as fast as the default, and mostly as small
    if len(note) > NOTE_MAX:
        note = zlib.compress(plain)
    if len(note) > NOTE_MAX:
        raise PannierError(
            f"the plan takes {len(note)} bytes, the keeper's note holds {NOTE_MAX}",
            hint="make the profile smaller, or the environment: env -i PATH=… pannier run …",
            blame=Blame.PLATFORM,
        )
    return note


def decode(note: bytes) -> Record:
    """The record of a note. Raises PannierError for one that this version does not understand."""
    try:
        return msgspec.msgpack.decode(zlib.decompress(note), type=Record)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise PannierError(
            f"another version of pannier runs this service: {error}",
            hint="stop it with that version, or with `pannier down`",
            blame=Blame.PLATFORM,
        ) from error


async def save(keeper: Keeper, record: Record) -> None:
    """Leaves the record with the keeper. Raises KeeperGone."""
    await keeper.note_put(KEY, encode(record))


async def load(keeper: Keeper) -> Record | None:
    """What an earlier supervisor left; None if it died before it had a plan."""
    try:
        return decode(await keeper.note_get(KEY))
    except KeeperError as error:
        if error.errno != errno.ENOENT:
            raise
        return None


def differences(running: Arguments, asked: Arguments) -> str:
    """The arguments that were asked for and do not hold, in one line; empty if they all do."""
    ignored = {"cwd", "terminal"}
    now, then = (_shown(arguments) for arguments in (asked, running))
    return ", ".join(
        f"{name} is {then[name]!r}, not {now[name]!r}"
        for name in now
        if name not in ignored and now[name] != then[name]
    )


def _shown(arguments: Arguments) -> Mapping[str, object]:
    return msgspec.structs.asdict(arguments)
