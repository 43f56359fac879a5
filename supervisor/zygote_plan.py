"""The zygote as a process of the plan; it hardly differs between services, so that it can be started before a plan.

Its environment names the service's bus: it is what the kernel shows of those whom it forks, by which they are found.
"""

from __future__ import annotations

from pannier.supervisor.compose import without_outer
from pannier.supervisor.keeper_protocol import ZYGOTE, Op, Stdio
from pannier.supervisor.plan import Kind, Plan, ProcessPlan, Readiness
from pannier.supervisor.preloading import zygote_argv
from pannier.supervisor.restart import Policy, RestartSettings


def zygote_plan(plan: Plan) -> ProcessPlan:
    """It is no sidecar and has no readiness of its own: without it the keeper executes."""
    return ProcessPlan(
        name=ZYGOTE,
        kind=Kind.KEEPER,  # it starts processes on the keeper's behalf
        argv=zygote_argv(),
        environment={**without_outer(plan.place.environment), "PANNIER_BUS": plan.place.inside("bus.sock")},
        cwd=plan.arguments.cwd,
        held=(),
        stdio=(Stdio.NULL, Stdio.PIPE, Stdio.PIPE),
        own_group=True,
        restart=RestartSettings(Policy.PERMANENT, settles=1.0, prompt=True),
        readiness=Readiness.SPAWNED,
        ready_within=10.0,
    )


def how(plan: ProcessPlan) -> Op:
    """How the keeper shall start a process."""
    if plan.name == ZYGOTE:
        return Op.ZYGOTE
    return Op.FORK if plan.kind is Kind.SIDECAR else Op.SPAWN
