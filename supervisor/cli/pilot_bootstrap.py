"""`pannier pilot bootstrap`: the file with which an Envoy, or gRPC's own client, uses the pilot."""

from __future__ import annotations

import json
import socket
from typing import Any

import click
from pannier.shared.runtime import runtime_dir

SOCKET = "pilot-grpc.sock"


@click.command("bootstrap")
@click.argument("client", type=click.Choice(["envoy", "grpc"]))
@click.option(
    "--grpc", "place", metavar="PLACE", help="HOST:PORT or unix:PATH of the pilot's gRPC (default: its socket)."
)
@click.option("--node", metavar="ID", help="What the pilot calls this client (default: the host's name).")
@click.option("--stage", default="production", show_default=True, help="Whose policy holds.")
@click.option("--service", "services", multiple=True, help="What it calls; without it, everything.")
@click.option("--outbound-port", type=click.IntRange(1, 65535), help="Where Envoy listens for calls.  [default: 15001]")
@click.option("--admin-port", type=click.IntRange(0, 65535), default=0, help="Envoy's, on the loopback; 0 is any.")
def command(
    *,
    client: str,
    place: str | None,
    node: str | None,
    stage: str,
    services: tuple[str, ...],
    outbound_port: int | None,
    admin_port: int,
) -> None:
    """Print the bootstrap of an Envoy (`envoy -c FILE`), or of gRPC's client (GRPC_XDS_BOOTSTRAP=FILE, then call
    xds:///SERVICE)."""
    from pannier.sidecars.pilot.xds import bootstrap
    from pannier.supervisor.ports import split_address

    metadata: dict[str, Any] = {"stage": stage}
    if services:
        metadata["services"] = list(services)
    if outbound_port is not None:
        metadata["outbound_port"] = outbound_port
    pilot = place or f"unix:{runtime_dir() / SOCKET}"
    if not pilot.startswith("unix:"):
        split_address(pilot)
    name = node or socket.gethostname()
    if client == "grpc":
        made = bootstrap.grpc(pilot, name, metadata=metadata)
    else:
        made = bootstrap.envoy(pilot, name, admin_port=admin_port, metadata=metadata)
    click.echo(json.dumps(made, indent=2))
