"""Small values in Envoy's words, as proto3's JSON has them."""

from __future__ import annotations

from typing import Any, TypeAlias

from pannier.shared.duration import milliseconds

Json: TypeAlias = dict[str, Any]
_TYPES = "type.googleapis.com/envoy."


def typed(message: str, **fields: Any) -> Json:
    """An Any of a message, such as `extensions.filters.http.fault.v3.HTTPFault`."""
    return {"@type": _TYPES + message, **fields}


def optional(message: Json) -> Json:
    """A filter's settings for a route, which who does not know the filter leaves alone instead of refusing all."""
    return typed("config.route.v3.FilterConfig", config=message, is_optional=True)


def duration(text: str, least_ms: int = 0) -> str:
    """A duration of ours as protobuf writes it."""
    return f"{max(milliseconds(text), least_ms) / 1000:g}s"


def fraction(percent: float) -> Json:
    """A FractionalPercent."""
    return {"numerator": round(percent * 10_000), "denominator": "MILLION"}


def at_runtime(percent: float) -> Json:
    """A RuntimeFractionalPercent that nobody changes at run time."""
    return {"default_value": fraction(percent)}
