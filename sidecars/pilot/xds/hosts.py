"""The virtual hosts of route configurations: made and encoded once a service, and put together for whoever wants which.

A thousand clients with a selection of services each have a thousand route configurations, but the virtual host of a
service is the same in all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from google.protobuf import json_format
from pannier.sidecars.pilot.policy import Policy
from pannier.sidecars.pilot.protobuf import delimited
from pannier.sidecars.pilot.xds.endpoints import Client
from pannier.sidecars.pilot.xds.resources import Resource, Type, encode
from pannier.sidecars.pilot.xds.routes import route_configuration, targets
from pannier.sidecars.pilot.xds.schema import MESSAGES

_log = logging.getLogger("pannier.pilot")

_Whose: TypeAlias = tuple[str, Client]


class Host(NamedTuple):
    """The field of a RouteConfiguration, and the clusters that it leads to."""

    field: bytes
    targets: frozenset[str]


class Hosts:
    """By stage and kind of client."""

    def __init__(self) -> None:
        self._services: dict[_Whose, dict[str, Host]] = {}
        self._others: dict[_Whose, Mapping[str, Host]] = {}

    def forget(self, stage: str) -> None:
        """Its policy is another, or nobody needs it."""
        for client in Client:
            self._services.pop((stage, client), None)
            self._others.pop((stage, client), None)

    def drop(self, service: str) -> None:
        """It is no more."""
        for made in self._services.values():
            made.pop(service, None)

    def of(self, policy: Policy, stage: str, client: Client, services: Sequence[str]) -> Mapping[str, Host]:
        """Those of these services, and of what else routes lead from."""
        made = self._services.setdefault((stage, client), {})
        for service in services:
            if service not in made:
                found = _made(policy, client, [service])
                made[service] = found.get(service, Host(b"", frozenset()))
        if (stage, client) not in self._others:
            self._others[stage, client] = _made(policy, client, [])
        return {**self._others[stage, client], **{service: made[service] for service in services}}


def routes(name: str, hosts: Mapping[str, Host]) -> Resource:
    """The RouteConfiguration of that name with these hosts."""
    return encode(Type.ROUTES, name, b"".join((delimited(1, name.encode()), *(host.field for host in hosts.values()))))


def _made(policy: Policy, client: Client, services: Sequence[str]) -> Mapping[str, Host]:
    """Without a host that our table lacks a word for: a fault of ours, which is logged, and which nobody is told."""
    told, _ = route_configuration(policy, services, name="", client=client.value)
    found: dict[str, Host] = {}
    for host in told["virtual_hosts"]:
        try:
            message = MESSAGES.from_json("envoy.config.route.v3.VirtualHost", host)
        except json_format.ParseError as error:
            _log.error("routes of %s are not told: %s", host.get("name"), error)
            continue
        field = delimited(2, message.SerializeToString(deterministic=True))
        found[host["name"]] = Host(field, targets({"virtual_hosts": [host]}))
    return found
