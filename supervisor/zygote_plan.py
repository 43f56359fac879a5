"""The zygote as a process of the plan: what it loads before it forks.

It loads what every sidecar uses, and the services of our own sidecars. A third party's sidecar is forked like any other
and loads its own part itself: an import may start threads or open files, which must not happen in the parent of all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Final

from pannier.supervisor.compose import without_outer
from pannier.supervisor.keeper_protocol import ZYGOTE, Op, Stdio
from pannier.supervisor.plan import Kind, Plan, ProcessPlan, Readiness
from pannier.supervisor.request import Request
from pannier.supervisor.restart import Policy, RestartSettings

_SHARED: Final = ("trio", "msgspec", "pannier._native", "pannier.shared.sidecar")
_OURS: Final = "pannier.sidecars."


def zygote_plan(modules: Iterable[str], environment: Mapping[str, str], cwd: str) -> ProcessPlan:
    """A zygote for sidecars of these modules. It is no sidecar and has no readiness: without it the keeper executes."""
    services = (f"{module}.service" for module in modules if module.startswith(_OURS))
    return ProcessPlan(
        name=ZYGOTE,
        kind=Kind.KEEPER,  # it starts processes on the keeper's behalf
        argv=(sys.executable, "-P", "-m", "pannier.supervisor.zygote", *_SHARED, *services),
        environment=without_outer(environment),
        cwd=cwd,
        held=(),
        stdio=(Stdio.NULL, Stdio.PIPE, Stdio.PIPE),
        own_group=True,
        restart=RestartSettings(Policy.PERMANENT, settles=1.0, prompt=True),
        readiness=Readiness.SPAWNED,
        ready_within=10.0,
    )


def zygote_of(plan: Plan) -> ProcessPlan:
    """The zygote of a service, for the sidecars that run in it."""
    modules = (plan.sidecars[name].argv[-1] for name in plan.enabled)
    return zygote_plan(modules, plan.place.environment, plan.arguments.cwd)


def zygote_for(request: Request) -> ProcessPlan:
    """The same before there is a plan."""
    modules = (request.installation.modules[name] for name in request.profile.sidecars)
    return zygote_plan(modules, request.environment, request.arguments.cwd)


def how(plan: ProcessPlan) -> Op:
    """How the keeper shall start a process."""
    if plan.name == ZYGOTE:
        return Op.ZYGOTE
    return Op.FORK if plan.kind is Kind.SIDECAR else Op.SPAWN
