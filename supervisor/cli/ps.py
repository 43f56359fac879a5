"""`pannier ps`: the processes of the running services."""

from __future__ import annotations

import click
from pannier.shared.errors import PannierError
from pannier.shared.messages import Nothing, Status
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
            (s.name, s.profile, p.name, p.kind, p.pid or None, p.state, p.restarts, _mib(p.pss_bytes), p.cpu_percent)
            for s in found
            for p in s.processes
        ]
        print_table(("SERVICE", "PROFILE", "NAME", "KIND", "PID", "STATE", "RESTARTS", "PSS MIB", "CPU %"), rows)
    return failed


def _mib(size: int) -> float:
    return round(size / (1 << 20), 1)
