"""`pannier run`: a service with its sidecars in the foreground; its exit code is the app's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pannier.supervisor.keeper_birth import Born
    from pannier.supervisor.plan import Plan
    from pannier.supervisor.request import Asked

F = TypeVar("F", bound=Callable[..., Any])


def run_options(function: F) -> F:
    """The options that `run` and `up` share, as fields of `request.Asked`."""
    options = [
        click.option("-p", "--profile", help="The stage: dev, or another of `pannier profile list`."),
        click.option("-n", "--name", help="The service's name (default: this folder's)."),
        click.option("--app-port", metavar="N|unix:PATH", help="Where the app listens."),
        click.option("--port", metavar="N|unix:PATH", help="The public inbound port, or socket (0: any free port)."),
        click.option("--outbound-port", metavar="N|auto|unix:PATH", help="Where the app's calls go (default: 15001)."),
        click.option("--metrics-port", metavar="N|auto", help="Metrics and health (default: auto)."),
        click.option("--workers", type=click.IntRange(1, 16), help="Threads of the proxy (default: one a core, to 2)."),
        click.option("--ready-timeout", metavar="DURATION", help="How long the app may take to listen (30s)."),
        click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Change one setting."),
        click.option("-f", "--file", type=click.Path(exists=True, dir_okay=False), help="A project: all its apps."),
        click.option("--app", help="Only this app of the project."),
        click.option("--for", "duration", metavar="DURATION", help="End by itself after that."),
        click.argument("command", nargs=-1, type=click.UNPROCESSED),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(context_settings={"ignore_unknown_options": False})
@run_options
@click.option("--lifeline", type=int, hidden=True)
@click.option("--ready-fd", type=int, hidden=True)
def command(*, lifeline: int | None, ready_fd: int | None, **options: Any) -> int:
    """Run a service with its sidecars in the foreground, and end as the app ends.

    pannier run --app-port 8080 --port 18080 -- python app.py
    """
    return run(options, lifeline, ready_fd)


def run(options: Mapping[str, Any], lifeline: int | None = None, ready_fd: int | None = None) -> int:
    """Runs what `options`, the fields of `request.Asked`, say; the exit code. Raises PannierError."""
    from pannier.supervisor import renewal

    before = renewal.begun()
    if before is not None:
        if before.check:
            return _could_go_on(options)
        ready_fd = None  # it was told
    for descriptor in (lifeline, ready_fd):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    born = _begin(options) if before is None else None
    try:
        from pannier.supervisor.request import Asked, request_for, runs_many

        asked = Asked(**options)
        if before is None and runs_many(asked):
            return _run_project(asked)
        request = request_for(asked, os.environ)
    except BaseException:
        if born is not None:
            born.undo()
        raise
    if born is not None and request.arguments.terminal != _terminal(options):
        born.undo()
        born = None
    request = request.with_ends(lifeline=lifeline, on_ready=lambda plan: _ready(plan, ready_fd))
    if before is not None:
        request = request.with_seconds(before.seconds)
    import trio
    from pannier.supervisor.supervise import supervise

    ended = trio.run(supervise, request, born)
    if isinstance(ended, renewal.Again):
        renewal.become(ended, lifeline)
    return ended


def _could_go_on(options: Mapping[str, Any]) -> int:
    """Whether this version, and the files as they are now, could go on with what runs. Raises PannierError."""
    from pannier.supervisor import renewal, supervise  # noqa: F401  # all that the next life needs can be imported
    from pannier.supervisor.request import Asked, request_for

    request_for(Asked(**options), os.environ)
    return renewal.answer_check()


def _begin(options: Mapping[str, Any]) -> Born | None:
    """Starts the keeper and the zygote of one app now, so that they load while we do; what is asked for is not known
    yet, so it may turn out to be in vain."""
    from pannier.shared.errors import PannierError
    from pannier.shared.runtime import check_name, default_name, service_dir
    from pannier.supervisor.keeper_birth import begin

    if not (options.get("app") or options.get("command") or options.get("app_port") or options.get("alone")):
        return None
    try:
        directory = service_dir(check_name(options.get("name") or options.get("app") or default_name()))
    except PannierError:
        return None
    return begin(directory, os.environ, own_group=not _terminal(options))


def _terminal(options: Mapping[str, Any]) -> bool:
    return bool(options.get("command")) and sys.stdin is not None and sys.stdin.isatty()


def _run_project(asked: Asked) -> int:
    import trio
    from pannier.shared.errors import UsageError
    from pannier.supervisor.many import run_many
    from pannier.supervisor.request import option_words, project_of
    from pannier.supervisor.sidecar_types import sidecar_types

    project = project_of(asked, sidecar_types())
    if project is None or not project.apps:
        raise UsageError("the project has no apps", hint='add one: [apps.orders] command = ["python", "app.py"]')
    return trio.run(run_many, {name: option_words(asked, name) for name in project.apps})


def _ready(plan: Plan, ready_fd: int | None) -> None:
    from pannier.supervisor.cli.output import talk
    from pannier.supervisor.status import urls

    found = urls(plan)
    shown = ", ".join(
        f"{name} {found[name]}" for name in ("inbound", "outbound", "gateway", "metrics") if name in found
    )
    talk(f"pannier | {plan.service} is ready: {shown}")
    if ready_fd is not None:
        with suppress(OSError):
            os.write(ready_fd, b"ready")
            os.close(ready_fd)
