"""`pannier up`: `run` in the background, in a session of its own; returns when the service is ready."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click
from pannier.supervisor.cli.run import run_options

_SLACK: Final = 30.0  # seconds for governance, on top of the app's own time


@click.command()
@run_options
def command(**options: Any) -> int:
    """Start a service with its sidecars in the background, and return when it is ready."""
    from pannier.shared.errors import UsageError
    from pannier.supervisor.request import Asked, request_for, runs_many

    asked = Asked(**options)
    if runs_many(asked):
        raise UsageError("`up` starts one service", hint="add --app NAME, once for each app of the project")
    request = request_for(asked, os.environ)
    name = request.arguments.name
    limit = request.arguments.ready_timeout
    if limit is None:
        from pannier.shared.duration import seconds

        limit = seconds(request.profile.ready_timeout)
    return _start(name, _words(options), limit + _SLACK)


def _words(options: dict[str, Any]) -> list[str]:
    """The options as they were typed."""
    flags = {"assignments": "--set", "duration": "--for"}
    words: list[str] = []
    for key, value in options.items():
        if key == "command" or value is None:
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [flags.get(key, f"--{key.replace('_', '-')}"), str(each)]
    return [*words, "--", *options["command"]]


def _start(name: str, words: list[str], limit: float) -> int:
    from pannier.shared.errors import TimedOut
    from pannier.shared.runtime import service_dir, state_dir
    from pannier.supervisor.cli.output import talk
    from pannier.supervisor.many import START

    log = state_dir() / f"{name}.log"
    ready, told = os.pipe()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, "run", "--ready-fd", str(told), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[told],
            start_new_session=True,
        )
    os.close(told)
    word = _wait(ready, limit)
    os.close(ready)
    if word is None:
        raise TimedOut(
            f"{name} is not ready after {limit:g} s", hint=f"look at {log}, or stop it: pannier down -n {name}"
        )
    if not word:
        code = process.wait()
        talk(_tail(log))
        return code if code >= 0 else 128 - code
    urls = json.loads((service_dir(name, create=False) / "urls.json").read_text(encoding="utf-8"))
    for key, url in urls.items():
        click.echo(f"{key} {url}")
    talk(f"{name} is ready; its output is in {log}")
    return 0


def _wait(ready: int, limit: float) -> bytes | None:
    """What the service said: `ready`, nothing if it has ended, None if it says nothing in time."""
    readable, _, _ = select.select([ready], [], [], limit)
    return os.read(ready, 16) if readable else None


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
