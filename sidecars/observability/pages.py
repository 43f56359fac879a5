"""What the metrics port answers: `/metrics`, `/livez`, `/readyz`, `/startupz`.

To this host alone: the port is on loopback, and a page of somebody else's in a browser here must not reach it either. A
browser says whose page it is (`Origin`) and by which name it came (`Host`), which a stranger's name server can lead to
loopback: both have to be `localhost` or an IP address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

from pannier.shared.http_server import Request, Response, error_response
from pannier.sidecars.observability.health import Readiness, Verdict

_HERE = "//localhost"


class Pages:
    """A handler for `serve_http`. `metrics` renders for an `Accept` header; `bus` says whether the bus is connected."""

    def __init__(
        self, readiness: Readiness, metrics: Callable[[str], Awaitable[tuple[bytes, str]]], bus: Callable[[], bool]
    ) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._bus = bus

    async def __call__(self, request: Request) -> Response:
        if not (_is_local(f"//{request.header('host', 'localhost')}") and _is_local(request.header("origin", _HERE))):
            return error_response(
                403, "this is for this host alone", hint="ask for it as localhost or by its IP address"
            )
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


def _is_local(url: str) -> bool:
    """Whether the host of a URL is `localhost` or an IP address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _answer(verdict: Verdict, request: Request) -> Response:
    verbose = "verbose" in parse_qs(request.query, keep_blank_values=True)
    return Response(200 if verdict.ok else 503, verdict.text(verbose=verbose).encode())
