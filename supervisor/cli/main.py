"""The command `pannier`: which verbs there are, and how a command ends.

`--help` must answer in 100 ms, so a verb's module is imported when the verb is used: the table below has the name,
where the command is, and the help line. A command returns its exit code, or None for 0; it raises a PannierError for
what the operator can act on, and that is printed here alone: what happened, at which command, what to try. Anything
else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click
from pannier.shared.errors import PannierError
from pannier.supervisor.cli.output import styled, talk

INTERRUPTED = 130
_PACKAGE = "pannier.supervisor.cli"

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run:command", "Run a service with its sidecars in the foreground."),
    "up": ("up:command", "Start a service with its sidecars in the background."),
    "down": ("down:command", "Stop what `up` or `run` started, in order."),
    "ps": ("ps:command", "List the processes of the running services."),
    "stat": ("stat:command", "Show requests, success rate and latency by route."),
    "logs": ("logs:command", "Show what a service and its sidecars write."),
    "sidecar": ("sidecar:command", "List, add, remove and restart the sidecars of a running service."),
    "traffic": ("traffic:command", "Split, shift and mirror calls, inject faults, and see where calls go."),
    "discovery": ("discovery:command", "Show who is where, and who says so; register what cannot do it itself."),
    "resilience": ("resilience:command", "Show who is out and what room limits leave; take endpoints out."),
    "call": ("call:command", "Ask a sidecar for one of its verbs, in JSON."),
    "upgrade": ("upgrade:command", "Bring what runs to the installed version, without losing a request."),
    "profile": ("profile:command", "List, show, compare and check profiles; put one under a running service."),
    "config": ("config:command", "Show what holds and what held before; go back to it, read the files again."),
    "analyze": ("analyze:command", "Find errors and contradictions in profile and project files."),
    "explain": ("explain:command", "Explain the code of a finding, or a field of the configuration."),
    "pilot": ("pilot:command", "Run the registry that services of many hosts share."),
    "central": ("central:command", "Run a Central, which takes on what hosts cannot serve; see and steer what leaves."),
    "diagnostics": ("diagnostics:command", "Look into bus and tables; pack what a bug report needs, without secrets."),
    "check": ("check:command", "Check that this host can run Pannier, and what runs on it."),
    "version": ("version:command", "Show the version."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and help line, and imports one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"{_PACKAGE}.{module}"), attribute)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name[:64], COMMANDS, n=1)
            question = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {name[:80]!r}.{question}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from pannier.supervisor.cli.version import line

        click.echo(line())
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show it.")
def cli() -> None:
    """Service governance that hangs beside a service: one bag per capability."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code; every PannierError becomes the lines that the operator reads."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, as `head` does: the interpreter's own last flush must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="pannier", standalone_mode=False)
    except click.ClickException as error:
        return _usage(error)
    except click.Abort:
        return INTERRUPTED
    except BaseException as error:
        cause = _only_cause(error)
        if isinstance(cause, PannierError):
            return _failed(cause, arguments)
        if isinstance(cause, KeyboardInterrupt):
            return INTERRUPTED
        raise
    return result if isinstance(result, int) else 0


def _only_cause(error: BaseException) -> BaseException:
    """What a nest of groups is about, if about one thing: trio wraps what leaves a nursery."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _failed(error: PannierError, arguments: list[str]) -> int:
    from pannier.shared.explain import ConfigError

    if isinstance(error, ConfigError):
        talk(error.message)  # has its own places, a line each
    else:
        code = f" {error.code}" if error.code else ""
        talk(f"{styled('error', 'red')}{code}: {error.message}")
        command = shlex.join(["pannier", *arguments])
        talk(f"   at: {command if len(command) <= 100 else command[:99] + '…'}")
    if error.hint:
        talk(f"  try: {error.hint}")
    return error.exit_code


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        talk(error.format_message())
        return error.exit_code
    talk(f"{styled('error', 'red')}: {error.format_message()}")
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "pannier"
    if context:
        talk(f"   at: {' '.join(context.command.get_usage(context).removeprefix('Usage: ').split())}")
    talk(f"  try: {path} --help")
    return error.exit_code
