"""Descriptors that a process inherits by name.

The keeper starts every process; what it lets a child inherit it names in the environment, with the number of each
descriptor: `PANNIER_FDS=table.base=5,metrics.0=7`. Only the text is read here: nothing is opened, checked or closed.
Refused: systemd's LISTEN_FDS, which fixes the numbers (3, 4, …) and so would make the keeper renumber descriptors
between fork and exec.
"""

from __future__ import annotations

from collections.abc import Mapping

from pannier.shared.errors import Blame, PannierError

VARIABLE = "PANNIER_FDS"


def inherited_fds(environ: Mapping[str, str]) -> dict[str, int]:
    """Names and numbers of the descriptors that `environ` speaks of; empty if it speaks of none.

    Raises PannierError for text that the keeper cannot have written: something between it and this process set it.
    """
    text = environ.get(VARIABLE, "")
    found: dict[str, int] = {}
    for entry in text.split(",") if text else ():
        name, separator, number = entry.rpartition("=")
        if not (separator and name and number.isascii() and number.isdigit() and name not in found):
            raise PannierError(
                f"{VARIABLE} holds {entry[:80]!r}, where NAME=NUMBER is expected",
                hint=f"do not set {VARIABLE}: the keeper does",
                blame=Blame.PLATFORM,
            )
        found[name] = int(number)
    return found
