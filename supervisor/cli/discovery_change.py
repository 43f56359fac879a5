"""`pannier discovery register|drain|deregister`: an instance that cannot speak for itself, such as somebody else's
database, is spoken for.

Whose life is meant is said by its epoch. Without `--epoch`, register is given one, and drain takes that in force: who
types it means the instance as it is now.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from pannier.shared.errors import PannierError, Unreachable, UsageError
from pannier.shared.instances import State
from pannier.shared.registration import Drained, Registered, Removed
from pannier.supervisor.cli.discovery_sources import Local, Pilot, source_options, the_source
from pannier.supervisor.cli.output import F, output_option, print_json, talk
from pannier.supervisor.cli.pilot_client import Client, Refused

ENDING: Final = (signal.SIGINT, signal.SIGTERM)
SHOWN_SECONDS: Final = 1.0
"""How long DRAINING stands before the end of an instance that was kept."""


def epoch_option(command: F) -> F:
    """Adds `--epoch N` as the argument `epoch`."""
    return click.option("--epoch", type=click.IntRange(min=1), metavar="N", help="Which life of it is meant.")(command)


@click.command()
@click.argument("service")
@click.argument("instance", metavar="ID")
@click.argument("address")
@click.option("--ttl", metavar="DURATION", help="Within which time it has to renew (default: 10s).")
@click.option(
    "--metadata", "pairs", multiple=True, metavar="KEY=VALUE", help="Such as version=2 or zone=a; repeatable."
)
@click.option("--state", type=click.Choice(list(State)), help="Where it stands (default: UP, or where it stood).")
@epoch_option
@click.option("--keep", is_flag=True, help="Renew until Ctrl-C, then drain and deregister.")
@source_options
@output_option
def register(
    *,
    service: str,
    instance: str,
    address: str,
    ttl: str | None,
    pairs: Sequence[str],
    state: str | None,
    epoch: int | None,
    keep: bool,
    name: str | None,
    pilot: str | None,
    token_file: Path | None,
    output: str,
) -> None:
    """Register an instance at HOST:PORT or unix:PATH, for the first time or again."""
    body = {"address": address, "ttl": ttl, "metadata": dict(map(_pair, pairs)), "state": state, "epoch": epoch}
    said = _Instance(the_source(name, pilot, token_file), service, instance)
    if keep:
        with _signals_wait():
            _keep(said, body, output)
        return
    done = said.register(body)
    _say(done, output, f"renew it within {done.ttl_s:g} s, or it is given up: the same, with --epoch {done.epoch}")


@click.command()
@click.argument("service")
@click.argument("instance", metavar="ID")
@epoch_option
@source_options
def drain(
    *, service: str, instance: str, epoch: int | None, name: str | None, pilot: str | None, token_file: Path | None
) -> None:
    """Have an instance take no new calls; it stays registered, and has to renew."""
    said = _Instance(the_source(name, pilot, token_file), service, instance)
    done = said.drain(said.epoch() if epoch is None else epoch)
    talk(f"{service}/{instance} drains (epoch {done.epoch})")


@click.command()
@click.argument("service")
@click.argument("instance", metavar="ID")
@epoch_option
@source_options
def deregister(
    *, service: str, instance: str, epoch: int | None, name: str | None, pilot: str | None, token_file: Path | None
) -> None:
    """Say that an instance has left, for good: that life of it does not come back."""
    _Instance(the_source(name, pilot, token_file), service, instance).deregister(epoch)
    talk(f"{service}/{instance} is deregistered")


COMMANDS: Final = (register, drain, deregister)


class _Instance:
    """An instance, and who is told of it."""

    def __init__(self, source: Local | Pilot, service: str, instance: str) -> None:
        self.name = f"{service}/{instance}"
        self._source = source
        self._key = (service, instance)
        self._path = ("v1", "instances", service, instance)

    def register(self, body: dict[str, Any]) -> Registered:
        given = {key: value for key, value in body.items() if value is not None}
        hint = "leave --epoch out for a new life of it"
        with self._explained(hint) as client:
            return client.ask("PUT", self._path, Registered, given)

    def drain(self, epoch: int) -> Drained:
        with self._explained("that life is over; leave --epoch out for the one in force") as client:
            return client.ask("POST", (*self._path, "drain"), Drained, {"epoch": epoch})

    def deregister(self, epoch: int | None) -> Removed:
        with self._explained("that life is over; leave --epoch out for the one in force") as client:
            return client.ask("DELETE", self._path, Removed, {} if epoch is None else {"epoch": epoch})

    def epoch(self) -> int:
        """That in force. Raises UsageError if there is none."""
        found = [one.epoch for one in self._source.endpoints().endpoints if (one.service, one.id) == self._key]
        if not found or not found[0]:
            raise UsageError(
                f"no instance {self._key[1]} of {self._key[0]} is registered", hint="see who is: discovery endpoints"
            )
        return found[0]

    @contextmanager
    def _explained(self, stale: str) -> Iterator[Client]:
        """Errors say what to do next: of an epoch that does not hold, `stale`."""
        self._source.check()
        try:
            yield self._source.client
        except Refused as error:
            if error.status != 409:
                raise
            raise PannierError(error.message, hint=f"{stale} ({error.hint})", blame=error.blame) from error


def _keep(said: _Instance, body: dict[str, Any], output: str) -> None:
    """Renews until told to end, also while nobody answers. An older life of itself ends it (`PannierError`)."""
    done = said.register(body)
    _say(done, output, f"it is renewed each {done.renew_s:.3g} s; Ctrl-C drains and deregisters it")
    body = body | {"epoch": done.epoch}
    trouble = ""
    while signal.sigtimedwait(ENDING, done.renew_s) is None:
        try:
            said.register(body)
        except Unreachable as error:
            if error.message != trouble:
                talk(f"{error.message}; trying again")
            trouble = error.message
        else:
            if trouble:
                talk(f"{said.name} is renewed again")
            trouble = ""
    try:
        said.drain(done.epoch)
        signal.sigtimedwait(ENDING, SHOWN_SECONDS)
        said.deregister(done.epoch)
    except Unreachable as error:
        raise Unreachable(error.message, hint=f"it is given up {done.ttl_s:g} s after its last renewal") from error
    talk(f"{said.name} is drained and deregistered")


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that end a process wait until they are asked for, so that none comes between two words of ours."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _say(done: Registered, output: str, then: str) -> None:
    if output == "json":
        print_json(done)
        return
    talk(f"{done.service}/{done.id} at {done.address} is registered with epoch {done.epoch}")
    talk(then)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"{text[:80]!r} is no metadata", hint="write it as version=2")
    return key, value
