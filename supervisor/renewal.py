"""The supervisor becomes the version that is installed now: the same PID, terminal, parent and command line.

It ends its trio run, which closes the bus and the keeper's connection, and executes its own command again. That one
finds a keeper and goes on with what runs, as any successor does. Rules:

- The new version is asked first, in a process of its own: the whole command line is read again, files and all, and the
  note that it will find is decoded. What it refuses is refused here, and nothing has happened.
- Signals are held back in between, so that none is lost and none ends it.
- Nobody but the keeper sees the moment; it is told to wait, whatever its grace.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final, NamedTuple, NoReturn

import trio
from pannier.shared.errors import Blame, PannierError
from pannier.supervisor import adoption
from pannier.supervisor.adoption import Record

VARIABLE: Final = "PANNIER_RENEWAL"
"""How the next life knows that it is one: `check`, or `go` and the seconds that are left of `--for`."""
BETWEEN_MS: Final = 30_000
"""How long the keeper waits for the next life."""
HELD_BACK: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
_CHECK: Final = "check"
_GO: Final = "go"
_CHECK_PATIENCE: Final = 20.0  # seconds


class Again(NamedTuple):
    """This life is over, and another one begins; `seconds` are left of it, if it is to end by itself."""

    seconds: float | None


class Renewal(NamedTuple):
    """What the life before said: only to `check`, or to go on for so many `seconds`."""

    check: bool
    seconds: float | None


def begun() -> Renewal | None:
    """What the life before this one said, once: nobody whom we start is to hear it. None if there was none."""
    said = os.environ.pop(VARIABLE, None)
    if said is None:
        return None
    _, _, left = said.partition(" ")
    return Renewal(said == _CHECK, float(left) if left else None)


async def check(record: Record) -> None:
    """Asks the installed version whether it can go on with what `record` says. Raises PannierError with its reason."""
    with trio.move_on_after(_CHECK_PATIENCE):
        asked = await trio.run_process(
            _command(),
            stdin=adoption.encode(record),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, VARIABLE: _CHECK},
        )
        if asked.returncode == 0:
            return
        raise _refused(asked.stderr.decode(errors="replace").strip() or f"it ended with {asked.returncode}")
    raise _refused(f"it said nothing in {_CHECK_PATIENCE:g} s")


def answer_check() -> int:
    """The other side: decodes the note on standard input. Raises PannierError."""
    adoption.decode(sys.stdin.buffer.read())
    return 0


def hold_signals() -> None:
    """From now on they wait for the next life."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)


def let_signals_through() -> None:
    """Once there is somebody who hears them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def become(again: Again, lifeline: int | None) -> NoReturn:
    """The next life begins in place of this one; it gets `lifeline`."""
    if lifeline is not None:
        os.set_inheritable(lifeline, True)
    os.environ[VARIABLE] = _GO if again.seconds is None else f"{_GO} {again.seconds:.3f}"
    command = _command()
    os.execv(command[0], command)


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _refused(reason: str) -> PannierError:
    return PannierError(
        f"the installed version cannot go on with what runs, so nothing was changed: {reason}",
        hint="see `pannier version`; to change versions all the same, end the service and start it again",
        blame=Blame.PLATFORM,
    )
