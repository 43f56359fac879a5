"""Sidecars in one process, as the supervisor plans and finds them again; `tests/system/test_fused.py` runs them."""

from __future__ import annotations

import pytest
from pannier.shared.profile import Profile
from pannier.supervisor.adoption import Found
from pannier.supervisor.fuse import unfolded
from pannier.supervisor.plan import Arguments, Place, Plan, Said
from pannier.supervisor.planning import Installation, first_plan, next_plan
from pannier.supervisor.restart import Exit
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types

PLACE = Place("/run/orders", {}, "/pannierd", 2, {"inbound": 1, "outbound": 2, "metrics": 3})
ARGUMENTS = Arguments(name="orders", command=("serve",), app="127.0.0.1:8080")
INSIDE = ("traffic", "resilience")


def planned(*, fuse: bool) -> Plan:
    installation = Installation(sidecar_types(), sidecar_modules())
    return first_plan(Profile(fuse=fuse), ARGUMENTS, PLACE, said=Said({"fuse": fuse}), installation=installation)


def test_without_fuse_everybody_has_a_process() -> None:
    plan = planned(fuse=False)
    assert plan.fused is None
    assert not any(sidecar.fused for sidecar in plan.sidecars.values())


def test_our_sidecars_share_one_and_it_has_a_token_of_its_own() -> None:
    plan = planned(fuse=True)
    assert plan.fused is not None and plan.fused.grant is not None
    assert all(sidecar.fused for sidecar in plan.sidecars.values())
    tokens = [each.grant.token for each in (plan.fused, *plan.sidecars.values()) if each.grant is not None]
    assert len(set(tokens)) == 1 + len(plan.sidecars)


@pytest.mark.parametrize("fuse", [True, False])
def test_a_later_plan_keeps_to_what_the_first_one_decided(fuse: bool) -> None:
    first = planned(fuse=fuse)
    said = Said({"fuse": not fuse})
    later = next_plan(first, ARGUMENTS, said, Installation(sidecar_types(), sidecar_modules()))
    assert later.settings["fuse"] is not fuse
    assert later.fused == first.fused
    assert {name: each.fused for name, each in later.sidecars.items()} == dict.fromkeys(first.sidecars, fuse)


def test_who_was_inside_the_process_that_runs_runs() -> None:
    found = Found({"proxy": 5, "fused": 7}, {})
    assert unfolded(found, {"traffic": 7, "resilience": 6, "proxy": 5}, INSIDE) == Found(
        {"proxy": 5, "fused": 7, "traffic": 7}, {}
    ), "resilience was in an earlier one"


def test_who_was_inside_the_process_that_ended_has_ended_as_it_did() -> None:
    killed = (7, Exit.by_signal(9))
    found = unfolded(Found({}, {"fused": killed}), {"traffic": 7, "resilience": 6}, INSIDE)
    assert found == Found({}, {"fused": killed, "traffic": killed})


def test_nobody_was_inside_of_none() -> None:
    assert unfolded(Found({"proxy": 5}, {}), {"traffic": 0}, INSIDE) == Found({"proxy": 5}, {})
