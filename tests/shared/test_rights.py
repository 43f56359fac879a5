"""Who needs what, and who may have it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pannier import _native
from pannier.shared.explain import ConfigError
from pannier.shared.project import live_layer, settle
from pannier.shared.rights import TABLES, Needs
from pannier.sidecars.observability.config import Config as Observability
from pannier.sidecars.traffic.config import Config as Traffic


def third(**needs: tuple[str, ...]) -> type[msgspec.Struct]:
    """The settings of a third party's sidecar."""
    return type("Config", (msgspec.Struct,), {"needs": Needs(**needs), "__module__": "elsewhere"})


def problems(data: dict[str, Any], **types: type[msgspec.Struct]) -> list[str]:
    """What is wrong with a profile: code, message, and what would be right."""
    known = {"traffic": Traffic, "observability": Observability, **types}
    try:
        settle("own", [], [live_layer(data)], sidecars=known)
    except ConfigError as error:
        return [f"{one.code} {one.path}: {one.message}; {one.expectation}" for one in error.problems]
    return []


def test_every_table_but_the_supervisors_can_be_granted() -> None:
    assert sorted(["base", "central", *TABLES]) == sorted(_native.TABLES)


@pytest.mark.parametrize(
    ("needs", "kind", "grant"),
    [
        ({"writes": ("headers",)}, "writes", ["headers"]),
        ({"reads": ("counters", "base")}, "reads", ["counters", "base"]),
        ({"publishes": ("deploys",)}, "publishes", ["deploys"]),
        ({"subscribes": ("services",)}, "subscribes", ["services"]),
    ],
)
def test_what_is_not_granted_is_refused_with_the_line_that_grants_it(
    needs: dict[str, tuple[str, ...]], kind: str, grant: list[str]
) -> None:
    (refused,) = problems({"sidecars": {"mine": True}}, mine=third(**needs))
    assert refused.startswith(f"PAN0405 sidecars.mine: it {kind} {', '.join(grant)}, which this profile does not grant")
    assert refused.endswith(f"add [grants.mine] {kind} = {msgspec.json.encode(grant).decode().replace(',', ', ')}")
    assert problems({"sidecars": {"mine": True}, "grants": {"mine": {kind: grant}}}, mine=third(**needs)) == []


def test_a_name_alone_is_no_tuple_of_names() -> None:
    with pytest.raises(TypeError, match="writes is a tuple of names"):
        Needs(writes="headers")  # type: ignore[arg-type]


def test_ones_own_topics_lifecycle_and_events_are_free() -> None:
    own = third(publishes=("mine.a", "mine.b", "events"), subscribes=("mine.a", "lifecycle"), verbs=("go",))
    assert problems({"sidecars": {"mine": True}}, mine=own) == []


@pytest.mark.parametrize(
    "needs",
    [
        {"writes": ("base",)},
        {"writes": ("central",)},
        {"reads": ("hot",)},
        {"publishes": ("lifecycle",)},
        {"publishes": ("central.state",)},
    ],
)
def test_what_is_the_supervisors_or_not_there_no_profile_can_grant(needs: dict[str, tuple[str, ...]]) -> None:
    (refused,) = problems({"sidecars": {"mine": True}}, mine=third(**needs))
    assert "which no profile can grant" in refused


@pytest.mark.parametrize(
    ("needs", "grants", "ours", "thing"),
    [
        ({"writes": ("routes",)}, {"writes": ["routes"]}, "traffic", "table routes"),
        ({"reads": ("rings",)}, {"reads": ["rings"]}, "observability", "reading rings"),
        ({"publishes": ("canary.progress",)}, {"publishes": ["canary.progress"]}, "traffic", "topic canary.progress"),
    ],
)
def test_what_another_one_has_is_refused_and_who_stands_in_for_it_may_have_it(
    needs: dict[str, tuple[str, ...]], grants: dict[str, list[str]], ours: str, thing: str
) -> None:
    alone = {"sidecars": {"mine": True}, "grants": {"mine": grants}}
    both = {"sidecars": {"mine": True, ours: True}, "grants": {"mine": grants}}
    assert problems(alone, mine=third(**needs)) == []
    (refused,) = problems(both, mine=third(**needs))
    assert refused.startswith(f"PAN0406 sidecars.mine: {thing} can be one sidecar's alone, and is that of {ours}")


def test_grants_are_checked_like_any_settings_and_hurt_nobody_who_is_not_there() -> None:
    assert problems({"grants": {"absent": {"writes": ["headers"]}}}) == []
    (refused,) = problems({"grants": {"absent": {"writes": ["haeders"]}}})
    assert refused.startswith("PAN0104 grants.absent.writes[0]")
