"""Holds an answer of the pilot against what its OpenAPI document says of it."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import jsonschema
from pannier.sidecars.pilot.http.openapi import document

BASE = "urn:pilot"


@cache
def strict() -> dict[str, Any]:
    """The document, in which no answer may have a field that is not described."""
    whole = copy.deepcopy(dict(document()))
    for schema in whole["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return whole


def operation(method: str, target: str) -> dict[str, Any] | None:
    """What is said of that request; the path that says most of it literally wins."""
    segments = target.partition("?")[0].strip("/").split("/")
    found: list[tuple[int, dict[str, Any]]] = []
    for path, methods in strict()["paths"].items():
        parts = path.strip("/").split("/")
        literal = sum(part == segment for part, segment in zip(parts, segments, strict=False))
        if len(parts) == len(segments) and all(
            part.startswith("{") or part == segment for part, segment in zip(parts, segments, strict=True)
        ):
            found.append((literal, methods))
    if not found:
        return None
    return max(found, key=lambda one: one[0])[1].get(method.lower())


def validate(schema: dict[str, Any], value: object) -> None:
    """Raises jsonschema.ValidationError."""
    whole = {**schema, "components": strict()["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def conforms(method: str, target: str, status: int, body: object) -> None:
    """Fails if the answer is not as described: of a path that is not, or a method, only that it is an error."""
    described = operation("GET" if method == "HEAD" else method, target)
    failure = strict()["components"]["schemas"]["Failure"]
    if described is None:
        assert status >= 400, f"{method} {target} answers {status} and is not described"
        validate(failure, body)
        return
    answer = described["responses"].get(str(status), described["responses"]["default"])
    assert status >= 400 or str(status) in described["responses"], f"{method} {target}: {status} is not described"
    validate(answer["content"]["application/json"]["schema"], body)
