"""A change carried out on a service that runs, step by step, or taken back as a whole.

The order is that of `change.py`. Until the new plan is in force every step can be undone, and is, in the opposite
order, when a later one fails; what comes afterwards are only the ends of processes that nothing relies on any more. A
supervisor that dies in between leaves the old plan, and the names of those that may not be as it says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio
from pannier.shared.envelope import FUSED
from pannier.shared.errors import Blame, PannierError, TimedOut, Unreachable
from pannier.shared.messages import CONFIGURE, Configure, Configured
from pannier.supervisor import adoption, generations
from pannier.supervisor.adoption import Pending
from pannier.supervisor.central_table import bound
from pannier.supervisor.change import Change
from pannier.supervisor.child import Child
from pannier.supervisor.compose import metrics_listener, widened
from pannier.supervisor.keeper import KeeperError, KeeperGone
from pannier.supervisor.plan import Plan, ProcessPlan, UnixListener
from pannier.supervisor.ports import bind
from pannier.supervisor.service import Service
from pannier.supervisor.socket_files import bind_unix
from pannier.supervisor.tree import NotReady

CONFIGURE_PATIENCE: Final = 5.0  # seconds for a sidecar to take a configuration
_UNDO_PATIENCE: Final = 30.0
_LAST_LINES: Final = 3

Undo = Callable[[], Awaitable[None]]


async def carry_out(
    service: Service, new: Plan, change: Change, pending: Callable[[], Pending | None], *, fits: bool = False
) -> Child | None:
    """Puts `new` in force; the proxy that was replaced, if one was, which has to `leave`. `pending` is asked, at the
    moment when it is, what is to be taken back unless confirmed. `fits`: it is known that the keeper's note holds it,
    with nothing pending.

    Raises PannierError; then everything is as it was, or the message says what is not.
    """
    old = service.plan
    if not fits:  # refused before it is done
        adoption.encode(msgspec.structs.replace(service.record(), plan=new, pending=pending()))
    undo: list[Undo] = []
    await service.touch((*change.start, *change.configure))
    try:
        new = await _start(service, new, change, undo)
        for name in change.configure:
            undo.append(partial(configure, service, old.sidecars[name]))
            await configure(service, new.sidecars[name])
        if change.base:
            _publish_base(service, new)
        leaver = None
        if change.proxy:
            new = await _listen(service, new, undo)
            leaver = await generations.take_over(service, new.proxy)
            undo.append(partial(generations.put_back, service))
        if change.central:
            _publish_central(service, new)
        await service.put_in_force(new, pending())
    except Exception as error:  # a bug of ours is taken back, too; who cancels us ends the whole service
        left = await _take_back(service, undo, change)
        if isinstance(error, PannierError):
            raise _explained(service, error, left) from error
        raise
    await service.tree.remove(change.stop)
    for name in change.stop:
        await service.withdraw(old.sidecars[name])
    return leaver


async def _listen(service: Service, new: Plan, undo: list[Undo]) -> Plan:
    """Has a listener for each worker of the new plan's proxy; the plan with the ports of those that are new."""
    ports = dict(new.place.ports)
    for listener in widened(new):
        if isinstance(listener, UnixListener):
            await bind_unix(service.keeper, listener, Path(new.place.directory).parent)
        else:
            if listener.name not in ports:
                undo.append(partial(_release, service, listener.name))
            ports[listener.name] = await bind(service.keeper, listener)
    central = None if new.central is None else bound(new.central, ports)
    return msgspec.structs.replace(new, place=msgspec.structs.replace(new.place, ports=ports), central=central)


async def _release(service: Service, listener: str) -> None:
    with suppress(KeeperError, KeeperGone):
        await service.keeper.release(listener)


async def configure(service: Service, plan: ProcessPlan) -> None:
    """Has a running sidecar be as `plan` says: it is told, or gets a new process if it takes nothing while it runs, or
    does not answer. Raises PannierError if it refuses, or does not come up again."""
    child = service.tree.children[plan.name]
    child.plan = plan
    await service.admission.admit(plan)
    if child.ready:
        try:
            if await takes_live(service, plan):
                return
        except (Unreachable, TimedOut) as error:
            service.tell(plan.name, "configure", f"{error.message}: it is started again", "warning")
    await service.tree.restart(plan.name)


async def takes_live(service: Service, plan: ProcessPlan, *, dry_run: bool = False) -> bool:
    """Tells a sidecar its configuration; whether it takes one while it runs. Raises Unreachable or TimedOut if it does
    not answer, another PannierError if it refuses. With `dry_run` it is only asked."""
    assert plan.grant is not None, "every sidecar is planned with a grant"
    request = Configure(plan.grant.config, dry_run)
    try:
        answer = await service.broker.request(plan.name, CONFIGURE, request, Configured, timeout=CONFIGURE_PATIENCE)
    except (Unreachable, TimedOut):
        raise
    except PannierError as error:
        raise PannierError(
            f"{plan.name} refuses its new configuration: {error.message}", hint=error.hint, blame=Blame.CONFIG
        ) from error
    return answer.live


async def _start(service: Service, new: Plan, change: Change, undo: list[Undo]) -> Plan:
    """Starts who comes, all at once; the plan with the ports that they were given and without those of who goes."""
    plans = [new.sidecars[name] for name in change.start]
    for plan in plans:
        undo.append(partial(service.withdraw, plan))
    going = {held for name in change.stop for held in service.plan.sidecars[name].held}
    ports = {name: port for name, port in service.plan.place.ports.items() if name not in going}
    if any("metrics" in plan.held for plan in plans):
        ports["metrics"] = await bind(service.keeper, metrics_listener(new.arguments.metrics_port))
    for plan in plans:
        await service.admission.admit(plan)
    await service.tree.add(plans)
    if plans:
        undo.append(partial(service.tree.remove, change.start))
    return msgspec.structs.replace(new, place=msgspec.structs.replace(new.place, ports=ports))


async def _take_back(service: Service, undo: list[Undo], change: Change) -> list[str]:
    """Undoes what was done, last things first; why what could not be."""
    left = []
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_PATIENCE):
        if change.base:
            _publish_base(service, service.plan)
        if change.central:
            _publish_central(service, service.plan)
        for step in reversed(undo):
            try:
                await step()
            except PannierError as error:
                left.append(error.message)
        if not left:
            await service.touch(())
    return left


def _publish_base(service: Service, plan: Plan) -> None:
    try:
        service.segments.publish_base(plan.base, draining=service.deadline is not None)
    except ValueError as error:
        raise PannierError(f"the data path refuses the table base: {error}", blame=Blame.CONFIG) from error


def _publish_central(service: Service, plan: Plan) -> None:
    try:
        service.segments.publish_central(plan.central, service.forced)
    except ValueError as error:
        raise PannierError(f"the data path refuses the table central: {error}", blame=Blame.CONFIG) from error


def _explained(service: Service, error: PannierError, left: list[str]) -> PannierError:
    """The error as the operator reads it: with what a process said last, and what is not as it was."""
    names = error.names if isinstance(error, NotReady) else ()
    lines_of = [(line.process, line.text) for line in service.tail.last(200) if line.stream == "stderr"]
    shared = tuple(f"{name}: " for name in names)
    said = [text for process, text in lines_of if process in names or (process == FUSED and text.startswith(shared))]
    lines = "".join(f"\n  {line}" for line in said[-_LAST_LINES:])
    after = f"could not all be taken back: {'; '.join(left)}" if left else "everything is as it was"
    return PannierError(
        f"{error.message}; {after}{lines}",
        hint=error.hint,
        code=error.code,
        exit_code=error.exit_code,
        blame=error.blame,
    )
