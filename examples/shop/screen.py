"""Where the live view goes: redrawn once a second on a terminal, one block every 5 s in a pipe or a log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

HOME, CLEAR, TO_END_OF_LINE, BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


class Screen:
    """`every` is how often to call `show`, in seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._clean = False
        self.every = 1.0 if self._live else 5.0

    def show(self, lines: Sequence[str]) -> None:
        """The view as it is now; on a terminal it takes the place of the one before, cut to what fits."""
        if not self._live:
            self.say(*lines, "")
            return
        size = os.get_terminal_size(self._stream.fileno())
        fitting = [line[: size.columns] + TO_END_OF_LINE for line in lines[: size.lines - 1]]
        self._stream.write((HOME if self._clean else CLEAR + HOME) + "\n".join(fitting) + "\n" + BELOW)
        self._stream.flush()
        self._clean = True

    def say(self, *lines: str) -> None:
        """Lines that stay."""
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()
