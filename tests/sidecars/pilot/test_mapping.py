"""Every word of a policy reaches Envoy and gRPC, or is told not to: `docs/xds-mapping.md` is held to that.

Each row of the page is a field. Here it is changed, alone: what is served to a client has to change, unless the page
says `no`; and the report has to name it for whom the page says anything but `yes`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pytest
from msgspec import inspect
from pannier.sidecars.pilot.documents.policy import Client, Policy, Unmapped
from pannier.sidecars.pilot.xds.clusters import clusters
from pannier.sidecars.pilot.xds.report import unmapped
from pannier.sidecars.pilot.xds.resources import Type
from pannier.sidecars.pilot.xds.routes import route_configuration
from pannier.sidecars.pilot.xds.schema import MESSAGES

PAGE = Path(__file__).parents[3] / "docs" / "xds-mapping.md"
Json = dict[str, Any]
Mark = Literal["yes", "in part", "no", "before"]

ROUTE: Final[Json] = {"name": "one", "hosts": ["orders"], "matches": [{}], "to": {"orders": 1}}
BASE: Final[Json] = {
    "traffic": {"services": {"orders": {"locality": "off"}}, "routes": [ROUTE]},
    "resilience": {"services": {"orders": {"failure_policy": "none"}}},
}
SERVICE, LIMITS, R0 = "traffic.services.orders", "resilience.services.orders", "traffic.routes.0"
HASHED: Final[Json] = {f"{SERVICE}.balance": "ring_hash"}
BREAKER: Final[Json] = {f"{LIMITS}.failure_policy": "breaker"}
OUTLIER: Final[Json] = {f"{LIMITS}.failure_policy": "outlier"}
SPLIT: Final[Json] = {f"{SERVICE}.subsets": {"v1": {"version": "1"}, "v2": {"version": "2"}}}
TEXT: Final[Json] = {f"{R0}.matches.0.headers": {"x-a": {"exact": "1"}}}
QUERY: Final[Json] = {f"{R0}.matches.0.query": {"a": {"exact": "1"}}}

#: The field, what it is changed to, and what is said beside it, before and after.
CASES: Final[Mapping[str, tuple[Any, Json]]] = {
    "proxy.balance": ("p2c_ewma", {"proxy.balance": "round_robin"}),
    "proxy.timeouts.connect": ("2s", {}),
    "proxy.timeouts.request": ("2s", {}),
    "traffic.allow": (["fault"], {}),
    "traffic.zone": ("a", {}),
    "traffic.services.*.balance": ("random", {}),
    "traffic.services.*.affinity.cookie": ("session", HASHED),
    "traffic.services.*.affinity.header": ("x-user", HASHED),
    "traffic.services.*.affinity.ttl": ("5s", HASHED | {f"{SERVICE}.affinity": {"cookie": "session"}}),
    "traffic.services.*.slow_start": ("5s", {}),
    "traffic.services.*.locality": ("host", {}),
    "traffic.services.*.subsets": ({"v1": {"version": "1"}}, {}),
    "traffic.services.*.split": ({"v1": 90, "v2": 10}, SPLIT),
    "traffic.services.*.shift.to": ("v2", SPLIT),
    "traffic.services.*.shift.step": (20, SPLIT | {f"{SERVICE}.shift": {"to": "v2"}}),
    "traffic.services.*.shift.every": ("5s", SPLIT | {f"{SERVICE}.shift": {"to": "v2"}}),
    "traffic.services.*.shift.until": (50, SPLIT | {f"{SERVICE}.shift": {"to": "v2"}}),
    "traffic.services.*.shift.abort_on": ("success<90%", SPLIT | {f"{SERVICE}.shift": {"to": "v2"}}),
    "traffic.services.*.shift.min_requests": (50, SPLIT | {f"{SERVICE}.shift": {"to": "v2"}}),
    "traffic.services.*.shift.started": (5.0, SPLIT | {f"{SERVICE}.shift": {"to": "v2"}}),
    "traffic.services.*.mirror.to": ("shadow", {}),
    "traffic.services.*.mirror.percent": (5.0, {f"{SERVICE}.mirror": {"to": "shadow"}}),
    "traffic.services.*.fault.delay": ("5ms", {}),
    "traffic.services.*.fault.abort": (503, {}),
    "traffic.services.*.fault.percent": (5.0, {f"{SERVICE}.fault": {"abort": 503}}),
    "traffic.services.*.fault.until": (5.0, {f"{SERVICE}.fault": {"abort": 503}}),
    "traffic.routes[].name": ("two", {}),
    "traffic.routes[].side": ("inbound", {f"{R0}.to": {}}),
    "traffic.routes[].hosts": (["*"], {}),
    "traffic.routes[].matches[].path": ("/a", {}),
    "traffic.routes[].matches[].prefix": ("/a", {}),
    "traffic.routes[].matches[].regex": ("/a+", {}),
    "traffic.routes[].matches[].method": ("GET", {}),
    "traffic.routes[].matches[].headers.*.exact": ("2", TEXT),
    "traffic.routes[].matches[].headers.*.regex": ("a+", TEXT | {f"{R0}.matches.0.headers.x-a.exact": None}),
    "traffic.routes[].matches[].headers.*.present": (True, TEXT | {f"{R0}.matches.0.headers.x-a.exact": None}),
    "traffic.routes[].matches[].query.*.exact": ("2", QUERY),
    "traffic.routes[].matches[].query.*.regex": ("a+", QUERY | {f"{R0}.matches.0.query.a.exact": None}),
    "traffic.routes[].matches[].query.*.present": (True, QUERY | {f"{R0}.matches.0.query.a.exact": None}),
    "traffic.routes[].matches[].port": (8080, {}),
    "traffic.routes[].matches[].source": ("shop", {}),
    "traffic.routes[].to": ({"stock": 1}, {}),
    "traffic.routes[].rewrite.path": ("/a", {}),
    "traffic.routes[].rewrite.prefix": ("/a", {}),
    "traffic.routes[].rewrite.host": ("a.example", {}),
    "traffic.routes[].redirect.status": (307, {f"{R0}.redirect": {}}),
    "traffic.routes[].redirect.scheme": ("https", {f"{R0}.redirect": {}}),
    "traffic.routes[].redirect.host": ("a.example", {f"{R0}.redirect": {}}),
    "traffic.routes[].redirect.port": (8080, {f"{R0}.redirect": {}}),
    "traffic.routes[].redirect.path": ("/a", {f"{R0}.redirect": {}}),
    "traffic.routes[].redirect.prefix": ("/a", {f"{R0}.redirect": {}}),
    "traffic.routes[].request.set": ({"x-a": "1"}, {}),
    "traffic.routes[].request.add": ({"x-a": "1"}, {}),
    "traffic.routes[].request.remove": (["x-a"], {}),
    "traffic.routes[].response.set": ({"x-a": "1"}, {}),
    "traffic.routes[].response.add": ({"x-a": "1"}, {}),
    "traffic.routes[].response.remove": (["x-a"], {}),
    "traffic.routes[].timeouts.request": ("2s", {}),
    "traffic.routes[].timeouts.backend_request": ("1s", {}),
    "traffic.routes[].retries": (3, {}),
    "traffic.routes[].mirror.to": ("shadow", {}),
    "traffic.routes[].mirror.percent": (5.0, {f"{R0}.mirror": {"to": "shadow"}}),
    "traffic.routes[].fault.delay": ("5ms", {}),
    "traffic.routes[].fault.abort": (503, {}),
    "traffic.routes[].fault.percent": (5.0, {f"{R0}.fault": {"abort": 503}}),
    "traffic.routes[].fault.until": (5.0, {f"{R0}.fault": {"abort": 503}}),
    "traffic.routes[].cors.origins": (["https://b.example"], {}),
    "traffic.routes[].cors.methods": (["PUT"], {f"{R0}.cors": {"origins": ["*"]}}),
    "traffic.routes[].cors.headers": (["x-a"], {f"{R0}.cors": {"origins": ["*"]}}),
    "traffic.routes[].cors.expose": (["x-a"], {f"{R0}.cors": {"origins": ["*"]}}),
    "traffic.routes[].cors.credentials": (True, {f"{R0}.cors": {"origins": ["https://a.example"]}}),
    "traffic.routes[].cors.max_age": ("5s", {f"{R0}.cors": {"origins": ["*"]}}),
    "resilience.services.*.failure_policy": ("breaker", {}),
    "resilience.services.*.breaker.consecutive_failures": (3, BREAKER),
    "resilience.services.*.breaker.penalty_min": ("2s", BREAKER),
    "resilience.services.*.breaker.penalty_max": ("20s", BREAKER),
    "resilience.services.*.breaker.jitter": (0.1, BREAKER),
    "resilience.services.*.breaker.success_rate": (0.8, BREAKER),
    "resilience.services.*.breaker.window": ("5s", BREAKER | {f"{LIMITS}.breaker": {"success_rate": 0.8}}),
    "resilience.services.*.breaker.min_requests": (9, BREAKER | {f"{LIMITS}.breaker": {"success_rate": 0.8}}),
    "resilience.services.*.outlier.consecutive_5xx": (3, OUTLIER),
    "resilience.services.*.outlier.consecutive_gateway_failure": (
        3,
        OUTLIER | {f"{LIMITS}.outlier": {"enforcing_consecutive_gateway_failure": 100}},
    ),
    "resilience.services.*.outlier.consecutive_local_origin_failure": (3, OUTLIER),
    "resilience.services.*.outlier.enforcing_consecutive_5xx": (50.0, OUTLIER),
    "resilience.services.*.outlier.enforcing_consecutive_gateway_failure": (50.0, OUTLIER),
    "resilience.services.*.outlier.enforcing_consecutive_local_origin_failure": (
        50.0,
        OUTLIER | {f"{LIMITS}.outlier": {"consecutive_local_origin_failure": 3}},
    ),
    "resilience.services.*.outlier.interval": ("5s", OUTLIER),
    "resilience.services.*.outlier.base_ejection": ("5s", OUTLIER),
    "resilience.services.*.outlier.max_ejection": ("50s", OUTLIER),
    "resilience.services.*.outlier.max_ejected_percent": (50.0, OUTLIER),
    "resilience.services.*.outlier.enforcing_success_rate": (50.0, OUTLIER),
    "resilience.services.*.outlier.stdev_factor": (1.5, OUTLIER),
    "resilience.services.*.outlier.success_rate_hosts": (3, OUTLIER),
    "resilience.services.*.outlier.success_rate_requests": (50, OUTLIER),
    "resilience.services.*.outlier.failure_percentage": (85.0, OUTLIER),
    "resilience.services.*.outlier.failure_percentage_hosts": (3, OUTLIER),
    "resilience.services.*.outlier.failure_percentage_requests": (20, OUTLIER),
    "resilience.services.*.service_breaker.failure_rate": (20.0, {}),
    "resilience.services.*.service_breaker.slow_rate": (20.0, {}),
    "resilience.services.*.service_breaker.slow": ("5s", {}),
    "resilience.services.*.service_breaker.calls": (20, {}),
    "resilience.services.*.service_breaker.open": ("5s", {}),
    "resilience.services.*.service_breaker.half_open_calls": (5, {}),
    "resilience.services.*.resources.connections": (5, {}),
    "resilience.services.*.resources.pending": (5, {}),
    "resilience.services.*.resources.requests": (5, {}),
    "resilience.services.*.resources.retries": (5, {f"{LIMITS}.retry": {"budget": None}}),
    "resilience.services.*.retry.attempts": (2, {}),
    "resilience.services.*.retry.on": (["5xx"], {}),
    "resilience.services.*.retry.backoff_min": ("5ms", {}),
    "resilience.services.*.retry.backoff_max": ("500ms", {}),
    "resilience.services.*.retry.body_limit": (5, {}),
    "resilience.services.*.retry.budget.percent": (5.0, {}),
    "resilience.services.*.retry.budget.min_per_second": (5, {}),
    "resilience.services.*.rate_limit.max": (5, {f"{LIMITS}.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.services.*.rate_limit.fill": (5, {f"{LIMITS}.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.services.*.rate_limit.interval": ("5s", {f"{LIMITS}.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.services.*.rate_limit.enabled": (5.0, {f"{LIMITS}.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.services.*.rate_limit.enforced": (5.0, {f"{LIMITS}.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.services.*.bulkhead.concurrent": (5, {}),
    "resilience.services.*.bulkhead.wait": ("5s", {f"{LIMITS}.bulkhead": {}}),
    "resilience.inbound.rate_limit.max": (5, {"resilience.inbound.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.inbound.rate_limit.fill": (5, {"resilience.inbound.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.inbound.rate_limit.interval": ("5s", {"resilience.inbound.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.inbound.rate_limit.enabled": (5.0, {"resilience.inbound.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.inbound.rate_limit.enforced": (5.0, {"resilience.inbound.rate_limit": {"max": 10, "fill": 10}}),
    "resilience.inbound.bulkhead.concurrent": (5, {}),
    "resilience.inbound.bulkhead.wait": ("5s", {}),
    "resilience.inbound.shedding.requests": (5, {}),
    "resilience.inbound.shedding.sheddable": (0.1, {}),
    "resilience.inbound.shedding.default": (0.8, {}),
    "resilience.inbound.shedding.trust": (True, {}),
    "resilience.inbound.shedding.enforced": (5.0, {}),
}


def leaves(node: inspect.Type, path: str = "") -> Iterator[str]:
    """The fields below a type that are no structs: `a.*.b` of a map of structs, `a[].b` of a list of them."""
    while isinstance(node, inspect.Metadata):
        node = node.type
    if isinstance(node, inspect.UnionType):
        structs = [choice for choice in node.types if isinstance(choice, inspect.StructType)]
        yield from leaves(structs[0], path) if structs else [path]
    elif isinstance(node, inspect.StructType):
        for field in node.fields:
            yield from leaves(field.type, f"{path}.{field.name}" if path else field.name)
    elif isinstance(node, inspect.DictType) and has_structs(node.value_type):
        yield from leaves(node.value_type, f"{path}.*")
    elif isinstance(node, inspect.ListType) and has_structs(node.item_type):
        yield from leaves(node.item_type, f"{path}[]")
    else:
        yield path


def has_structs(node: inspect.Type) -> bool:
    """Whether it is a struct, or an annotated one."""
    while isinstance(node, inspect.Metadata):
        node = node.type
    return isinstance(node, inspect.StructType)


def rows() -> dict[str, tuple[Mark, Mark]]:
    """What the page says of each field, for Envoy and for gRPC. A row may name several: `a.{b, c}`."""
    found: dict[str, tuple[Mark, Mark]] = {}
    for line in PAGE.read_text().splitlines():
        row = re.match(r"\| `([^`]+)` \| (yes|in part|no|before)\b[^|]* \| (yes|in part|no|before)\b[^|]* \|$", line)
        if row is None:
            continue
        head, brace, names = row[1].partition("{")
        for name in names.rstrip("}").split(", ") if brace else [""]:
            assert head + name not in found, f"{head}{name} is there twice"
            found[head + name] = row[2], row[3]  # type: ignore[assignment]
    return found


def policy(said: Json) -> Policy:
    """The base with these settings, by their dotted paths."""
    whole = copy.deepcopy(BASE)
    for path, value in said.items():
        *parents, last = path.split(".")
        at: Any = whole
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        if isinstance(at, list):
            at[int(last)] = value
        else:
            at[last] = copy.deepcopy(value)
    return msgspec.convert(whole, Policy)


def served(policy: Policy, client: Client) -> tuple[Json, list[Json]]:
    """All that a client is served of it."""
    services = ["orders", "stock"]
    routes, _ = route_configuration(policy, services, name="all", client=client)
    return routes, [
        cluster for name in services for cluster in clusters(policy, name, subsets=list(policy.subsets(name)))[0]
    ]


def about(report: list[Unmapped], place: str, client: str) -> bool:
    """Whether the report names what is at this place, what it is part of (but a whole service), or a part of it."""
    place = re.sub(r"\.(\d+)", r"[\1]", place)
    return any(
        one.clients in (client, "both")
        and (place == one.where or place.startswith((f"{one.where}.", f"{one.where}[")) or one.where.startswith(place))
        for one in report
    )


def place_of(field: str) -> str:
    """Where a field is, in the base."""
    for every, one in (
        ("[]", ".0"),
        ("services.*", "services.orders"),
        ("headers.*", "headers.x-a"),
        ("query.*", "query.a"),
    ):
        field = field.replace(every, one)
    return field


def cases(field: str) -> tuple[Policy, Policy, str]:
    """A policy before and after the change of a field, and where that is."""
    value, beside = CASES[field]
    place = place_of(field)
    texts = {path: text for path, text in beside.items() if path.endswith(".exact")}
    others = {path: text for path, text in beside.items() if path not in texts}
    changed = {**others, place: value}
    if texts:  # one condition stands in place of another
        (at,) = texts
        changed = {**{path: text for path, text in others.items() if not at.startswith(path)}, place: value}
    return policy(others), policy(changed), place


def test_the_page_has_every_field_and_no_other() -> None:
    fields = set(leaves(inspect.type_info(Policy)))
    assert rows().keys() == fields
    assert CASES.keys() == fields


@pytest.mark.parametrize("field", CASES)
def test_a_field_is_mapped_or_reported(field: str) -> None:
    before, after, place = cases(field)
    clients: tuple[Client, Client] = "envoy", "grpc"
    for client, mark in zip(clients, rows()[field], strict=True):
        told = about(list(unmapped(after, ["orders"])), place.replace("enforcing_", ""), client)
        if mark != "before":
            assert told == (mark != "yes"), f"{client}: the page says {mark}"
        if mark in ("yes", "in part"):
            assert served(before, client) != served(after, client)


@pytest.mark.parametrize("client", ["envoy", "grpc"])
def test_whatever_is_said_can_be_encoded(client: Client) -> None:
    for field in CASES:
        _, after, _ = cases(field)
        routes, of_services = served(after, client)
        MESSAGES.from_json(Type.ROUTES.value, routes)
        for told in of_services:
            MESSAGES.from_json(Type.CLUSTER.value, told)
