from __future__ import annotations

import pytest
from pannier.shared.http_server import Request
from pannier.shared.messages import Lifecycle, ProcessState
from pannier.sidecars.observability.health import Readiness
from pannier.sidecars.observability.pages import Pages


async def metrics(accept: str) -> tuple[bytes, str]:
    return b"# " + accept.encode(), "text/x"


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def pages(readiness: Readiness) -> Pages:
    return Pages(readiness, metrics, lambda: True)


async def test_metrics_are_rendered_for_the_accept_header(pages: Pages) -> None:
    response = await pages(Request("GET", "/metrics", (("accept", "a/b"),)))
    assert (response.status, response.body, response.content_type) == (200, b"# a/b", "text/x")


async def test_ready_is_200_and_unready_503(pages: Pages, readiness: Readiness) -> None:
    for target in ("/readyz", "/startupz", "/readyz?verbose"):
        assert (await pages(Request("GET", target))).status == 503
    readiness.learn(Lifecycle("orders", "dev", "ready", [ProcessState("proxy", "proxy", "ready", True)]))
    for target in ("/readyz", "/startupz", "/livez", "/livez?verbose"):
        assert (await pages(Request("GET", target))).status == 200
    assert (await pages(Request("GET", "/readyz"))).body == b"ok\n"
    assert b"[+]proxy ready" in (await pages(Request("GET", "/readyz?verbose"))).body


async def test_other_pages_and_methods_are_refused(pages: Pages) -> None:
    assert (await pages(Request("GET", "/"))).status == 404
    refused = await pages(Request("POST", "/metrics"))
    assert refused.status == 405
    assert ("allow", "GET, HEAD") in refused.headers
