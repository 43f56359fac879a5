from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pannier.shared.errors import PannierError
from pannier.supervisor.change import MOST_LINES, change, configured
from pannier.supervisor.plan import Arguments, Place, Plan, Said
from pannier.supervisor.planning import Installation, next_plan, plan_for, profile_of


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    failures: int = 7
    jitter: float = 0.5


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    breaker: Breaker = Breaker()
    policy: str = "breaker"


class Resilience(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    services: dict[str, Service] = {}


class Traces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ratio: float = 1.0


class Observability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    traces: Traces = Traces()
    resource: dict[str, str] = {}


class Needy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str


TYPES: dict[str, type[msgspec.Struct]] = {"resilience": Resilience, "observability": Observability, "needy": Needy}
INSTALLATION = Installation(TYPES, {name: f"x.{name}" for name in TYPES})
PLACE = Place("/run/orders", {}, "/bin/pannierd", 2, {"inbound": 1, "outbound": 2})


def planned(below: dict[str, Any], live: dict[str, Any] | None = None, **arguments: Any) -> Plan:
    said = Said(below, live or {})
    given = Arguments(**{"name": "orders", "command": ("serve",), "profile": "here"} | arguments)
    profile = profile_of(given.profile, said, INSTALLATION)
    return plan_for(profile, given, PLACE, said=said, installation=INSTALLATION, token=lambda name: f"token of {name}")


def sidecars(**settings: dict[str, Any]) -> dict[str, Any]:
    return {"sidecars": settings}


def test_nothing_differs() -> None:
    plan = planned(sidecars(resilience={"services": {"a": {}}}))
    assert change(plan, plan).lines == ()


def test_who_comes_goes_and_is_told() -> None:
    old = planned(sidecars(resilience={"services": {"orders": {}}}, observability={}))
    new = planned(sidecars(resilience={"services": {"orders": {"breaker": {"failures": 5}}}}, needy={"url": "x"}))
    made = change(old, new, {"resilience"})
    assert (made.start, made.configure, made.base, made.stop) == (
        ("needy",),
        ("resilience",),
        False,
        ("observability",),
    )
    assert made.lines == (
        "+ start needy",
        "~ tell resilience: services.orders.breaker.failures 7 → 5",
        "- stop observability",
    )


@pytest.mark.parametrize(("live", "word"), [(None, "change"), (set(), "restart"), ({"observability"}, "tell")])
def test_how_a_sidecar_gets_its_configuration(live: set[str] | None, word: str) -> None:
    old = planned(sidecars(observability={}))
    new = planned(sidecars(observability={"traces": {"ratio": 0.5}}))
    assert change(old, new, live).lines == (f"~ {word} observability: traces.ratio 1.0 → 0.5",)


def test_a_rule_that_comes_or_goes_is_what_was_said_of_it() -> None:
    old = planned(sidecars(resilience={}))
    new = planned(sidecars(resilience={"services": {"orders": {"breaker": {"failures": 5}}, "stock": {}}}))
    assert change(old, new, set()).lines == (
        "~ restart resilience: services.orders.breaker.failures none → 5",
        "~ restart resilience: services.stock none → {}",
    )
    assert change(new, old, set()).lines == (
        "~ restart resilience: services.orders.breaker.failures 5 → none",
        "~ restart resilience: services.stock {} → none",
    )


def test_another_stage_tells_the_sidecar_that_names_it_and_touches_no_other() -> None:
    old = planned(sidecars(resilience={}, observability={}), profile="dev")
    new = planned(sidecars(resilience={}, observability={}), profile="production")
    assert configured(old, new) == ("observability",)
    assert change(old, new, set()).lines == ("~ restart observability: resource.stage dev → production",)


def test_what_the_supervisor_itself_carries_out() -> None:
    old = planned({"services": {"stock": [{"address": "127.0.0.1:1"}]}})
    new = planned(
        {
            "description": "said to people alone",
            "orphan_grace": "never",
            "outbound": {"unknown": "deny"},
            "proxy": {"timeouts": {"request": "5s"}},
            "services": {"stock": [{"address": "127.0.0.1:1", "weight": 2}], "cart": [{"address": "127.0.0.1:2"}]},
            "restart": {"on_crash": False},
        }
    )
    made = change(old, new)
    assert made.base
    assert made.lines == (
        "~ publish base: proxy.timeouts.request 15s → 5s",
        "~ publish base: outbound.unknown passthrough → deny",
        '~ publish base: services.stock."127.0.0.1:1".weight 1 → 2',
        '~ publish base: services.cart none → [{"address": "127.0.0.1:2"}]',
        "~ orphan_grace 0s → never",
        "~ restart.on_crash true → false",
    )


def test_what_is_bound_waits_for_the_next_start_and_an_option_has_the_last_word() -> None:
    more = {"proxy": {"workers": 4}, "outbound": {"port": 16000}, "ready_timeout": "1s"}
    made = change(planned({}), planned(more))
    assert not made.base
    assert made.lines == (
        "~ replace proxy: proxy.workers 0 → 4",
        "= at the next start: ready_timeout 30s → 1s",
        "= at the next start: outbound.port 15001 → 16000",
    )
    said = {"workers": 2, "outbound_port": 0, "ready_timeout": 3.0}
    assert change(planned({}, **said), planned(more, **said)).lines == ()


def test_a_thousand_rules_are_counted_and_not_all_shown() -> None:
    old = planned(sidecars(resilience={}))
    new = planned(sidecars(resilience={"services": {f"s{n}": {} for n in range(1000)}}))
    lines = change(old, new, {"resilience"}).lines
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == "~ tell resilience: 960 more"


def test_the_live_layer_is_the_topmost() -> None:
    plan = planned(sidecars(resilience={}), {"sidecars": {"resilience": False, "observability": True}})
    assert plan.enabled == ("observability",)


def test_the_next_plan_keeps_tokens_and_ports_and_gives_the_proxy_its_workers() -> None:
    old = planned(sidecars(resilience={}))
    new = next_plan(old, old.arguments, Said({"proxy": {"workers": 7}, **sidecars(needy={"url": "x"})}), INSTALLATION)
    assert new.proxy.argv == (*old.proxy.argv[:-1], "7")
    assert change(old, new).proxy
    assert new.place == old.place
    assert new.enabled == ("needy",)
    tokens = {name: plan.grant.token for name, plan in new.sidecars.items() if plan.grant is not None}
    assert tokens["resilience"] == "token of resilience"
    assert len(tokens["needy"]) == 64


def test_a_configuration_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(PannierError, match="configuration of resilience takes"):
        planned(sidecars(resilience={"services": {"s" * n: {} for n in range(1000)}}))


@pytest.mark.parametrize(
    ("below", "live"),
    [
        ({"sidecars": {"nobody": {}}}, {}),
        ({"sidecars": {"needy": {}}}, {}),
        ({}, {"sidecars": {"needy": True}}),
        ({}, {"sidecars": {"resilience": {"services": {"a": {"breaker": {"failures": "x"}}}}}}),
        ({"sidecars": 3}, {}),
        ({}, {"proxy": {"wrokers": 1}}),
    ],
)
def test_what_cannot_hold_is_refused_as_a_whole(below: dict[str, Any], live: dict[str, Any]) -> None:
    old = planned({})
    with pytest.raises(PannierError):
        next_plan(old, old.arguments, Said(below, live), INSTALLATION)
