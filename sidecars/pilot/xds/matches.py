"""Which requests a route is about, in Envoy's words. Pure.

A prefix of whole segments becomes two matches, of the path itself and of what is below it: gRPC refuses a whole
configuration that has `path_separated_prefix`, and so rewriting to `/` leaves one slash, as with us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.documents.policy import Client
from pannier.sidecars.pilot.xds.findings import Findings
from pannier.sidecars.pilot.xds.words import Json
from pannier.sidecars.traffic.config import Match, Text

GRPC_METHOD: Final = "POST"
USUAL_PORT: Final = 80
_NOT_IN_RE2: Final = re.compile(
    r"""
      \[[^\]]*(?:&&|--|~~|\[(?!:))  # operations on classes, and classes in classes
    | \\[uU]                       # code points
    | \\[bB]\{ | \\[<>]            # kinds of word boundaries
    | \\[pP]\{\^?[^}]{3,}          # properties other than general categories
    | \(\?[a-zA-Z]*[xuR]           # flags
    | \(\?<[a-zA-Z_]              # names, which older ones write (?P<name>
    | \{\d*,?\d{4,}               # counts: 1000 is the most
    """,
    re.VERBOSE,
)


class Matched(NamedTuple):
    """A match, and what of the path it has matched by prefix: None if it was none; `is_open`: more follows."""

    match: Json
    prefix: str | None
    is_open: bool


def matches(match: Match, where: Path, found: Findings, client: Client) -> Iterator[Matched]:
    """The matches that together say what `match` says; none if that cannot be said, or never holds.

    gRPC's calls are all POST, and it has no word for that."""
    if match.source is not None:
        found.add(
            (*where, "source"),
            "the whole match",
            "routes are the same for all clients: who calls is not known to the pilot",
        )
        return
    for path, expression in _expressions(match):
        if not is_re2(expression):
            found.add((*where, *path), "the whole match", "the expression is none of RE2, which both use")
            return
    headers = [_text(name, text) for name, text in match.headers.items()]
    if match.method is not None and client == "grpc" and match.method != GRPC_METHOD:
        return
    if match.method is not None and client == "envoy":
        headers.append({"name": ":method", "string_match": {"exact": match.method}})
    if match.port is not None:
        headers.append({"name": ":authority", "string_match": {"safe_regex": {"regex": _authority(match.port)}}})
        found.add((*where, "port"), "the whole match", "gRPC does not know the port of its target", "grpc")
    query = [_text(name, text) for name, text in match.query.items()]
    if query:
        found.add((*where, "query"), "the whole match", "gRPC's calls have no parameters", "grpc")
    conditions: Json = {}
    if headers:
        conditions["headers"] = headers
    if query:
        conditions["query_parameters"] = query
    for path_match, prefix, is_open in _paths(match):
        yield Matched({**path_match, **conditions}, prefix, is_open)


def is_re2(expression: str) -> bool:
    """Whether an expression of ours is one of RE2, in each of its versions. One that a client refuses costs it all
    routes, so in doubt it is none."""
    return _NOT_IN_RE2.search(expression) is None


def _paths(match: Match) -> Iterator[tuple[Json, str | None, bool]]:
    if match.path is not None:
        yield {"path": match.path}, None, False
    elif match.regex is not None:
        yield {"safe_regex": {"regex": match.regex}}, None, False
    else:
        prefix = (match.prefix or "/").rstrip("/")
        if prefix:
            yield {"path": prefix}, prefix, False
        yield {"prefix": f"{prefix}/"}, f"{prefix}/", True


def _expressions(match: Match) -> Iterator[tuple[Path, str]]:
    if match.regex is not None:
        yield ("regex",), match.regex
    texts: Mapping[str, Mapping[str, Text]] = {"headers": match.headers, "query": match.query}
    for field, conditions in texts.items():
        for name, text in conditions.items():
            if text.regex is not None:
                yield (field, name, "regex"), text.regex


def _text(name: str, text: Text) -> Json:
    if text.exact is not None:
        return {"name": name, "string_match": {"exact": text.exact}}
    if text.regex is not None:
        return {"name": name, "string_match": {"safe_regex": {"regex": text.regex}}}
    return {"name": name, "present_match": text.present}


def _authority(port: int) -> str:
    return rf"[^:]*(:{port})?" if port == USUAL_PORT else rf"[^:]*:{port}"
