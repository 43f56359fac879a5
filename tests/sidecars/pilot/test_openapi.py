"""The OpenAPI document of the pilot: that it is one, and that the pilot is as it says."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio
from pannier.shared.http_server import Request, Response
from pannier.sidecars.pilot.documents.documents import Documents
from pannier.sidecars.pilot.documents.policies import Policies
from pannier.sidecars.pilot.http.api import Api
from pannier.sidecars.pilot.http.documents_api import DocumentsApi
from pannier.sidecars.pilot.http.openapi import OPERATIONS, PATH, Operation, document
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stream.stream import Streams

from tests.sidecars.pilot.described import conforms, operation, validate

NAMES = {"service": "orders", "id": "a", "stage": "staging", "version": "1"}
BODIES: dict[tuple[str, str], Any] = {
    ("PUT", "/v1/instances/{service}/{id}"): {"address": "10.0.0.1", "port": 80, "metadata": {"version": "2"}},
    ("POST", "/v1/instances/{service}/{id}/drain"): {"epoch": 1},
    ("PUT", "/v1/config/{stage}/{service}"): {"values": {"limit": "6"}},
    ("PATCH", "/v1/config/{stage}/{service}"): {"set": {"mode": "slow"}},
    ("POST", "/v1/config/{stage}/{service}/rollback"): {"to": 1},
    ("PUT", "/v1/policy/{stage}"): {"traffic": {}},
    ("POST", "/v1/policy/{stage}/rollback"): {"to": 1},
}


def filled(path: str) -> str:
    return re.sub(r"{(\w+)}", lambda match: NAMES[match[1]], path)


@pytest.fixture
async def apis(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[tuple[Api, Api]]:
    """Two of a pilot in which there is one of everything: of its socket, and of a port."""
    async with open_sqlite(tmp_path / "store") as store:
        registry, documents = Registry(store), Documents(store)
        await nursery.start(registry.follow)
        await nursery.start(documents.follow)
        streams = Streams(registry, Fanout(registry), documents)
        about_documents = DocumentsApi(documents, Policies(documents))
        api = Api(registry, streams, documents=about_documents)
        for (method, path), body in BODIES.items():
            if method == "PUT":
                assert (await ask(api, method, filled(path), body)).status < 300
        yield api, Api(registry, streams, documents=about_documents, token="secret")
        nursery.cancel_scope.cancel()


@pytest.fixture
def api(apis: tuple[Api, Api]) -> Api:
    return apis[0]


async def ask(api: Api, method: str, target: str, body: object = None) -> Response:
    response = await api.handle(Request(method, target, (), b"" if body is None else json.dumps(body).encode()))
    assert isinstance(response, Response)
    return response


@pytest.mark.parametrize("described", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
async def test_whatever_is_described_is_there_and_answers_so(api: Api, described: Operation) -> None:
    body = BODIES.get((described.method, described.path))
    query = "?after=0&wait=10ms" if described.path == "/v1/watch" else ""
    response = await ask(api, described.method, filled(described.path) + query, body)
    if described.path == "/v1/stream":
        assert response.status == 426
    elif described.path == "/v1/watch":
        assert response.status in {200, 410}
    else:
        assert response.status in {200, 201}, response.body
    if body is not None:
        found = operation(described.method, filled(described.path))
        assert found is not None
        validate(found["requestBody"]["content"]["application/json"]["schema"], body)
    if described.path != "/metrics":
        conforms(described.method, filled(described.path), response.status, json.loads(response.body))


@pytest.mark.parametrize("described", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
async def test_over_tcp_the_token_is_asked_for_where_it_is_said(apis: tuple[Api, Api], described: Operation) -> None:
    """Each is asked without it: whether it is there, and fits, is of no interest to a stranger."""
    said = operation(described.method, filled(described.path))
    assert said is not None
    query = "?after=0&wait=10ms" if described.path == "/v1/watch" else ""
    answer = await ask(apis[1], described.method, filled(described.path) + query, {})
    assert (answer.status == 401) == ("security" in said)


async def test_other_methods_of_what_is_described_are_not_allowed(api: Api) -> None:
    described: dict[str, set[str]] = {}
    for one in OPERATIONS:
        described.setdefault(one.path, set()).add(one.method)
    for path, methods in described.items():
        for method in {"GET", "PUT", "POST", "PATCH", "DELETE"} - methods:
            response = await ask(api, method, filled(path))
            assert response.status in {404, 405}, (method, path)


async def test_it_is_served(api: Api) -> None:
    response = await ask(api, "GET", PATH)
    assert (response.status, response.content_type) == (200, "application/json")
    assert json.loads(response.body) == json.loads(json.dumps(document()))


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_its_structure_is_that_of_openapi() -> None:
    whole = json.loads(json.dumps(document()))
    assert re.fullmatch(r"3\.1\.\d+", whole["openapi"])
    assert {"title", "version"} <= whole["info"].keys()
    schemas = whole["components"]["schemas"]
    for name, schema in schemas.items():
        assert re.fullmatch(r"[a-zA-Z0-9._-]+", name)
        jsonschema.Draft202012Validator.check_schema(schema)
    referred = set(references(whole))
    assert referred == {f"#/components/schemas/{name}" for name in schemas}, "nothing is missing, nothing is left over"
    for path, methods in whole["paths"].items():
        assert path.startswith("/")
        for method, described in methods.items():
            assert method in {"get", "put", "post", "patch", "delete"}
            in_path = {one["name"] for one in described["parameters"] if one["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            assert all(one["required"] for one in described["parameters"] if one["in"] == "path")
            for parameter in described["parameters"]:
                jsonschema.Draft202012Validator.check_schema(parameter["schema"])
            assert described["summary"]
            for status, answer in described["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d|default", status)
                assert answer["description"]
                assert all("schema" in content for content in answer.get("content", {}).values())
            assert all(
                name in whole["components"]["securitySchemes"] for one in described.get("security", []) for name in one
            )
