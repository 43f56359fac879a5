"""Where the instructions of a request go: parsing, routing, balancing, accounting, the reactor, and so on.

A line counts for the phase of its own file, also where it was inlined elsewhere; a line of the standard library for
that of the function into which it was inlined, since `Vec::push` is nobody's work in itself. The rules are a table,
the first that matches `file:function` decides, and what none matches is `other`, so that the sum is the total.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.bench.callgrind import Dump, Line

STANDARD = re.compile(r"^(?:/rustc/[0-9a-f]+/library/|/rust/deps/)")
CARGO = re.compile(r".*/(?:registry/src/[^/]+|shared/core|git/checkouts/[^/]+)/")
FUNCTION = re.compile(r"\s*(?:pub(?:\([^)]*\))? )?(?:const )?(?:async )?(?:unsafe )?fn (\w+)")
ALLOCATES = re.compile(r"(?:malloc|calloc|realloc|posix_memalign|aligned_alloc|memalign)(?:@.*|'\d+)?$")

OTHER = "other"
RULES: tuple[tuple[str, str], ...] = (
    ("allocator", r"libc\S*:(_?_?int_\w+|_?_?libc_\w*alloc|\w*alloc\w*|free|_?cfree|unlink_chunk\S*|tcache\w*)"),
    ("allocator", r"(alloc/src/alloc|std/src/sys/alloc|std/src/alloc)"),
    ("copies", r"(libc\S*|ld-linux\S*):\w*mem(cpy|move|set|cmp|chr)"),
    ("clock", r"(libc\S*:\w*clock_gettime|\S*vdso\S*|table/src/clock|std/src/(sys/)?\S*time|core/src/time)"),
    ("system calls", r"(libc|ld-linux)\S*:"),
    ("system calls", r"(rustix|linux-raw-sys|std/src/(sys/(net|fd|pal)|os)/|std/src/(net|io)/)"),
    ("trace", r"decide/src/(trace|hex|random)\.rs"),
    (
        "serialise",
        r"http/src/(edits\.rs|(request|response|fields|body|chunked|forwarding)\.rs:(write|renew|finish|deadline|forward|canonical)\w*)",
    ),
    # The texts that a proxy looks into are heads.
    ("parse", r"(http/src/|httparse-|memchr-|core/src/str/)"),
    ("route", r"(decide/src/(route|matching|rules|route_labels|rewriting|cors|policy)\.rs|regex-)"),
    ("plan", r"proxy/src/plan\.rs"),
    ("balance", r"(decide/src/(balance|load|hashing|affinity|cluster|live)\.rs|xxhash-|table/src/hot\.rs)"),
    ("limits", r"(decide/src/|proxy/src/(admission|retrying|call)\.rs)"),
    ("account", r"(proxy/src/account\.rs|table/src/)"),
    ("reactor", r"(reactor/src/|tokio-|proxy/src/(threads|timers|stream|notify)\b)"),
    ("exchange", r"(proxy/src/|pannierd/src/)"),
    ("standard library", r"(core|alloc|std|hashbrown)\S*/src/"),
)
PHASES = (*dict.fromkeys(name for name, _ in RULES), OTHER)
_COMPILED = tuple((name, re.compile(rule)) for name, rule in RULES)


def phases(dump: Dump, requests: int) -> dict[str, float]:
    """Instructions a request by phase, in the order of `PHASES`; they sum up to the dump's total."""
    found: Counter[str] = Counter()
    for line, cost in dump.costs.items():
        found[phase(line)] += cost
    return {name: found[name] / requests for name in PHASES}


def allocations(dump: Dump, requests: int) -> float:
    """How often a request asks for memory, the allocator's calls of itself left out."""
    calls = {pair: count for pair, count in dump.calls.items() if ALLOCATES.match(pair[1])}
    return sum(count for (caller, _), count in calls.items() if not ALLOCATES.match(caller)) / requests


def phase(line: Line) -> str:
    """The phase of one line."""
    return _phase_of(_where(line))


@cache
def _phase_of(where: str) -> str:
    return next((name for name, rule in _COMPILED if rule.match(where)), OTHER)


def _where(line: Line) -> str:
    """`file:function` as the rules know it: the file without what differs between machines."""
    if line.binary.startswith(("libc", "ld-linux", "libpthread")):
        return f"{line.binary}:{line.symbol.partition('@')[0]}"
    if not STANDARD.search(line.file):
        return f"{_short(line.file)}:{function_at(line.file, line.number)}"
    if line.home == line.file or STANDARD.search(line.home):
        return f"{_short(line.file)}:"
    # std inlined into somebody's function: only the symbol says into which.
    return f"{_short(line.home)}:{line.symbol.split('::{{')[0].rpartition('::')[2]}"


def _short(file: str) -> str:
    return STANDARD.sub("", CARGO.sub("", file))


def function_at(file: str, number: int) -> str:
    """The function that encloses a line of our own source; empty where the source is not here."""
    starts = _functions(file)
    place = bisect_right(list(starts), number) - 1
    return "" if place < 0 else list(starts.values())[place]


@cache
def _functions(file: str) -> Mapping[int, str]:
    if "/shared/core/" not in file or not Path(file).is_file():
        return {}
    lines = Path(file).read_text().splitlines()
    named = ((number, FUNCTION.match(text)) for number, text in enumerate(lines, start=1))
    return {number: found[1] for number, found in named if found}
