"""What was said becomes a plan: layers → effective profile → plan. Pure, given what is installed, but for new tokens.

A first plan and every later one are made here, so a change cannot come to something that a start would not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from pannier.shared.envelope import FUSED
from pannier.shared.errors import Blame, PannierError
from pannier.shared.framing import MAX_BODY
from pannier.shared.layers import Assignments, Layer
from pannier.shared.profile import Profile
from pannier.shared.project import live_layer, settle
from pannier.shared.rights import Broken
from pannier.supervisor.compose import compose, fused_process
from pannier.supervisor.plan import Arguments, Installed, Place, Plan, ProcessPlan, Said

MOST_CONFIG: Final = MAX_BODY - 64
"""Bytes of a configuration that fit a message together with the little that is around it."""
Tokens = Callable[[str], str]
"""The token of a sidecar by its name."""


class Installation(msgspec.Struct, frozen=True):
    """The sidecars of this installation: the type of each one's settings, and the module to run."""

    types: Mapping[str, type[msgspec.Struct]]
    modules: Mapping[str, str]


def profile_of(name: str, said: Said, installation: Installation) -> Profile:
    """The effective profile. Raises ConfigError with everything that is wrong."""
    below = Layer(name, said.below, Assignments({}, f"profile {name}"))
    return settle(name, [below], [live_layer(said.live)], sidecars=installation.types).profile


def plan_for(
    profile: Profile,
    arguments: Arguments,
    place: Place,
    *,
    said: Said,
    installation: Installation,
    token: Tokens,
    fused: ProcessPlan | None = None,
) -> Plan:
    """The plan of a service; `said` is what the profile was made from, `fused` the process that our sidecars share. A
    sidecar that the profile does not name is planned with its defaults, if it has some. Raises PannierError if a
    configuration is too large to be sent."""
    installed = {
        name: Installed(module, settings, token(name))
        for name, module in installation.modules.items()
        if (settings := profile.sidecars.get(name) or _default(installation.types[name])) is not None
    }
    plan = compose(profile, arguments, place, installed, said, fused=fused)
    for name in plan.enabled:
        grant = plan.sidecars[name].grant
        if grant is not None and len(grant.config) > MOST_CONFIG:
            raise PannierError(
                f"the configuration of {name} takes {len(grant.config)} bytes, and {MOST_CONFIG} can be sent",
                hint="say less, or the same in fewer rules",
                blame=Blame.CONFIG,
            )
    return plan


def first_plan(profile: Profile, arguments: Arguments, place: Place, *, said: Said, installation: Installation) -> Plan:
    """The plan of a service that is about to start; only here is it asked whether our sidecars share a process."""
    fused = fused_process(arguments, place, new_token(FUSED)) if profile.fuse else None
    return plan_for(profile, arguments, place, said=said, installation=installation, token=new_token, fused=fused)


def next_plan(old: Plan, arguments: Arguments, said: Said, installation: Installation) -> Plan:
    """The plan of a service that runs, after something else was said: who runs keeps his token. Raises ConfigError with
    everything that is wrong."""

    def token(name: str) -> str:
        known = old.sidecars.get(name)
        return known.grant.token if known is not None and known.grant is not None else new_token(name)

    profile = profile_of(arguments.profile, said, installation)
    return plan_for(profile, arguments, old.place, said=said, installation=installation, token=token, fused=old.fused)


def new_token(_: str) -> str:
    """One that nobody can guess."""
    return secrets.token_hex(32)


def _default(type_: type[msgspec.Struct]) -> msgspec.Struct | None:
    try:
        return None if issubclass(type_, Broken) else type_()
    except Exception:  # it has settings that nobody can guess: it runs where a profile gives them
        return None
