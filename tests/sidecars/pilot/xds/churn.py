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
from pannier.sidecars.pilot.documents.policy import Policy, Proxy
from pannier.sidecars.pilot.xds.bootstrap import Form
from pannier.sidecars.resilience.config import Config as Resilience
from pannier.sidecars.traffic.config import Config as Traffic
from pannier.sidecars.traffic.config import Service

from tests.sidecars.pilot.xds.load import Called, Calls, grpc_calls, through
from tests.sidecars.pilot.xds.real_envoy import Envoy, envoy
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


async def run(
    changes: int, seed: int, *, rate: float = 100.0, pace: float = PACE_S, told_s: float = TOLD_S
) -> dict[str, Any]:
    """The whole of it; what came of it."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="pannier-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            tower = await stack.enter_async_context(pilot(folder))
            nursery = await stack.enter_async_context(trio.open_nursery())
            fleet = Fleet(tower, nursery, rng, told_s)
            for service in (*STANDING, OVER_GRPC):
                for _ in range(3):
                    await fleet.start(service)
            envoys: dict[str, Envoy] = {}
            calls: dict[str, Calls] = {}
            for node, form in FORMS.items():
                place = f"unix:{tower.socket}" if form == "GRPC" else str(tower.port)
                one = await stack.enter_async_context(envoy(folder, place, form, node=node, port=free_port()))
                envoys[node], calls[node] = one, Calls(lambda: rng.choice((*STANDING, *STANDING, *PASSING)))
                await one.wait_until_listening()
            calls["grpcio"] = await stack.enter_async_context(
                grpc_calls(folder, tower.port, "grpcio", OVER_GRPC, rate=rate / 2)
            )
            await wait_until(lambda: calls["grpcio"].made and all(map(tower.settled, [*envoys, "grpcio"])))
            for node, one in envoys.items():
                nursery.start_soon(partial(through, one.port, calls[node], rate=rate))
            begun, cpu = time.time(), time.process_time()
            for _ in range(changes):
                await fleet.change()
                await trio.sleep(pace * 2 * rng.random())
            lasted, cpu = time.time() - begun, time.process_time() - cpu
            agreed = {node: await _agreed(tower, one) for node, one in envoys.items()}
            await wait_until(lambda: all(map(tower.settled, [*envoys, "grpcio"])))
            for one_of in calls.values():
                one_of.over = True
            await wait_until(lambda: all(calls[node].ended for node in envoys))
            summary = {
                "changes": dict(Counter(change.what for change in fleet.log)),
                "seed": seed,
                "seconds": round(lasted, 1),
                "rig_cpu_share": round(cpu / lasted, 2),
                "reconnected": tower.xds.streams - len(tower.xds.statistics()),
                "update_rejected": {node: sum((await one.rejected()).values()) for node, one in envoys.items()},
                "differs": agreed,
                "clients": {node: _told(tower, node, calls[node], fleet) for node in calls},
            }
            nursery.cancel_scope.cancel()
        return summary


def _told(tower: Pilot, node: str, calls: Calls, fleet: Fleet) -> dict[str, Any]:
    """Of one client: its calls, and what it has said to what it was sent."""
    client = tower.client(node)
    assert client is not None, f"{node} is not connected any more"
    strange = unexplained(calls.made, fleet.log, fleet.told_s)
    return {
        "form": client.form,
        "calls": len(calls.made),
        "failed": dict(Counter(call.status for call in calls.made if not call.well)),
        "unexplained": len(strange),
        "examples": [_described(call, fleet.log) for call in strange[:5]],
        "too_late": too_late(calls.made, fleet.log, fleet.told_s),
        "pushes": {kind.type: [kind.sent, kind.accepted, kind.rejected] for kind in client.types},
        "unanswered": sum(kind.sent - kind.accepted - kind.rejected for kind in client.types),
        "rejected": sum(kind.rejected for kind in client.types),
    }


def _described(call: Called, log: Sequence[Change]) -> str:
    """With what had happened to that service shortly before."""
    before = [
        f"{change.what} {change.instance} {call.begun - change.at:.3f} s before"
        for change in log
        if change.service in {call.service, "*"} and -0.2 < call.begun - change.at < 3
    ]
    said = call.details or call.answer
    return f"{call.service}: {call.status} {said} after {call.ended - call.begun:.3f} s; {'; '.join(before)}"


async def _agreed(tower: Pilot, one: Envoy) -> Sequence[str]:
    """What differs in the end, if something does after all that patience."""
    found = await differences(tower, one)
    with trio.move_on_after(PATIENCE_S):
        while found:
            await trio.sleep(0.1)
            found = await differences(tower, one)
    return found


async def differences(tower: Pilot, one: Envoy) -> Sequence[str]:
    """Between what an Envoy says that it has, and what there is."""
    found = []
    registry = tower.registry
    services = set(registry.view.services())
    dump = await one.dump()
    clusters: set[str] = set()
    hosts: set[str] = set()
    endpoints: dict[str, set[tuple[int, str, int]]] = {}
    for part in dump["configs"]:
        clusters |= {cluster["cluster"]["name"] for cluster in part.get("dynamic_active_clusters", ())}
        found += [f"warming: {cluster['cluster']['name']}" for cluster in part.get("dynamic_warming_clusters", ())]
        for routes in part.get("dynamic_route_configs", ()):
            hosts |= {host["name"] for host in routes["route_config"].get("virtual_hosts", ())}
    for cluster in json.loads(await one.get("/clusters?format=json"))["cluster_statuses"]:
        if cluster["name"] == "pilot":
            continue
        endpoints[cluster["name"]] = {
            (
                host["address"]["socket_address"]["port_value"],
                host["health_status"]["eds_health_status"],
                host["weight"],
            )
            for host in cluster.get("host_statuses", ())
        }
    for service in services:
        wanted = {
            (
                int(instance.address.rpartition(":")[2]),
                "HEALTHY" if instance.state is State.UP else "DRAINING",
                int(instance.metadata.get("weight", "1")),
            )
            for instance in registry.instances(service)
        }
        if endpoints.get(service) != wanted:
            found.append(f"endpoints of {service}: {endpoints.get(service)} for {wanted}")
    if clusters != services:
        found.append(f"clusters {sorted(clusters)} for {sorted(services)}")
    if hosts != services:
        found.append(f"routes {sorted(hosts)} for {sorted(services)}")
    return found


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
