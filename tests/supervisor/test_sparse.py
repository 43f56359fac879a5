from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from pannier.shared.profile import Endpoint
from pannier.supervisor.sidecar_types import sidecar_types
from pannier.supervisor.sparse import sparse


class Circle(msgspec.Struct, frozen=True, tag="circle"):
    radius: int = 1


class Square(msgspec.Struct, frozen=True, tag="square"):
    side: int = 1


class Pair(msgspec.Struct, frozen=True, array_like=True):
    left: int = 0
    right: int = 0


class Drawing(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    shapes: list[Circle | Square] = []
    by_name: dict[str, Circle] = {}
    mood: Literal["fine", "grim"] = "fine"
    pair: Pair = Pair()
    limit: float | None = 1.0


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Drawing("x"), {"name": "x"}),
        (Drawing("x", limit=None, mood="grim"), {"name": "x", "limit": None, "mood": "grim"}),
        (
            Drawing("x", [Circle(), Square(2)]),
            {"name": "x", "shapes": [{"type": "circle"}, {"type": "square", "side": 2}]},
        ),
        (
            Drawing("x", by_name={"a": Circle(3), "b": Circle()}),
            {"name": "x", "byName": {"a": {"type": "circle", "radius": 3}, "b": {"type": "circle"}}},
        ),
        (Drawing("x", pair=Pair(0, 2)), {"name": "x", "pair": [0, 2]}),
    ],
)
def test_what_is_a_default_anyway_is_left_out(value: msgspec.Struct, data: dict[str, Any]) -> None:
    assert sparse(value) == data
    assert msgspec.convert(data, type(value)) == value


def test_every_sidecar_has_its_settings_back() -> None:
    for name, type_ in sidecar_types().items():
        assert sparse(type_()) == {}, name
    (discovery,) = [type_ for name, type_ in sidecar_types().items() if name == "discovery"]
    said = discovery(services={"stock": (Endpoint("127.0.0.1:1"),)}, lease_ttl="5s")
    assert sparse(said) == {"services": {"stock": [{"address": "127.0.0.1:1"}]}, "lease_ttl": "5s"}
    assert msgspec.convert(sparse(said), discovery) == said
