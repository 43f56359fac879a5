"""A fleet that changes at random under load, followed by real clients: Envoy in both forms, and gRPC's own.

    python -m tests.sidecars.pilot.xds.churn [--changes 1000] [--seed N]

Instances come, drain, leave and are switched off a moment later, as fleets do it; now and then one is killed. Services
come and go, weights change, and so does the policy. Each change is written down, and so is each call; a call that fails
has to be explained by a change. Prints a summary as JSON; ends with 1 if something in it must not be.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from pannier.shared.instances import State
from pannier.sidecars.pilot.policy import Policy, Proxy
from pannier.sidecars.resilience.config import Config as Resilience
from pannier.sidecars.traffic.config import Config as Traffic
from pannier.sidecars.traffic.config import Service

from tests.sidecars.pilot.xds.load import Called, Calls, grpc_calls, through
from tests.sidecars.pilot.xds.real_envoy import Envoy, Form, envoy
from tests.sidecars.pilot.xds.rig import (
    PATIENCE_S,
    Origin,
    Pilot,
    pilot,
    serve_grpc_origin,
    serve_http_origin,
    wait_until,
)

FORMS: Final[Mapping[str, Form]] = {"envoy-delta": "DELTA_GRPC", "envoy-sotw": "GRPC"}
STANDING: Final = ("orders", "stock")
PASSING: Final = ("offers", "search", "stats")
OVER_GRPC: Final = "quotes"
PACE_S: Final = 0.06
GRACE_S: Final = 1.0
"""From an instance's leaving the registry to its being switched off, and from a killing to its being noticed."""
TOLD_S: Final = 1.0
"""Within which everybody knows of a change, unless somebody has less to promise."""
POLICIES: Final = (
    Policy(),
    Policy(resilience=Resilience()),
    Policy(proxy=Proxy(balance="round_robin")),
    Policy(traffic=Traffic(services={"orders": Service(balance="random")})),
)


@dataclass
class Change:
    """What happened, and when (epoch seconds): once the store had it, of what is to be known a moment later; else as it
    began."""

    at: float
    what: str
    service: str
    instance: str = ""


@dataclass
class Fleet:
    """The instances of all services, and what was done to them."""

    pilot: Pilot
    nursery: trio.Nursery
    rng: random.Random
    told_s: float
    log: list[Change] = field(default_factory=list)
    up: dict[str, dict[str, Origin]] = field(default_factory=dict)
    draining: dict[str, dict[str, Origin]] = field(default_factory=dict)
    made: int = 0

    def services(self) -> Sequence[str]:
        """Those that are meant to answer."""
        return [name for name in (*STANDING, *PASSING) if self.up.get(name)]

    async def change(self) -> None:
        """One change, at random."""
        kinds = {"add": 4, "drain": 4, "leave": 4, "weigh": 6, "kill": 0.4, "come": 0.7, "go": 0.7, "policy": 0.4}
        while True:
            (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
            if await getattr(self, f"_{kind}")():
                return

    def note(self, what: str, service: str, instance: str = "") -> None:
        self.log.append(Change(time.time(), what, service, instance))

    async def start(self, service: str) -> None:
        self.made += 1
        name = f"{service}-{self.made}"
        over_grpc = service == OVER_GRPC
        origin: Origin = await self.nursery.start(serve_grpc_origin if over_grpc else serve_http_origin, name)
        await self.pilot.register(service, name, origin.port, **self._said(service))
        self.note("add", service, name)
        self.up.setdefault(service, {})[name] = origin

    def _said(self, service: str) -> dict[str, str]:
        said = {"weight": str(self.rng.randint(1, 100)), "zone": self.rng.choice(["", "a", "b"])}
        return {**said, "protocol": "grpc"} if service == OVER_GRPC else said

    def _pick(self, least: int) -> str | None:
        """A standing service that has more than so many instances."""
        some = [name for name in (*STANDING, OVER_GRPC) if len(self.up[name]) > least]
        return self.rng.choice(some) if some else None

    async def _add(self) -> bool:
        service = self.rng.choice([*STANDING, OVER_GRPC])
        if len(self.up[service]) >= 6:
            return False
        await self.start(service)
        return True

    async def _drain(self) -> bool:
        if (service := self._pick(1)) is None:
            return False
        name = self.rng.choice(sorted(self.up[service]))
        await self.pilot.move((service, name), State.DRAINING)
        self.note("drain", service, name)
        self.draining.setdefault(service, {})[name] = self.up[service].pop(name)
        return True

    async def _leave(self) -> bool:
        some = [(service, name) for service, names in self.draining.items() for name in names]
        if not some:
            return False
        service, name = self.rng.choice(some)
        self.note("leave", service, name)
        await self.pilot.leave((service, name))
        self.nursery.start_soon(self._switch_off, self.draining[service].pop(name))
        return True

    async def _weigh(self) -> bool:
        service = self.rng.choice([*STANDING, OVER_GRPC])
        name = self.rng.choice(sorted(self.up[service]))
        self.note("weigh", service, name)
        await self.pilot.register(service, name, self.up[service][name].port, **self._said(service))
        return True

    async def _kill(self) -> bool:
        if (service := self._pick(2)) is None:
            return False
        name = self.rng.choice(sorted(self.up[service]))
        self.note("kill", service, name)
        self.up[service].pop(name).close()
        await trio.sleep(GRACE_S)
        self.note("given up", service, name)
        await self.pilot.leave((service, name))
        return True

    async def _come(self) -> bool:
        absent = [name for name in PASSING if name not in self.pilot.registry.view.services()]
        if not absent:
            return False
        await self.start(self.rng.choice(absent))
        return True

    async def _go(self) -> bool:
        there = [name for name in PASSING if self.up.get(name)]
        if not there:
            return False
        service = self.rng.choice(there)
        self.note("go", service)
        for name, origin in self.up.pop(service).items():
            await self.pilot.leave((service, name))
            self.nursery.start_soon(self._switch_off, origin)
        return True

    async def _policy(self) -> bool:
        self.note("policy", "*")
        self.pilot.stages.of["production"] = self.rng.choice(POLICIES)
        self.pilot.xds.policy_changed("production")
        return True

    async def _switch_off(self, origin: Origin) -> None:
        await trio.sleep(GRACE_S + self.told_s)
        origin.close()


def unexplained(calls: Sequence[Called], log: Sequence[Change], told_s: float) -> Sequence[Called]:
    """Calls that failed although nothing that was done is a reason: that a service was not there, or that an instance
    of it was killed and nobody could know yet."""
    killed: dict[str, list[tuple[float, float]]] = {}
    absent: dict[str, list[tuple[float, float]]] = {name: [(0.0, math.inf)] for name in PASSING}
    for change in log:
        match change.what:
            case "kill":
                killed.setdefault(change.service, []).append((change.at, change.at + GRACE_S + 2 * told_s))
            case "add" if change.service in absent and absent[change.service][-1][1] == math.inf:
                absent[change.service][-1] = (absent[change.service][-1][0], change.at + told_s)
            case "go":
                absent[change.service].append((change.at, math.inf))

    def overlaps(call: Called, spans: Mapping[str, Sequence[tuple[float, float]]]) -> bool:
        return any(begin <= call.ended and call.begun <= end for begin, end in spans.get(call.service, ()))

    return [one for one in calls if not one.well and not overlaps(one, killed) and not overlaps(one, absent)]


def too_late(calls: Sequence[Called], log: Sequence[Change], told_s: float) -> Sequence[str]:
    """Calls that an instance was given although it had been draining for some time, and others were there."""
    since = {change.instance: change.at for change in log if change.what == "drain"}
    late = [(one.begun - since.get(one.answer, math.inf), one) for one in calls if one.well]
    return [f"{one.answer} {one.begun:.3f}, {by:.3f} s after it drained" for by, one in late if by > told_s]


def is_well(summary: Mapping[str, Any]) -> bool:
    """Whether everything was accepted, agrees in the end, and cost no call."""
    of_all = [summary["reconnected"], *summary["update_rejected"].values(), *summary["differs"].values()]
    bad = ("unexplained", "too_late", "unanswered", "rejected")
    return not any(of_all) and not any(client[one] for client in summary["clients"].values() for one in bad)


def free_port() -> int:
    """Of the loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Parses what is on the command line, and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--rate", type=float, default=100.0)
    said = parser.parse_args()
    summary = trio.run(partial(run, said.changes, said.seed, rate=said.rate))
    print(json.dumps(summary, indent=1))
    sys.exit(not is_well(summary))


if __name__ == "__main__":
    main()
