"""The two that are compared, each with origins of its own, and how they are asked.

A scenario is told to both in their own words, and then the same is observed of each. Origins are not shared: what
arrived there is the better half of what is compared.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pannier import _native
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.resilience.table import limits_table
from pannier.sidecars.traffic import config as traffic
from pannier.sidecars.traffic.table import routes_table

from tests.conformance.bootstrap import Envoy, Place, bootstrap
from tests.conformance.process import EnvoyProcess
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import PATIENCE_S, Message, Wire, answer, request

#: The service that every scenario calls.
CALLEE = "orders"
T = TypeVar("T")
Reason = Callable[[Message], str | None]


@dataclass(frozen=True)
class Instance:
    """One endpoint of a service. `healthy`: what discovery says of it. `refuses`: nobody listens there."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1
    healthy: bool = True
    refuses: bool = False


class Side:
    """One of the two, running. `origins`: by service, in order; each answers 200 with its name, such as `orders-0`."""

    def __init__(self, address: tuple[str, int], origins: Mapping[str, Sequence[Origin]], reason: Reason) -> None:
        self.origins = origins
        self._address = address
        self._reason = reason
        self._kept: Wire | None = None

    def call(self) -> Wire:
        """A new connection."""
        return Wire(socket.create_connection(self._address, PATIENCE_S))

    def start(self, target: str = "/", *fields: str, **how: Any) -> Wire:
        """Sends one request on a connection of its own, where its answer is to be read; takes what `request` takes."""
        wire = self.call()
        wire.send(request(target, *fields, **{"host": CALLEE} | how))
        return wire

    def ask(self, target: str = "/", *fields: str, **how: Any) -> Message:
        """The answer to one request, on a connection that is kept; takes what `request` takes."""
        if self._kept is None:
            self._kept = self.call()
        self._kept.send(request(target, *fields, **{"host": CALLEE} | how))
        got = self._kept.read_answer(how.get("method", "GET"))
        if got.get("connection") == "close":
            self.close()
        return got

    def verdict(self, got: Message) -> tuple[int, str | None]:
        """The status of an answer, and the flag of one that no origin gave."""
        return got.status, self._reason(got)

    def attempts(self, service: str = CALLEE) -> list[int]:
        """How many requests have arrived at each origin of a service."""
        return [len(origin.requests) for origin in self.origins[service]]

    def close(self) -> None:
        """Ends the connection that is kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


@dataclass(frozen=True)
class Sides:
    """Both, told the same."""

    pannier: Side
    envoy: Side

    def each(self, observe: Callable[[Side], T]) -> tuple[T, T]:
        """What is observed of Pannier, and of Envoy."""
        return observe(self.pannier), observe(self.envoy)

    def agree(self, observe: Callable[[Side], T]) -> T:
        """What is observed of both; fails if that differs."""
        pannier, envoy = self.each(observe)
        assert pannier == envoy
        return envoy


def start_sides(
    stack: ExitStack,
    folder: Path,
    services: Mapping[str, Sequence[Instance]],
    *,
    routes: traffic.Config | None,
    limits: resilience.Config | None,
    envoy: Envoy,
) -> Sides:
    """Starts both, to live as long as the stack. A table that is None is not published."""
    return Sides(
        stack.enter_context(closing(start_pannier(stack, folder, services, routes, limits))),
        stack.enter_context(closing(_envoy(stack, folder, services, envoy))),
    )


def start_pannier(
    stack: ExitStack,
    folder: Path,
    services: Mapping[str, Sequence[Instance]],
    routes: traffic.Config | None,
    limits: resilience.Config | None,
) -> Side:
    """Pannier's data path alone, to live as long as the stack. A table that is None is not published."""
    origins = start_origins(stack, services)
    proxy = stack.enter_context(closing(Proxy(folder)))
    proxy.publish_base(seed=1)
    endpoints = {
        name: [
            {"address": origin.address, "metadata": dict(one.metadata), "weight": one.weight, "healthy": one.healthy}
            for origin, one in zip(origins[name], instances, strict=True)
        ]
        for name, instances in services.items()
    }
    proxy.publish_endpoints(**endpoints)
    if routes is not None:
        _native.TableWriter("routes", proxy.fds["table.routes"]).publish(routes_table(routes, {}))
    if limits is not None:
        _native.TableWriter("limits", proxy.fds["table.limits"]).publish(limits_table(limits, {}))
    proxy.start()
    return Side(proxy.outbound, origins, lambda got: got.get("x-pannier-reason"))


def _envoy(stack: ExitStack, folder: Path, services: Mapping[str, Sequence[Instance]], told: Envoy) -> Side:
    origins = start_origins(stack, services)
    places = {
        name: [
            Place(origin.port, one.metadata, one.weight, one.healthy)
            for origin, one in zip(origins[name], instances, strict=True)
        ]
        for name, instances in services.items()
    }
    process = stack.enter_context(closing(EnvoyProcess(folder, partial(bootstrap, CALLEE, places, told))))
    return Side(process.address, origins, process.reason)


def start_origins(stack: ExitStack, services: Mapping[str, Sequence[Instance]]) -> dict[str, list[Origin]]:
    """An origin for each instance, to live as long as the stack."""
    return {
        name: [_start_origin(stack, f"{name}-{number}", instance) for number, instance in enumerate(instances)]
        for name, instances in services.items()
    }


def _start_origin(stack: ExitStack, name: str, instance: Instance) -> Origin:
    origin = stack.enter_context(closing(Origin()))
    origin.answer = lambda _: answer(name.encode())
    if instance.refuses:
        origin.refuse()
    return origin
