from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from pannier.shared.duration import Duration
from pannier.shared.errors import UsageError
from pannier.shared.fields import Fields
from pannier.shared.type_words import describe, kind, unit


class Limit(msgspec.Struct, frozen=True):
    """How much at the most."""

    most: int
    share: Annotated[float, msgspec.Meta(ge=0, le=100, description="a percentage, 0 to 100")] = 50.0


class Route(msgspec.Struct, frozen=True):
    name: str
    limits: dict[str, Limit] = {}


class Traffic(msgspec.Struct, frozen=True):
    routes: list[Route] = []
    limit: Limit | None = None
    wait: Duration | None = "1s"
    names: list[str] = msgspec.field(default_factory=lambda: ["a"])


class Settings(msgspec.Struct, frozen=True):
    """What a layer may set."""

    mode: Literal["slow", "fast"] = "fast"
    places: dict[str, list[Limit]] = {}
    sidecars: Annotated[dict[str, Any], msgspec.Meta(extra={"typed_by": "sidecar"})] = {}


class App(msgspec.Struct, frozen=True):
    port: int | None = None
    env: dict[str, str] = {}


class Root(Settings, frozen=True):
    apps: Annotated[dict[str, Any], msgspec.Meta(extra={"mixes": (App, Settings)})] = {}


FIELDS = Fields((Root,), {"sidecar": {"traffic": Traffic}})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("mode", "mode"),
        ("places", "places"),
        ("places.home", "places.*"),
        ("places.*[].most", "places.*[].most"),
        ("places.home.most", "places.*[].most"),
        ('places."a.b"[3].most', "places.*[].most"),
        ("sidecars.traffic", "sidecars.traffic"),
        ("traffic", "sidecars.traffic"),
        ("traffic.limit.share", "sidecars.traffic.limit.share"),
        ("traffic.routes", "sidecars.traffic.routes"),
        ("traffic.routes.limits.x.most", "sidecars.traffic.routes[].limits.*.most"),
        ("sidecars.traffic.routes[7].limits.x.most", "sidecars.traffic.routes[].limits.*.most"),
        ("apps.web.port", "apps.*.port"),
        ("apps.web.mode", "apps.*.mode"),
        ("apps.web.sidecars.traffic.wait", "apps.*.sidecars.traffic.wait"),
        ("apps.web.env.HOME", "apps.*.env.*"),
    ],
)
def test_a_field_is_found_as_people_write_it(text: str, path: str) -> None:
    assert FIELDS.find(text).path == path


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("moed", "no field 'moed'", "did you mean mode?"),
        ("traffic.limit.moast", "'moast' below sidecars.traffic.limit", "did you mean sidecars.traffic.limit.most?"),
        ("trafic.wait", "no field 'trafic'", "known: apps, mode, places, sidecars"),
        ("share", "no field 'share'", "did you mean places.*[].share or sidecars.traffic."),
        ("mode.x", "'x' below mode", "nothing is below a value"),
        ("sidecars.trafic", "'trafic' below sidecars", "did you mean sidecars.traffic?"),
        ("", "no path", "pannier explain"),
        ("...", "no path", "pannier explain"),
        ("\x1b[2J" * 100, "no field", "known: "),
    ],
)
def test_what_is_not_there_is_said_with_what_is_near(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        FIELDS.find(text)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.message.isprintable()


def test_a_field_knows_its_default_and_who_has_it() -> None:
    assert (FIELDS.find("mode").default, FIELDS.find("mode").owner) == ("fast", Settings)
    assert FIELDS.find("traffic.names").default == ["a"]
    assert (FIELDS.find("traffic.limit.most").required, FIELDS.find("traffic.limit.share").required) == (True, False)
    assert FIELDS.find("places.home").owner is None


def test_below_a_table_are_its_fields_and_below_these_all_values() -> None:
    limit = FIELDS.find("traffic.limit")
    assert [field.path for field in FIELDS.below(limit)] == [
        "sidecars.traffic.limit.most",
        "sidecars.traffic.limit.share",
    ]
    assert FIELDS.below(FIELDS.find("mode")) == []
    leaves = [field.path for field in FIELDS.leaves(FIELDS.find("sidecars"))]
    assert leaves == [
        "sidecars.traffic.routes[].name",
        "sidecars.traffic.routes[].limits.*.most",
        "sidecars.traffic.routes[].limits.*.share",
        "sidecars.traffic.limit.most",
        "sidecars.traffic.limit.share",
        "sidecars.traffic.wait",
        "sidecars.traffic.names",
    ]


def test_a_value_has_a_kind_a_description_and_maybe_a_unit() -> None:
    share, wait = FIELDS.find("traffic.limit.share").node, FIELDS.find("traffic.wait").node
    assert (describe(share), kind(share), unit(share)) == (
        "a percentage, 0 to 100",
        "a number ≥ 0 and ≤ 100",
        "percent",
    )
    assert (kind(wait), unit(wait)) == (
        'a duration such as "10s", "500ms" or "1h30m"',
        "written with the number: h, m, s or ms",
    )
    assert unit(FIELDS.find("mode").node) == ""
