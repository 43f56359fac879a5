"""`pannier ps`: the processes of the running services."""

from __future__ import annotations

import click
from pannier.shared.errors import PannierError
from pannier.shared.messages import Nothing, Process, Status
from pannier.supervisor.cli.output import output_option, print_json, print_table, talk
from pannier.supervisor.cli.services import ask, name_option, orphaned, running, the_one


@click.command()
@name_option
@output_option
def command(*, name: str | None, output: str) -> int:
    """List the processes of the running services."""
    names = [the_one(name)] if name else running()
    found: list[Status] = []
    failed = 0
    for each in names:
        try:
            found.append(ask(each, lambda bus: bus.request("supervisor", "status", Nothing(), Status)))
        except PannierError as error:
            failed = error.exit_code
            talk(f"{each}: {error.message}")
    for each in orphaned() if name is None else []:
        talk(f"{each}: its supervisor is gone, its processes run on; `pannier run --name {each} …` takes them over")
    if output == "json":
        print_json(found)
    else:
        rows = [
            (s.name, s.profile, p.name, p.kind, p.pid or None, p.state, p.restarts, *_cost(p))
            for s in found
            for p in s.processes
        ]
        print_table(("SERVICE", "PROFILE", "NAME", "KIND", "PID", "STATE", "RESTARTS", "PSS MIB", "CPU %"), rows)
    return failed


def _cost(process: Process) -> tuple[object, object]:
    """MiB and per cent; `~` marks the part of a process that several sidecars share."""
    cost = (round(process.pss_bytes / (1 << 20), 1), process.cpu_percent)
    return (f"~{cost[0]}", f"~{cost[1]}") if process.fused else cost
