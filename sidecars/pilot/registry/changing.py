"""What is asked to change in the registry, whether over HTTP or over gRPC: from what was said to what comes of it.

Both say the same things with the same limits, and are refused with the same words; only how a refusal looks on the wire
is theirs.
"""

from __future__ import annotations

import hmac
from typing import Final

from pannier.shared.errors import Blame, PannierError
from pannier.shared.instances import Key, State
from pannier.shared.registration import Drained, Registered, Registering, Removed, address_of, ttl_of
from pannier.sidecars.pilot.registry.entries import Entry, Verdict, next_epoch
from pannier.sidecars.pilot.registry.registry import Outcome, Registry

TTL_SECONDS: Final = 10.0


class Stale(PannierError):
    """A later life of the instance is known, or another one of that epoch; the hint says which would be accepted."""

    blame = Blame.PEER


class Unknown(PannierError):
    """There is no such life."""

    blame = Blame.PEER


async def register(registry: Registry, key: Key, body: Registering) -> tuple[Registered, bool]:
    """Registers or renews; the answer, and whether the instance was not there before. Raises ValueError for an address
    or a TTL, Stale, Full, Unreachable."""
    ttl = TTL_SECONDS if body.ttl is None else ttl_of(body.ttl)
    address = address_of(body)
    asked = Entry(body.epoch or 0, address, State.UP, round(ttl * 1000), body.metadata)
    outcome = await registry.register(key, asked, state=body.state)
    if outcome.verdict is Verdict.STALE:
        raise _stale(key, body.epoch or 0, outcome)
    epoch = outcome.entry.epoch if outcome.entry is not None else 0
    return Registered(*key, address, epoch, ttl, ttl / 3), outcome.verdict is Verdict.CREATED


async def drain(registry: Registry, key: Key, epoch: int) -> Drained:
    """The life of that epoch takes no new calls. Raises Stale, Unknown, Unreachable."""
    outcome = await registry.move(key, epoch, State.DRAINING)
    if outcome.verdict is Verdict.STALE:
        raise _stale(key, epoch, outcome)
    if outcome.verdict is Verdict.UNKNOWN:
        raise Unknown(f"no instance {key[1]!r} of {key[0]!r} is registered with epoch {epoch}")
    return Drained(*key, epoch, State.DRAINING)


async def leave(registry: Registry, key: Key, epoch: int | None) -> Removed:
    """The life of that epoch, or the one in force, has ended. Raises Stale, Unknown, Unreachable."""
    outcome = await registry.leave(key, epoch)
    if outcome.verdict is Verdict.STALE:
        raise _stale(key, epoch or 0, outcome)
    if outcome.verdict is Verdict.UNKNOWN:
        raise Unknown(f"no instance {key[1]!r} of {key[0]!r} is registered")
    return Removed(*key, True)


def shows_token(authorization: str, token: str) -> bool:
    """Whether an `Authorization` is that of somebody who may change something; everybody may where there is none."""
    shown = authorization.removeprefix("Bearer ")
    return not token or hmac.compare_digest(shown.encode(), token.encode())


def _stale(key: Key, epoch: int, outcome: Outcome) -> Stale:
    held = outcome.entry
    owner = ""
    if held is not None:
        owner = f"; epoch {held.epoch} has left" if held.gone else f"; epoch {held.epoch} at {held.address} is in force"
    return Stale(
        f"epoch {epoch} of {key[0]}/{key[1]} is stale{owner}",
        hint=f"a new incarnation registers with epoch {next_epoch(held)} or greater",
    )
