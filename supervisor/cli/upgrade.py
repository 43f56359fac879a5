"""`pannier upgrade`: what runs becomes what is installed, part by part, under traffic.

The order is that of who needs whom: the keeper, which has everything else; the supervisor, which from then on decides
as the new version does; the sidecars, one by one; the proxy. Each part is replaced by itself, so an upgrade that was
interrupted is finished by another one. A part that refuses leaves everything as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import click
from pannier.shared.errors import PannierError, TimedOut, Unreachable
from pannier.shared.messages import Life, Nothing, SidecarName, Status
from pannier.supervisor.cli.output import talk
from pannier.supervisor.cli.services import ask, name_option, the_one

PARTS: Final = ("keeper", "supervisor", "sidecars", "proxy")
_PATIENCE: Final = 60.0  # seconds for a part to change
_NEXT_LIFE: Final = 20.0  # seconds for the supervisor to come back
_POLL: Final = 0.05


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Only this part, which may be given repeatedly.")
@name_option
def command(*, only: Sequence[str], name: str | None) -> None:
    """Bring a running service to the installed version: after `pip install -U pannier`.

    No request fails, the app is not touched, and every part keeps what it holds. Connections are asked to close by
    `Connection: close`; streams that go on have the service's drain time.
    """
    service = the_one(name)
    for part in PARTS:
        if not only or part in only:
            _UPGRADES[part](service)
    if not only:
        talk(f"{service} is version {_life(service).version}")


def _keeper(service: str) -> None:
    _request(service, "upgrade.keeper")
    talk(f"keeper: renewed, pid {_pid(service, 'keeper')} as before")


def _supervisor(service: str) -> None:
    before = _life(service)
    with suppress(Unreachable):  # it may go before it could say so: what counts is who comes
        _request(service, "upgrade.supervisor")
    after = _next_life(service, before.life)
    talk(f"supervisor: {before.version} → {after.version}, pid {_pid(service, 'supervisor')} as before")


def _sidecars(service: str) -> None:
    before = [process for process in _status(service).processes if process.kind == "sidecar"]
    _request(service, "upgrade.zygote")  # they are forked by it, of what it has loaded; those in one process are now
    for sidecar in before:
        if not sidecar.fused:
            _request(service, "sidecar.restart", SidecarName(sidecar.name))
        talk(f"{sidecar.name}: pid {sidecar.pid} → {_pid(service, sidecar.name)}")


def _proxy(service: str) -> None:
    before = _pid(service, "proxy")
    _request(service, "upgrade.proxy", patience=math.inf)  # who goes has the service's drain time, however long that is
    talk(f"proxy: pid {before} → {_pid(service, 'proxy')}")


_UPGRADES: Final = {"keeper": _keeper, "supervisor": _supervisor, "sidecars": _sidecars, "proxy": _proxy}


def _request(
    service: str,
    verb: str,
    request: Nothing | SidecarName = Nothing(),  # noqa: B008 - it is frozen
    *,
    patience: float = _PATIENCE,
) -> None:
    ask(service, lambda bus: bus.request("supervisor", verb, request, Nothing, timeout=patience))


def _life(service: str) -> Life:
    return ask(service, lambda bus: bus.request("supervisor", "life", Nothing(), Life))


def _next_life(service: str, before: str) -> Life:
    """Another life of the supervisor, once it is ready. Raises TimedOut."""
    import time

    deadline = time.monotonic() + _NEXT_LIFE
    while time.monotonic() < deadline:
        with suppress(PannierError):  # nobody is there for a moment
            life = _life(service)
            if life.life != before and life.ready:
                return life
        time.sleep(_POLL)
    raise TimedOut(
        f"the supervisor of {service} is not ready after {_NEXT_LIFE:g} s",
        hint="what runs goes on; see `pannier ps` and `pannier logs`, or start it again with the command of before",
    )


def _pid(service: str, name: str) -> int:
    return next((process.pid for process in _status(service).processes if process.name == name), 0)


def _status(service: str) -> Status:
    return ask(service, lambda bus: bus.request("supervisor", "status", Nothing(), Status))
