"""`pannier call`: asks a sidecar for a verb that has no command of its own, as third parties' verbs have none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import click
from pannier.shared.errors import UsageError
from pannier.supervisor.cli.output import print_json
from pannier.supervisor.cli.services import ask, name_option, the_one

if TYPE_CHECKING:
    import msgspec

_PATIENCE = 10.0
"""Seconds for an answer."""


@click.command()
@click.argument("sidecar")
@click.argument("verb")
@click.argument("body", required=False, metavar="[JSON]")
@name_option
def command(*, sidecar: str, verb: str, body: str | None, name: str | None) -> None:
    """Ask a sidecar of a running service for VERB, with an object as its argument, and print the answer."""
    try:
        argument: Any = {} if body is None else json.loads(body)
    except ValueError as error:
        raise UsageError(f"the argument is no JSON: {error}", hint="""write it as '{"key": "value"}'""") from error
    if not isinstance(argument, dict):
        raise UsageError("the argument of a verb is an object", hint="""write it as '{"key": "value"}'""")
    plain, anything = cast("msgspec.Struct", argument), cast("type[Any]", Any)
    answer = ask(the_one(name), lambda bus: bus.request(sidecar, verb, plain, anything, timeout=_PATIENCE))
    if answer:
        print_json(answer)
