"""What the metrics port answers: `/metrics`, `/livez`, `/readyz`, `/startupz`. It is on loopback, so that the server
answers this host alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from pannier.shared.http_server import Request, Response, error_response
from pannier.sidecars.observability.health import Readiness, Verdict


class Pages:
    """A handler for `serve_http`. `metrics` renders for an `Accept` header; `bus` says whether the bus is connected."""

    def __init__(
        self, readiness: Readiness, metrics: Callable[[str], Awaitable[tuple[bytes, str]]], bus: Callable[[], bool]
    ) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._bus = bus

    async def __call__(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return error_response(405, f"{request.method} is not answered here", headers=(("allow", "GET, HEAD"),))
        return await self._page(request)

    async def _page(self, request: Request) -> Response:
        match request.path:
            case "/metrics":
                body, content_type = await self._metrics(request.header("accept"))
                return Response(200, body, content_type)
            case "/livez":
                return _answer(self._readiness.livez(), request)
            case "/readyz":
                return _answer(self._readiness.readyz(bus=self._bus()), request)
            case "/startupz":
                return _answer(self._readiness.startupz(bus=self._bus()), request)
        return error_response(404, "no such page", hint="there are /metrics, /livez, /readyz?verbose and /startupz")


def _answer(verdict: Verdict, request: Request) -> Response:
    verbose = "verbose" in parse_qs(request.query, keep_blank_values=True)
    return Response(200 if verdict.ok else 503, verdict.text(verbose=verbose).encode())
