"""Whom `pannier discovery` asks: the discovery beside a running service, over its `api.sock`, or a pilot. Both say the
same of an instance, so that what is shown does not depend on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec
from pannier.shared.detours import Share, is_detour, shares
from pannier.shared.endpoints import Endpoint, Endpoints, Source, Sources
from pannier.shared.errors import NoSuchSidecar, Unreachable
from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance
from pannier.shared.runtime import runtime_dir
from pannier.supervisor.cli.output import F
from pannier.supervisor.cli.pilot_client import Client, the_pilot, token_option
from pannier.supervisor.cli.services import name_option, the_one

T = TypeVar("T")

API_SOCKET = "api.sock"
DEFAULT = "default"
BRIDGE = "bridge "


class _Everything(msgspec.Struct):
    """What the pilot answers to `GET /v1/services`."""

    services: Mapping[str, Sequence[Instance]]


class _PilotStatus(msgspec.Struct):
    """What is read here of a pilot's status; each bridge to another registry is one of its parts."""

    instances: int
    trouble: str
    store: str = ""
    parts: Mapping[str, msgspec.Raw] = {}


class _Bridge(msgspec.Struct):
    """What is read here of a bridge's statistics."""

    reachable: bool = True
    instances: int = 0


def source_options(command: F) -> F:
    """Adds `--name`, `--pilot [PLACE]` and `--token-file FILE` as arguments, for `the_source`."""
    pilot = click.option(
        "--pilot",
        is_flag=False,
        flag_value=DEFAULT,
        metavar="[PLACE]",
        help="Ask the pilot instead: at unix:PATH or http://HOST:PORT, else where `pannier pilot status` asks.",
    )
    return name_option(pilot(token_option(command)))


class Local:
    """The discovery beside a running service."""

    def __init__(self, name: str | None) -> None:
        service = the_one(name)
        socket = runtime_dir() / service / API_SOCKET
        self.client = Client(f"unix:{socket}", f"the discovery of {service}", hint=f"pannier sidecar list -n {service}")
        self._service, self._socket = service, socket

    def endpoints(self) -> Endpoints:
        """All that it knows. Raises NoSuchSidecar where there is none, Unreachable."""
        return self._ask("endpoints", Endpoints)

    def sources(self) -> Sequence[Source]:
        """Where it has that from."""
        return self._ask("sources", Sources).sources

    def check(self) -> None:
        """Raises NoSuchSidecar where there is none."""
        if not self._socket.exists():
            raise NoSuchSidecar(
                f"{self._service} runs without discovery, which knows who is where",
                hint=f"pannier sidecar add discovery --name {self._service}",
            )

    def _ask(self, what: str, kind: type[T]) -> T:
        try:
            return self.client.ask("GET", ("v1", what), kind)
        except Unreachable:
            self.check()
            raise


class Pilot:
    """A pilot."""

    def __init__(self, place: str, token_file: Path | None) -> None:
        self.client = the_pilot(None if place == DEFAULT else place, token_file)

    def endpoints(self) -> Endpoints:
        """All that it knows. Raises Unreachable."""
        found = self.client.ask("GET", ("v1", "services"), _Everything).services
        instances = [one for service in found.values() for one in service]
        by_way, _ = shares(one for one in instances if is_detour(one.metadata))
        endpoints = [
            _endpoint(one, by_way.get((one.service, one.id), ()) if one.state is State.UP else ())
            for one in instances
            if not is_detour(one.metadata)
        ]
        return Endpoints(list(found), endpoints)

    def sources(self) -> Sequence[Source]:
        """Its store, and the registries to which it has bridges."""
        status = self.client.ask("GET", ("v1", "status"), _PilotStatus)
        found = [Source("store", status.store, status.instances, status.trouble)]
        for name, part in status.parts.items():
            if name.startswith(BRIDGE):
                bridge = msgspec.json.decode(part, type=_Bridge)
                trouble = "" if bridge.reachable else "it does not answer"
                found.append(Source("bridge", name.removeprefix(BRIDGE), bridge.instances, trouble))
        return found

    def check(self) -> None:
        """A pilot is where it is."""


def the_source(name: str | None, pilot: str | None, token_file: Path | None) -> Local | Pilot:
    """Whom to ask, by the options."""
    return Local(name) if pilot is None else Pilot(pilot, token_file)


def _endpoint(one: Instance, centrals: Sequence[Share]) -> Endpoint:
    weight = one.metadata.get("weight", "1")
    return Endpoint(
        one.service,
        one.id,
        one.address,
        one.state,
        "pilot",
        one.epoch,
        int(weight) if weight.isascii() and weight.isdigit() else 1,
        one.suspect,
        one.metadata,
        centrals,
    )
