"""The HTTP interface of the pilot as an OpenAPI 3.1 document: `GET /v1/openapi.json`.

It is made of the structs that requests are read with and answers are made of, and of one table of paths, so that it
cannot say anything else than what is so; a test asks each of these paths, and holds all answers of the other tests
against it. Where an answer is put together of parts that have no struct of their own, there is one here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from pannier.shared.duration import Duration
from pannier.shared.instances import InstanceId, ServiceName
from pannier.shared.registration import Drained, Leaving, Registered, Registering, Removed
from pannier.sidecars.pilot.documents.policy import Unmapped
from pannier.sidecars.pilot.http.answers import Everything, Service
from pannier.sidecars.pilot.http.documents_api import (
    Change,
    Patching,
    Problem,
    Putting,
    Rolling,
    StageName,
    Told,
    Values,
)
from pannier.sidecars.pilot.http.status import Status

PATH: Final = "/v1/openapi.json"
VERSION: Final = "1"
_REF: Final = "#/components/schemas/{name}"


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, and what to do about it. `problems` are those of a policy that was not taken."""

    error: str
    hint: str = ""
    problems: Sequence[Problem] = ()


class Documents(msgspec.Struct, frozen=True):
    """Which documents there are."""

    documents: Sequence[Told]


class Versions(msgspec.Struct, frozen=True):
    """What is kept of a document, the latest first."""

    versions: Sequence[Told]


class Configuration(Told, frozen=True, omit_defaults=True):
    """A version of the configuration of a service in a stage."""

    values: Values = msgspec.field(default_factory=dict)


class StagePolicy(Told, frozen=True, omit_defaults=True):
    """A version of the policy of a stage. Of one that was just put: what of it does not reach clients of xDS."""

    traffic: dict[str, Any] | None = None
    resilience: dict[str, Any] | None = None
    proxy: dict[str, Any] | None = None
    problems: Sequence[Problem] = ()
    unmapped: Sequence[Unmapped] = ()


class PuttingPolicy(Change, frozen=True, omit_defaults=True):
    """Body of PUT of a policy: parts of a profile, as the sidecars of those names read them."""

    traffic: dict[str, Any] | None = None
    resilience: dict[str, Any] | None = None
    proxy: dict[str, Any] | None = None


class Report(msgspec.Struct, frozen=True):
    """What clients of xDS do not get of a policy."""

    unmapped: Sequence[Unmapped]


class Operation(msgspec.Struct, frozen=True):
    """A method of a path. Answers that are not JSON have a content type in the place of their struct; None is no body.
    What is `guarded` needs the token, over TCP: changes, and the configurations of services."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, Any]
    body: Any = None
    needs_body: bool = True
    query: Mapping[str, Any] = {}
    guarded: bool = False


_Epoch = Annotated[int, Meta(ge=1)]
_Version = Annotated[int, Meta(ge=1)]
_PARAMETERS: Final[Mapping[str, Any]] = {
    "service": ServiceName,
    "id": InstanceId,
    "stage": StageName,
    "version": _Version,
}
_INSTANCE: Final = "/v1/instances/{service}/{id}"
_CONFIG: Final = "/v1/config/{stage}/{service}"
_POLICY: Final = "/v1/policy/{stage}"
_WAITING: Final = {"after": int, "wait": Duration}


def _documents(path: str, told: Any, put: Any, what: str, *, guarded: bool) -> Sequence[Operation]:
    """What configurations and policies have in common. `guarded`: also to read."""
    get = partial(Operation, "GET", guarded=guarded)
    return (
        get(path, f"{what}; with `after`, as soon as it is later than that", {200: told}, query=_WAITING),
        Operation("PUT", path, f"Replaces {what[0].lower()}{what[1:]}", {200: told}, put, guarded=True),
        Operation("DELETE", path, "Deletes it; its history stays", {200: told}, Change, False, guarded=True),
        get(f"{path}/history", "Its versions that are kept", {200: Versions}),
        get(f"{path}/history/{{version}}", "One of them, whole", {200: told}),
        Operation("POST", f"{path}/rollback", "A new version with an old content", {200: told}, Rolling, guarded=True),
    )


OPERATIONS: Final[Sequence[Operation]] = (
    Operation(
        "PUT",
        _INSTANCE,
        "Registers an instance, or renews it; 409 says which epoch would be accepted",
        {200: Registered, 201: Registered, 409: Failure},
        Registering,
        guarded=True,
    ),
    Operation(
        "DELETE",
        _INSTANCE,
        "The instance has left, for good",
        {200: Removed, 404: Failure, 409: Failure},
        Leaving,
        False,
        {"epoch": _Epoch},
        guarded=True,
    ),
    Operation(
        "POST",
        f"{_INSTANCE}/drain",
        "The instance takes no new calls",
        {200: Drained, 404: Failure, 409: Failure},
        Leaving,
        guarded=True,
    ),
    Operation("GET", "/v1/services", "Who is there, with a revision to watch from", {200: Everything}),
    Operation("GET", "/v1/services/{service}", "The instances of one service", {200: Service}),
    Operation(
        "GET",
        "/v1/watch",
        "Answers as soon as something has changed after a revision; 410: everything has to be read anew",
        {200: Everything, 410: Failure},
        query={**_WAITING, "service": list[ServiceName]},
    ),
    Operation(
        "GET",
        "/v1/stream",
        "Becomes a connection over which services are followed, with Upgrade: pannier-pilot",
        {101: None, 426: Failure},
    ),
    Operation("GET", "/v1/status", "How the pilot is", {200: Status}),
    Operation("GET", "/metrics", "The same for Prometheus", {200: "text/plain"}),
    Operation("GET", PATH, "This document", {200: dict[str, Any]}),
    Operation("GET", "/v1/config", "Which configurations there are", {200: Documents}, guarded=True),
    *_documents(_CONFIG, Configuration, Putting, "The configuration of a service in a stage", guarded=True),
    Operation("PATCH", _CONFIG, "Changes some of its keys", {200: Configuration}, Patching, guarded=True),
    Operation("GET", "/v1/policy", "Which policies there are", {200: Documents}),
    *_documents(_POLICY, StagePolicy, PuttingPolicy, "The policy of a stage", guarded=False),
    Operation("GET", f"{_POLICY}/report", "What clients of xDS do not get of it", {200: Report}),
)


@cache
def document() -> Mapping[str, Any]:
    """The whole document, as JSON would have it; always the same one."""
    types = [Failure, *(kind for operation in OPERATIONS for kind in _structs(operation))]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pannier's pilot", "version": VERSION, "description": (__doc__ or "").partition("\n")[0]},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of `pannier pilot`; not asked for on its Unix socket.",
                }
            },
        },
    }


def _structs(operation: Operation) -> Sequence[Any]:
    answers = [kind for kind in operation.answers.values() if kind is not None and not isinstance(kind, str)]
    return [*answers, *([operation.body] if operation.body is not None else [])]


def _operation(operation: Operation) -> dict[str, Any]:
    named = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _schema(_PARAMETERS[name])} for name in named
    ]
    parameters += [{"name": name, "in": "query", "schema": _schema(kind)} for name, kind in operation.query.items()]
    answers = {str(status): _answer(status, kind) for status, kind in operation.answers.items()}
    told: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {**answers, "default": _answer(None, Failure)},
    }
    if operation.body is not None:
        content = {"application/json": {"schema": _schema(operation.body)}}
        told["requestBody"] = {"required": operation.needs_body, "content": content}
    if operation.guarded:
        told["security"] = [{"token": []}, {}]
    return told


def _answer(status: int | None, kind: Any) -> dict[str, Any]:
    said = "What went wrong" if status is None else HTTPStatus(status).phrase
    if kind is None:
        return {"description": said}
    if isinstance(kind, str):
        return {"description": said, "content": {kind: {"schema": {"type": "string"}}}}
    return {"description": said, "content": {"application/json": {"schema": _schema(kind)}}}


def _schema(kind: Any) -> Any:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema
