"""How calls are shared among clusters: a route's targets, and the split of each service in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import Final, NamedTuple

from pannier.sidecars.pilot.policy import Policy

MOST: Final = 1 << 31
"""The weights of one split add up to less than 2**32 with Envoy and gRPC."""
PARTS: Final = 1_000_000


class Share(NamedTuple):
    """The cluster, the service that it is (a subset of), and its weight."""

    cluster: str
    service: str
    weight: int


def shares(policy: Policy, targets: Mapping[str, int]) -> Sequence[Share]:
    """Who gets how much; a target that is a service with a split counts as its subsets. Empty if all weights are 0."""
    parts: dict[str, Fraction] = {}
    for target, weight in targets.items():
        service, slash, _ = target.partition("/")
        split = {} if slash else policy.service(service).split
        total = sum(split.values())
        if not total:
            parts[target] = parts.get(target, Fraction(0)) + weight
        for subset, share in split.items() if total else ():
            name = f"{service}/{subset}"
            parts[name] = parts.get(name, Fraction(0)) + Fraction(weight * share, total)
    parts = {name: part for name, part in parts.items() if part}
    scale = Fraction(lcm(*(part.denominator for part in parts.values())) if parts else 1)
    whole = sum(parts.values(), Fraction(0))
    if whole * scale > MOST:
        scale = PARTS / whole
    return [Share(name, name.partition("/")[0], max(round(part * scale), 1)) for name, part in parts.items()]
