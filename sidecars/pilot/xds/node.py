"""What a client says of itself with its first request, and what follows from it. Pure.

    node: {id: host-1, metadata: {services: [orders, stock], stage: staging, outbound_port: 15001}}

Nobody has to say any of it. gRPC is recognised by the name of its agent.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from pannier.shared.instances import ServiceName
from pannier.sidecars.pilot.xds.ads import Refused
from pannier.sidecars.pilot.xds.catalogue import OUTBOUND_PORT, STAGE, Shape
from pannier.sidecars.pilot.xds.endpoints import Client
from pannier.sidecars.pilot.xds.schema import MESSAGES

_LETTERS: Final = 256


class _Metadata(msgspec.Struct, frozen=True):
    services: Annotated[tuple[ServiceName, ...], Meta(max_length=10_000)] | None = None
    stage: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")] = STAGE
    outbound_port: Annotated[int, Meta(ge=1, le=65535)] = OUTBOUND_PORT


class Node(msgspec.Struct, frozen=True):
    """`agent` is the client's program, with its version."""

    id: str = ""
    agent: str = ""
    shape: Shape = Shape()


def node_of(message: Any) -> Node:
    """From an `envoy.config.core.v3.Node`. Raises Refused for metadata that means nothing."""
    try:
        said = msgspec.convert(MESSAGES.to_json(message.metadata), _Metadata, strict=False)
    except (msgspec.ValidationError, ValueError) as error:  # no number of JSON, too
        raise Refused(f"the metadata of the node cannot be used: {error}") from None
    client = Client.GRPC if message.user_agent_name.startswith("gRPC") else Client.ENVOY
    services = None if said.services is None else frozenset(said.services)
    agent = f"{message.user_agent_name} {message.user_agent_version}".strip()
    return Node(message.id[:_LETTERS], agent[:_LETTERS], Shape(client, said.stage, services, said.outbound_port))
