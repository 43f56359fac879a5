"""The HTTP interface of the pilot for documents: the configuration of services, and the policies of stages.

    GET               /v1/config, /v1/policy          which there are
    GET, PUT, DELETE  /v1/config/{stage}/{service}    {"values": {KEY: TEXT}, "version", "comment"}
    PATCH             /v1/config/{stage}/{service}    {"set": {KEY: TEXT}, "unset": [KEY], "version", "comment"}
    GET, PUT, DELETE  /v1/policy/{stage}              {"traffic", "resilience", "proxy", "version", "comment"}
    GET               /v1/policy/{stage}/report       what clients of xDS do not get of it
    GET               .../history[/{version}]
    POST              .../rollback                    {"to": VERSION, "version", "comment"}

A GET with `?after=VERSION[&wait=30s]` answers as soon as there is a later version, or as it is then; such a one may say
that it was deleted. `version` is the one that the change is made to: 409 if another one is in force, 0 if there must be
none, left out if it does not matter. A rollback is a new version with an old content.

Configurations are the settings of apps: who reads them has to show what a change needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta
from pannier.shared.duration import milliseconds
from pannier.shared.errors import Blame, PannierError, Unreachable
from pannier.shared.explain import Finding, dotted
from pannier.shared.http_server import Request, Response, error_response, json_response
from pannier.shared.instances import SERVICE_PATTERN, STAGE_PATTERN
from pannier.shared.registration import not_allowed
from pannier.sidecars.pilot.documents import policies
from pannier.sidecars.pilot.documents.documents import (
    CONFIG,
    Content,
    Document,
    Documents,
    Key,
    Stale,
    TooMuch,
    Unknown,
)
from pannier.sidecars.pilot.documents.policies import Policies, findings
from pannier.sidecars.pilot.documents.policy import Unmapped
from pannier.sidecars.pilot.xds.report import unmapped

POLICY: Final = policies.KIND
MAX_KEYS: Final = 256
MAX_TOTAL: Final = 48 * 1024
"""Bytes of all keys and values of a configuration."""
WAIT_SECONDS: Final = 30.0
MAX_WATCHES: Final = 1000
_READING: Final = ("GET", "HEAD")
_HINTS: Final = {
    "PUT": 'send such as {"values": {"limit": "5"}}, or a policy such as {"traffic": {}, "resilience": {}}',
    "PATCH": 'send such as {"set": {"limit": "5"}, "unset": ["mode"]}',
    "POST": 'send such as {"to": 3}',
}
NAMES: Final = "use up to 63 of a-z, 0-9, '-', '.' and '_', a letter or a digit first"

StageName = Annotated[str, Meta(pattern=STAGE_PATTERN, description='a stage such as "production"')]
Name = Annotated[str, Meta(pattern=r"^[!-~]{1,128}$(?!\n)", description="a key of 1 to 128 visible characters")]
Value = Annotated[str, Meta(max_length=8192, description="a text of up to 8 KiB")]
Values: TypeAlias = Annotated[dict[Name, Value], Meta(max_length=MAX_KEYS)]
Version = Annotated[int, Meta(ge=0)]
Comment = Annotated[str, Meta(max_length=200)]
Refused: TypeAlias = Callable[[Request], Response | None]


class BadName(PannierError):
    """No stage and no service may be called so."""

    blame = Blame.USAGE


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of DELETE, and what every change may say: the version that it is made to, and why."""

    version: Version | None = None
    comment: Comment = ""


class Putting(Change, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of PUT of a configuration."""

    values: Values


class Patching(Change, frozen=True, forbid_unknown_fields=True):
    """Body of PATCH of a configuration."""

    set: Values = {}
    unset: list[Name] = []


class Rolling(Change, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of a rollback."""

    to: Annotated[int, Meta(ge=1)]


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version, as it is told. `content` is a configuration's `values` or a policy's parts."""

    stage: str
    version: int
    when: float
    service: str = ""
    comment: str = ""
    deleted: bool = False


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finding about a policy, as it is told."""

    path: str
    code: str
    severity: str
    message: str
    expectation: str = ""
    near: str = ""


class Waiting:
    """How many of one listener wait for a version: those of a port take nobody's place on our own socket."""

    def __init__(self) -> None:
        self.count = 0


_STATUS: Final = {BadName: 400, Stale: 409, TooMuch: 413, Unknown: 404, Unreachable: 503}


class DocumentsApi:
    """Answers what is about documents."""

    def __init__(self, documents: Documents, in_force: Policies) -> None:
        self._documents = documents
        self._policies = in_force

    @staticmethod
    def owns(request: Request) -> bool:
        """Whether a request is about documents."""
        return request.segments[:1] == ("v1",) and request.segments[1:2] in {(CONFIG,), (POLICY,)}

    async def handle(self, request: Request, refused: Refused, waiting: Waiting) -> Response:
        """The answer to a request that is, over the listener of `waiting`; never raises for anything that a peer sends.
        `refused` says of a request whether it may not change anything."""
        if request.segments[1] == CONFIG and (no := refused(request)) is not None:
            return no
        try:
            return await self._answer(request, refused, waiting)
        except (msgspec.DecodeError, ValueError) as error:
            return error_response(400, f"what was sent does not fit: {error}", hint=_HINTS.get(request.method, ""))
        except RecursionError:
            return error_response(400, "what was sent is nested too deeply")
        except PannierError as error:
            return error_response(_STATUS.get(type(error), 500), error.message, hint=error.hint)

    async def _answer(self, request: Request, refused: Refused, waiting: Waiting) -> Response:
        match request.segments:
            case ("v1", kind):
                return self._list(request, kind)
            case ("v1", "config", stage, service, *rest):
                return await self._document(request, _key(CONFIG, stage, service), rest, refused, waiting)
            case ("v1", "policy", stage, *rest):
                return await self._document(request, _key(POLICY, stage), rest, refused, waiting)
        raise Unknown(f"there is no {request.path[:80]}", hint="known: /v1/config/{stage}/{service}")

    def _list(self, request: Request, kind: str) -> Response:
        if request.method not in _READING:
            return not_allowed(", ".join(_READING))
        found = [_told(key, document) for key in self._documents.keys(kind) if (document := self._documents.get(key))]
        return json_response({"documents": found})

    async def _document(
        self, request: Request, key: Key, rest: Sequence[str], refused: Refused, waiting: Waiting
    ) -> Response:
        allowed: Sequence[str] = _READING
        if not rest:
            allowed = (*_READING, "PUT", "DELETE", *(("PATCH",) if key.kind == CONFIG else ()))
        elif rest == ["rollback"]:
            allowed = ("POST",)
        if request.method not in allowed:
            return not_allowed(", ".join(allowed))
        if request.method in _READING:
            return await self._look(request, key, rest, waiting)
        return refused(request) or await self._change(request, key)

    async def _look(self, request: Request, key: Key, rest: Sequence[str], waiting: Waiting) -> Response:
        match rest:
            case []:
                return await self._read(request, key, waiting)
            case ["history"]:
                history = await self._documents.history(key)
                return json_response({"versions": [_told(key, document) for document in history]})
            case ["history", version]:
                return _whole(key, await self._documents.former(key, int(version)))
            case ["report"] if key.kind == POLICY:
                return json_response({"unmapped": unmapped(self._policies.policy(key.stage))})
        raise Unknown(f"there is no {request.path[:80]}", hint="known: history, rollback; of a policy report")

    async def _read(self, request: Request, key: Key, waiting: Waiting) -> Response:
        asked = parse_qs(request.query)
        if "after" not in asked:
            document = self._documents.get(key)
            if document is None:
                raise Unknown(f"there is no {_named(key)}", hint=_missing(key))
            return _whole(key, document)
        after = int(asked["after"][0])
        wait = milliseconds(asked["wait"][0]) / 1000 if "wait" in asked else WAIT_SECONDS
        if waiting.count >= MAX_WATCHES:
            return error_response(503, f"{waiting.count} wait already", hint="ask without `after`, or another pilot")
        waiting.count += 1
        try:
            document = await self._documents.changed(key, after, wait=min(wait, 2 * WAIT_SECONDS))
        finally:
            waiting.count -= 1
        if document is None:
            raise Unknown(f"there is no {_named(key)}", hint=_missing(key))
        return _whole(key, document)

    async def _change(self, request: Request, key: Key) -> Response:
        if request.method == "POST":
            return await self._roll_back(key, msgspec.json.decode(request.body, type=Rolling))
        if request.method == "DELETE":
            change = msgspec.json.decode(request.body or b"{}", type=Change)
            document = await self._documents.put(key, None, expected=change.version, comment=change.comment)
            return _whole(key, document)
        if key.kind == POLICY:
            return await self._put_policy(request, key)
        if request.method == "PATCH":
            patch = msgspec.json.decode(request.body, type=Patching)
            return await self._put_values(key, lambda held: _patched(held, patch), patch)
        put = msgspec.json.decode(request.body, type=Putting)
        return await self._put_values(key, lambda _: put.values, put)

    async def _put_values(self, key: Key, values: Callable[[Content], Mapping[str, str]], change: Change) -> Response:
        """Puts the values that are made of the content in force."""

        def made(held: Content) -> Content:
            return {"values": _bounded(values(held))}

        return _whole(key, await self._documents.put(key, made, expected=change.version, comment=change.comment))

    async def _put_policy(self, request: Request, key: Key) -> Response:
        body = msgspec.json.decode(request.body)
        if not isinstance(body, dict):
            raise ValueError("the body is no object")
        change = msgspec.convert({name: body.pop(name) for name in ("version", "comment") if name in body}, Change)
        return await self._checked(key, body, change)

    async def _checked(self, key: Key, content: dict[str, Any], change: Change) -> Response:
        problems = [_problem(finding) for finding in findings(content)]
        if any(one.severity == "error" for one in problems):
            answer = {
                "error": f"the policy cannot be used: {problems[0].path}: {problems[0].message}",
                "hint": problems[0].expectation or "see `problems`",
                "problems": problems,
            }
            return json_response(answer, status=400)
        document = await self._documents.put(key, content, expected=change.version, comment=change.comment)
        left_out = unmapped(self._policies.policy(key.stage))
        return _whole(key, document, problems=problems, unmapped=left_out)

    async def _roll_back(self, key: Key, asked: Rolling) -> Response:
        former = await self._documents.former(key, asked.to)
        if former.deleted:
            raise Unknown(f"version {asked.to} was a deletion", hint="DELETE does that")
        change = Change(asked.version, asked.comment or f"back to version {asked.to}")
        if key.kind == POLICY:
            return await self._checked(key, former.content, change)
        return await self._put_values(key, lambda _: former.content["values"], change)


def _patched(held: Content, patch: Patching) -> Mapping[str, str]:
    values = dict(held.get("values", {}))
    for name in patch.unset:
        values.pop(name, None)
    return values | patch.set


def _bounded(values: Mapping[str, str]) -> dict[str, str]:
    size = sum(len(name) + len(value.encode()) for name, value in values.items())
    if len(values) > MAX_KEYS or size > MAX_TOTAL:
        raise TooMuch(f"{len(values)} keys of {size} bytes, at most {MAX_KEYS} of {MAX_TOTAL} are kept")
    if large := [name for name, value in values.items() if len(value.encode()) > 8192]:
        raise TooMuch(f"{large[0]} has more than 8192 bytes")
    return dict(values)


def _key(kind: str, stage: str, service: str = "") -> Key:
    for name, of in ((stage, "stage"), (service, "service")):
        if (name or of == "stage" or kind == CONFIG) and re.match(SERVICE_PATTERN, name) is None:
            raise BadName(f"{name[:80]!r} is no name of a {of}", hint=NAMES)
    return Key(kind, stage, service)


def _missing(key: Key) -> str:
    made = f"config set {key.stage} {key.service} KEY=TEXT" if key.service else f"policy apply {key.stage} PROFILE"
    return f"GET /v1/{key.kind} says which there are; make it: pannier pilot {made}"


def _named(key: Key) -> str:
    return f"configuration of {key.service} in {key.stage}" if key.service else f"policy of {key.stage}"


def _told(key: Key, document: Document) -> Told:
    return Told(key.stage, document.version, document.when, key.service, document.comment, document.deleted)


def _whole(
    key: Key, document: Document, *, problems: Sequence[Problem] = (), unmapped: Sequence[Unmapped] | None = None
) -> Response:
    told = {**msgspec.to_builtins(_told(key, document)), **document.content}
    if problems:
        told["problems"] = problems
    if unmapped is not None:
        told["unmapped"] = unmapped
    return json_response(told)


def _problem(finding: Finding) -> Problem:
    return Problem(
        dotted(finding.path), finding.code, finding.severity, finding.message, finding.expectation, finding.near
    )
