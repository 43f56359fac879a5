"""Reads what callgrind wrote: who spent how many instructions on which line, and who called whom how often.

The format is that of callgrind's manual, chapter "Callgrind Format Specification": names are compressed to `(number)`
after their first use, lines are relative, and the line after `calls=` is the cost of the call, which is counted where
it was spent. `fi=` and `fe=` name the file of what follows inside a function: code that was inlined from elsewhere.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

NAME = re.compile(r"\((\d+)\)(?: (.*))?$")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source that cost something. `symbol` and `home` are the function in the binary and its file, into which
    the line may have been inlined; `binary` is the file name of the program or library."""

    binary: str
    home: str
    symbol: str
    file: str
    number: int


@dataclass
class Dump:
    """Instructions by line, and calls by the function that was called, and by whom."""

    costs: Counter[Line] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.costs.values())

    def add(self, other: "Dump") -> None:
        """Adds what another dump counted."""
        self.costs.update(other.costs)
        self.calls.update(other.calls)


@dataclass
class _Names:
    known: dict[str, str] = field(default_factory=dict)

    def read(self, text: str) -> str:
        found = NAME.match(text)
        if found is None:
            return text
        if found[2] is not None:
            self.known[found[1]] = found[2]
        return self.known.get(found[1], text)


def parse(text: str) -> Dump:
    """Reads one dump; the sum of the costs is the `totals:` line. Raises ValueError when it is not."""
    files, symbols, binaries = _Names(), _Names(), _Names()
    dump = Dump()
    binary = home = file = symbol = called = ""
    number, expected, of_call = 0, None, False
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            place, cost = line.split()[:2]
            number = _number(place, number)
            if not of_call:
                dump.costs[Line(binary, home, symbol, file, number)] += int(cost)
            of_call = False
        elif key == "ob":
            binary = binaries.read(value).rpartition("/")[2]
        elif key == "fl":
            home = file = files.read(value)
        elif key in ("fi", "fe"):
            file = files.read(value)
        elif key == "fn":
            symbol, file = symbols.read(value), home
        elif key in ("cfi", "cfl"):
            files.read(value)
        elif key == "cob":
            binaries.read(value)
        elif key == "cfn":
            called = symbols.read(value)
        elif key == "calls":
            dump.calls[symbol, called] += int(value.split()[0])
            of_call = True
        elif line.startswith("totals:"):
            expected = int(line.split()[1])
    if dump.total != expected:
        raise ValueError(f"the lines sum up to {dump.total}, the dump says {expected}")
    return dump


def _number(place: str, before: int) -> int:
    if place == "*":
        return before
    return before + int(place) if place[0] in "+-" else int(place)
