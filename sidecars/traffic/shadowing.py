"""Which routes can never be reached, since one before them takes what they match. Pure.

A route is as many *parts* as it has hosts times matches. A part is taken by an earlier one whose every condition holds
whenever the part's hold. Paths, prefixes, methods, headers, parameters, ports and sources are compared exactly; a
regular expression is known to be implied only by the same one. What is said is therefore true; that several parts
together take another one is not found.

Each part is looked up by what could take it (its host, path or a prefix of it, method), not compared with all before
it: 10 000 routes must not hold up whoever loads a profile. What is built to be compared for long ends at `BUDGET`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, product
from typing import NamedTuple, TypeAlias

from pannier.sidecars.traffic.config import Match, Route, Text

BUDGET = 2_000_000
"""Look-ups, about a second of them; a part of a route costs as much as ten."""

Condition: TypeAlias = tuple[str, ...]
Earlier: TypeAlias = dict[tuple[Condition, str], dict[frozenset[Condition], int]]
"""By condition on the path and by method (empty = any): what else must hold, and the first route that wants no more."""

_EVERY_PATH: Condition = ()
_ROOT: Condition = ("prefix", "")


class Shadowed(NamedTuple):
    """Of the route number `route`, so many of its `parts` are taken; `by` are the numbers of the routes that do it."""

    route: int
    taken: int
    parts: int
    by: list[int]


class TooMuch(Exception):
    """The routes from number `route` on were not compared."""

    def __init__(self, route: int) -> None:
        super().__init__(route)
        self.route = route


def shadowed(routes: Sequence[Route]) -> Iterator[Shadowed]:
    """The routes that are taken whole or in part, in their order. Raises TooMuch, after what was found, at `BUDGET`."""
    earlier: dict[tuple[str, str], Earlier] = {}
    budget = BUDGET
    for number, route in enumerate(routes):
        taken: Counter[int] = Counter()
        parts = 0
        for host in dict.fromkeys(host.lower() for host in route.hosts):
            takers = [earlier[key] for wider in _hosts(host) if (key := (route.side, wider)) in earlier]
            for match in route.matches or [Match()]:
                parts += 1
                budget -= 10
                must, known = _conditions(match), _implied(match)
                found = []
                for one in takers:
                    for path_and_method in product(_paths(match), {match.method or "", ""}):
                        taker, spent = _taken(one.get(path_and_method, {}), known)
                        budget -= spent
                        if taker is not None:
                            found.append(taker)
                if budget < 0:
                    raise TooMuch(number)
                if not found:
                    same_host = earlier.setdefault((route.side, host), {})
                    same_host.setdefault((_path(match), match.method or ""), {}).setdefault(must, number)
                elif min(found) != number:
                    taken[min(found)] += 1
        if taken:
            yield Shadowed(number, taken.total(), parts, sorted(taken))


def _taken(earlier: Mapping[frozenset[Condition], int], known: frozenset[Condition]) -> tuple[int | None, int]:
    """The first earlier part, all of whose conditions are known to hold, and what it cost to look."""
    if not earlier:
        return None, 1
    if 1 << len(known) < len(earlier):
        subsets = chain.from_iterable(combinations(known, size) for size in range(len(known) + 1))
        numbers = [earlier[subset] for conditions in subsets if (subset := frozenset(conditions)) in earlier]
        return min(numbers, default=None), 1 << len(known)
    return min((number for must, number in earlier.items() if must <= known), default=None), len(earlier)


def _hosts(host: str) -> Iterator[str]:
    """The hosts of which a request has one whenever it has this one: `*` is any, `*.x` what ends in `.x`."""
    yield host
    text = host.removeprefix("*")
    for start in range(host.startswith("*"), len(text) + 1):
        yield f"*{text[start:]}"


def _path(match: Match) -> Condition:
    if match.path is not None:
        return "path", match.path
    if match.prefix is not None:
        return "prefix", match.prefix.rstrip("/")
    return ("regex", match.regex) if match.regex is not None else _EVERY_PATH


def _paths(match: Match) -> list[Condition]:
    """The conditions on the path that hold whenever the match's own does."""
    own = _path(match)
    found = [own, _EVERY_PATH, _ROOT]
    if own and own[0] != "regex":
        text = own[1]
        found += [("prefix", text[:end]) for end, character in enumerate(text) if character == "/"]
        found.append(("prefix", text))
    return list(dict.fromkeys(found))


def _conditions(match: Match) -> frozenset[Condition]:
    """What must hold besides host, path and method."""
    found = [
        *(("header", name.lower(), *_text(text)) for name, text in match.headers.items()),
        *(("query", name, *_text(text)) for name, text in match.query.items()),
    ]
    if match.port is not None:
        found.append(("port", str(match.port)))
    if match.source is not None:
        found.append(("source", match.source))
    return frozenset(found)


def _implied(match: Match) -> frozenset[Condition]:
    """What holds whenever the conditions do: what has a value is present."""
    conditions = _conditions(match)
    present = {(kind, name, "present") for kind, name, *text in conditions if text and text[0] in ("exact", "regex")}
    return conditions | present


def _text(text: Text) -> Condition:
    if text.exact is not None:
        return "exact", text.exact
    if text.regex is not None:
        return "regex", text.regex
    return ("present",) if text.present else ("absent",)
