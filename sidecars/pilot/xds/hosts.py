"""The virtual hosts of route configurations: made and encoded once a service, and put together for whoever wants which.

A thousand clients with a selection of services each have a thousand route configurations, but the virtual host of a
service is the same in all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from google.protobuf import json_format
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.protobuf import delimited
from pannier.sidecars.pilot.xds.endpoints import Client
from pannier.sidecars.pilot.xds.resources import Resource, Type, encode
from pannier.sidecars.pilot.xds.routes import Shared, VirtualHosts, targets
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.words import Json

_log = logging.getLogger("pannier.pilot")

_Whose: TypeAlias = tuple[str, Client]


class Host(NamedTuple):
    """The field of a RouteConfiguration, and the clusters that it leads to."""

    field: bytes
    targets: frozenset[str]


class Hosts:
    """By stage and kind of client."""

    def __init__(self) -> None:
        self._policies: dict[_Whose, VirtualHosts] = {}
        self._services: dict[_Whose, dict[str, Host]] = {}
        self._others: dict[_Whose, Mapping[str, Host]] = {}
        self._shared: dict[
            _Whose, dict[int, bytes]
        ] = {}  # routes of several hosts, by their id, while there is a policy

    def forget(self, stage: str) -> None:
        """Its policy is another, or nobody needs it."""
        for client in Client:
            self._policies.pop((stage, client), None)
            self._services.pop((stage, client), None)
            self._others.pop((stage, client), None)
            self._shared.pop((stage, client), None)

    def drop(self, service: str) -> None:
        """It is no more."""
        for made in self._services.values():
            made.pop(service, None)

    def of(self, policy: Policy, stage: str, client: Client, services: Sequence[str]) -> Mapping[str, Host]:
        """Those of these services, and of what else routes lead from."""
        whose = stage, client
        if whose not in self._policies:
            self._policies[whose] = VirtualHosts(policy, client.value)
        told, made = self._policies[whose], self._services.setdefault(whose, {})
        shared = self._shared.setdefault(whose, {})
        for service in services:
            if service not in made:
                made[service] = _made([told.of_service(service)], shared).get(service, Host(b"", frozenset()))
        if whose not in self._others:
            self._others[whose] = _made(told.others(()), shared)
        return {**self._others[whose], **{service: made[service] for service in services}}


def routes(name: str, hosts: Mapping[str, Host]) -> Resource:
    """The RouteConfiguration of that name with these hosts."""
    return encode(Type.ROUTES, name, b"".join((delimited(1, name.encode()), *(host.field for host in hosts.values()))))


def _made(told: Sequence[Json], shared: dict[int, bytes]) -> Mapping[str, Host]:
    """Without a host that our table lacks a word for: a fault of ours, which is logged, and which nobody is told."""
    found: dict[str, Host] = {}
    for host in told:
        try:
            head = _encoded("VirtualHost", {field: value for field, value in host.items() if field != "routes"})
            entries = [delimited(3, _route(route, shared)) for route in host["routes"]]
        except json_format.ParseError as error:
            _log.error("routes of %s are not told: %s", host.get("name"), error)
            continue
        field = delimited(2, b"".join((head, *entries)))
        found[host["name"]] = Host(field, targets({"virtual_hosts": [host]}))
    return found


def _route(route: Json, shared: dict[int, bytes]) -> bytes:
    if not isinstance(route, Shared):
        return _encoded("Route", route)
    if id(route) not in shared:
        shared[id(route)] = _encoded("Route", route)
    return shared[id(route)]


def _encoded(message: str, told: Json) -> bytes:
    encoded: bytes = MESSAGES.from_json(f"envoy.config.route.v3.{message}", told).SerializeToString(deterministic=True)
    return encoded
