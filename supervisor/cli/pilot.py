"""`pannier pilot`: the registry that services of many hosts share. With a command it asks a pilot that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pannier.shared.errors import UsageError
from pannier.shared.runtime import private_dir, runtime_dir, state_dir
from pannier.supervisor.cli import pilot_bootstrap, pilot_config, pilot_policy, pilot_status
from pannier.supervisor.cli.output import talk
from pannier.supervisor.cli.pilot_client import FOLDER, SOCKET, TOKEN

ETCD = "etcd://"
ZOOKEEPER = "zookeeper://"

if TYPE_CHECKING:
    from pannier.sidecars.pilot.service import Kept


@click.group(invoke_without_command=True)
@click.option("--listen", multiple=True, metavar="HOST:PORT", help="Serve over TCP, too; changes need the token then.")
@click.option("--grpc", multiple=True, metavar="HOST:PORT", help="Serve gRPC over TCP, too, by the same token.")
@click.option(
    "--store",
    metavar="PLACE",
    help="A SQLite file (default: in the state folder), etcd://HOST[:PORT],... or zookeeper://HOST[:PORT],...[/NODE].",
)
@click.option("--dns", multiple=True, metavar="HOST:PORT", help="Answer DNS about the services, over UDP and TCP.")
@click.option("--dns-zone", default="pannier.", show_default=True, help="The zone that is answered.")
@click.option(
    "--bridge",
    multiple=True,
    metavar="URL",
    help="Another registry: zookeeper://HOST:PORT,.../NODE, file:/PATH, dns://NAME[:PORT]?service=SERVICE.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="The token of all pilots of a store, made if it is not there (default: one in the state folder).",
)
@click.option("--socket", type=click.Path(path_type=Path), help="The Unix socket (default: in the runtime folder).")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    listen: Sequence[str],
    grpc: Sequence[str],
    store: str | None,
    dns: Sequence[str],
    dns_zone: str,
    bridge: Sequence[str],
    token_file: Path | None,
    socket: Path | None,
) -> None:
    """Run the pilot in the foreground: services register with it, and read and watch who else is there. With a COMMAND:
    ask one that runs."""
    if context.invoked_subcommand is not None:
        if listen or grpc or store or socket or dns or bridge or token_file:
            raise UsageError(
                "these options are for a pilot that starts", hint=f"pannier pilot {context.invoked_subcommand} --help"
            )
        return
    import trio
    from pannier.sidecars.pilot.service import Settings, serve
    from pannier.supervisor.ports import split_address

    folder = private_dir(state_dir() / FOLDER, "PANNIER_STATE_DIR")
    settings = Settings(
        socket=socket or runtime_dir() / SOCKET,
        store=_store(store) if store else folder / "store.sqlite",
        token=token_file or folder / TOKEN,
        listen=[split_address(address) for address in listen],
        grpc=[split_address(address) for address in grpc],
        dns=[split_address(address) for address in dns],
        dns_zone=dns_zone,
        bridges=bridge,
    )
    if listen or grpc:
        talk(f"the token is in {settings.token}")
    trio.run(serve, settings, talk)


command.add_command(pilot_status.command)
command.add_command(pilot_bootstrap.command)
command.add_command(pilot_config.command)
command.add_command(pilot_policy.command)


def _store(text: str) -> Kept:
    from pannier.sidecars.pilot.service import InZooKeeper
    from pannier.sidecars.pilot.stores.members import ETCD_PORT, ZOOKEEPER_PORT, hosts_of

    try:
        if text.startswith(ZOOKEEPER):
            members, _, root = text.removeprefix(ZOOKEEPER).partition("/")
            return InZooKeeper(hosts_of(members, ZOOKEEPER_PORT), f"/{root.strip('/') or 'pannier'}")
        if text.startswith(ETCD):
            return hosts_of(text.removeprefix(ETCD), ETCD_PORT)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no store: {error}", hint="such as zookeeper://10.0.0.1:2181,10.0.0.2/pannier"
        ) from error
    if "://" in text:
        raise UsageError(
            f"there is no store of the kind {text.partition('://')[0]}://",
            hint=f"use a path, {ETCD}HOST:PORT,... or {ZOOKEEPER}HOST:PORT,...",
        )
    return Path(text)
