"""The HTTP interface of the pilot: register, renew, drain, deregister, read, watch.

    PUT    /v1/instances/{service}/{id}          {"address", "port", "ttl", "epoch", "metadata", "state"}
    POST   /v1/instances/{service}/{id}/drain    {"epoch"}
    DELETE /v1/instances/{service}/{id}          {"epoch"}, or ?epoch=N
    GET    /v1/services[/{service}]
    GET    /v1/watch?after=N[&service=NAME...][&wait=30s]
    GET    /v1/stream, with Upgrade: pannier-pilot: `stream.py`
    GET    /v1/status
    GET    /v1/openapi.json
    GET    /metrics
    /v1/config, /v1/policy: `documents_api.py`

A PUT again renews. Its answer says the epoch and when to renew; 409 says which epoch would be accepted. A watch answers
as soon as something has changed after revision N, with the revision to go on from, or with 410: then everything is read
anew.

Who may change something, or read configurations, has connected over a socket that only we can open, or shows the token:
`Authorization: Bearer`. All else is told to everybody.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import msgspec
from pannier.shared.duration import milliseconds
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.http_server import Request, Response, Upgrade, error_response, json_response
from pannier.shared.instances import Key
from pannier.shared.registration import draining, key_of, leaving, not_allowed, not_understood, registering
from pannier.sidecars.pilot.http.answers import Everything, Service
from pannier.sidecars.pilot.http.documents_api import DocumentsApi, Waiting
from pannier.sidecars.pilot.http.status import Account
from pannier.sidecars.pilot.registry.changing import Stale, Unknown, drain, leave, register, shows_token
from pannier.sidecars.pilot.registry.registry import Full, Registry
from pannier.sidecars.pilot.stores.store import Compacted
from pannier.sidecars.pilot.stream.stream import Streams

if TYPE_CHECKING:
    from pannier.sidecars.pilot.http.metrics import Exposition

WAIT_SECONDS: Final = 30.0
"""Of a watch that does not say how long; no watch waits for longer than twice that."""
MAX_WATCHES: Final = 3000
"""Of one listener, below its connections: whoever registers has to find room."""
_STATUS: Final = {Stale: 409, Unknown: 404, Compacted: 410, Full: 503, Unreachable: 503}
_KNOWN: Final = (
    "/v1/instances/{service}/{id}[/drain], /v1/services[/{service}], /v1/watch, /v1/stream, /v1/status, "
    "/metrics, /v1/config, /v1/policy"
)


_READ_ONLY: Final = frozenset(
    {("v1", "services"), ("v1", "watch"), ("v1", "status"), ("v1", "openapi.json"), ("metrics",)}
)


class Api:
    """Answers requests from a registry. With a `token`, who changes something has to show it. The `account` is that of
    all listeners of a pilot."""

    def __init__(
        self,
        registry: Registry,
        streams: Streams,
        *,
        token: str = "",
        account: Account | None = None,
        documents: DocumentsApi | None = None,
    ) -> None:
        self._registry = registry
        self._account = account or Account(registry)
        self._exposition: Exposition | None = None
        self._streams = streams
        self._token = token
        self._documents = documents
        self._watches = 0
        self._waiting = Waiting()
        self._services = b""

    async def handle(self, request: Request) -> Response | Upgrade:
        """The answer to one request; never raises for anything that a peer sends."""
        if self._documents is not None and self._documents.owns(request):
            return await self._documents.handle(request, self._refused, self._waiting)
        return await self._about_instances(request)

    async def _about_instances(self, request: Request) -> Response | Upgrade:
        try:
            match request.segments:
                case ("v1", "instances", service, instance):
                    return await self._change(request, key_of(service, instance))
                case ("v1", "instances", service, instance, "drain"):
                    return await self._drain(request, key_of(service, instance))
            return await self._read(request)
        except msgspec.DecodeError as error:
            return not_understood(request, error)
        except ValueError as error:
            return error_response(400, str(error))
        except PannierError as error:
            return error_response(_STATUS.get(type(error), 500), error.message, hint=error.hint)

    async def _read(self, request: Request) -> Response | Upgrade:
        registry, view = self._registry, self._registry.view
        if request.method == "GET" and request.segments == ("v1", "stream"):
            return self._streams.upgrade(request, refused=self._refused)
        body: object = None
        if request.method in {"GET", "HEAD"}:
            match request.segments:
                case ("v1", "services"):
                    return self._everything()
                case ("v1", "services", name):
                    body = Service(view.revision, name, registry.instances(name))
                case ("v1", "watch"):
                    body = await self._watch(request)
                case ("v1", "status"):
                    body = self._account.status()
                case ("v1", "openapi.json"):
                    from pannier.sidecars.pilot.http.openapi import document

                    body = document()
                case ("metrics",):
                    return self._metrics(request)
        elif request.segments[:2] in _READ_ONLY:
            return not_allowed("GET, HEAD")
        if body is None:
            return error_response(404, f"there is no {request.path[:80]}", hint=f"known: {_KNOWN}")
        return json_response(body)

    def _everything(self) -> Response:
        """All who read slowly hold one body, as long as it is the same."""
        registry, view = self._registry, self._registry.view
        answer = json_response(Everything(view.revision, {name: registry.instances(name) for name in view.services()}))
        if answer.body != self._services:
            self._services = answer.body
        return replace(answer, body=self._services)

    async def _watch(self, request: Request) -> Everything:
        asked = parse_qs(request.query)
        after = int(asked.get("after", ["-1"])[0])
        wait = milliseconds(asked["wait"][0]) / 1000 if "wait" in asked else WAIT_SECONDS
        names = frozenset(asked.get("service", ()))
        if self._watches >= MAX_WATCHES:
            raise Full(f"{self._watches} watch already")
        self._watches += 1
        self._account.watches += 1
        try:
            revision, changed = await self._registry.changes(after, names, wait=min(wait, 2 * WAIT_SECONDS))
        finally:
            self._watches -= 1
            self._account.watches -= 1
        return Everything(revision, {name: self._registry.instances(name) for name in changed})

    async def _change(self, request: Request, key: Key) -> Response:
        if request.method not in {"PUT", "DELETE"}:
            return not_allowed("PUT, DELETE")
        if (refused := self._refused(request)) is not None:
            return refused
        if request.method == "PUT":
            answer, created = await register(self._registry, key, registering(request))
            return json_response(answer, status=201 if created else 200)
        return json_response(await leave(self._registry, key, leaving(request).epoch))

    async def _drain(self, request: Request, key: Key) -> Response:
        if request.method != "POST":
            return not_allowed("POST")
        if (refused := self._refused(request)) is not None:
            return refused
        return json_response(await drain(self._registry, key, draining(request)))

    def _refused(self, request: Request) -> Response | None:
        kind = request.header("content-type", "application/json").partition(";")[0].strip().lower()
        if request.body and kind != "application/json":
            return error_response(415, f"the body is {kind[:80]}", hint="send application/json")
        if not shows_token(request.header("authorization"), self._token):
            return error_response(
                401,
                "changes, and the configurations of services, need the pilot's token",
                hint="send Authorization: Bearer TOKEN; `pannier pilot` has said where the token is",
                headers=(("www-authenticate", "Bearer"),),
            )
        return None

    def _metrics(self, request: Request) -> Response:
        if self._exposition is None:
            from pannier.sidecars.pilot.http.metrics import Exposition

            self._exposition = Exposition(self._account)
        body, content_type = self._exposition.render(request.header("accept"))
        return Response(200, body, content_type)
