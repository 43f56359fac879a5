"""A simulated day of many hosts and their Central: what goes in, and what comes out of the compiled simulation.

What is assumed has its names and defaults in `shared/core/central/src/fleet/parameters.rs`; the fields of the outcome
are described in `outcome.rs` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from pannier import _native

Assumed: TypeAlias = int | float | bool | str


class Requests(msgspec.Struct, frozen=True):
    served: float
    late: float
    shed: float
    starving_s: float


class Spread(msgspec.Struct, frozen=True):
    p50: float
    p99: float
    most: float


class AtCentral(msgspec.Struct, frozen=True):
    can: float
    most_offered: float
    offered: float
    served: float
    failed: float
    worst_minute: float
    broken_s: float
    longest_wait_ms: float
    cores: Spread


class Minute(msgspec.Struct, frozen=True):
    hour: float
    shifted: int
    starving: int
    starving_alone: int
    offered: float
    served: float
    granted: float
    saved: float
    used: float


class Outcome(msgspec.Struct, frozen=True):
    here: Requests
    alone: Requests
    relieved: float
    central: AtCentral
    saved: Spread
    saved_core_hours: float
    saved_each: float
    reversals: int
    most_reversals: int
    first_relief: Spread
    whole_relief: Spread
    bouts: int
    unrelieved: int
    minutes: list[Minute]


def simulate(assumptions: Mapping[str, Assumed], controller: Mapping[str, Any] | None = None) -> Outcome:
    """Runs a day. `assumptions` are by dotted name (`host.app_us`), `controller` is as in table `central`; what is not
    given is the default. Raises ValueError, with the reason, for a name that there is not and a number that cannot be.
    """
    parameters: dict[str, Any] = {} if controller is None else {"controller": controller}
    for path, value in assumptions.items():
        section, _, field = path.rpartition(".")
        (parameters.setdefault(section, {}) if section else parameters)[field] = value
    return msgspec.msgpack.decode(_native.simulate_fleet(msgspec.msgpack.encode(parameters)), type=Outcome)
