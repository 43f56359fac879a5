"""`pannier version`."""

from __future__ import annotations

import platform
from importlib.metadata import version

import click
from pannier.supervisor.cli.output import output_option, print_json


def line() -> str:
    """The version in one line."""
    return f"pannier {version('pannier')}"


@click.command()
@output_option
def command(output: str) -> None:
    """Show the version of Pannier, and of what it runs on."""
    facts = {
        "version": version("pannier"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    if output == "json":
        print_json(facts)
    else:
        click.echo(f"{line()} (Python {facts['python']}, {facts['system']})")
