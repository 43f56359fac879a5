"""How calls are shared among clusters: a route's targets, and the split of each service in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import Final, NamedTuple

from pannier.sidecars.pilot.documents.policy import Policy

MOST: Final = 1 << 31
"""The weights of one split add up to less than 2**32 with Envoy and gRPC."""
PARTS: Final = 1_000_000


class Share(NamedTuple):
    """The cluster, the service that it is (a subset of), and its weight."""

    cluster: str
    service: str
    weight: int


def shares(policy: Policy, targets: Mapping[str, int]) -> Sequence[Share]:
    """Who gets how much; a target that is a service with a split counts as its subsets. Empty if all weights are 0.

    The weights are those that were said, where nothing is split twice.
    """
    splits = {target: policy.service(target).split for target in targets if "/" not in target}
    whole = lcm(*(sum(split.values()) or 1 for split in splits.values()))
    parts: dict[str, int] = {}
    for target, weight in targets.items():
        split = splits.get(target, {})
        total = sum(split.values())
        if not total:
            parts[target] = parts.get(target, 0) + weight * whole
        for subset, share in split.items() if total else ():
            name = f"{target}/{subset}"
            parts[name] = parts.get(name, 0) + weight * share * whole // total
    parts = {name: part for name, part in parts.items() if part}
    if len(targets) == 1 and len(parts) == 1:
        parts = dict.fromkeys(parts, 1)
    scale = Fraction(PARTS, sum(parts.values())) if sum(parts.values()) > MOST else Fraction(1)
    return [Share(name, name.partition("/")[0], max(round(part * scale), 1)) for name, part in parts.items()]
