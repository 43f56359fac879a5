"""One run, from the first signal handler to the exit code: reach the keeper → plan or adopt → start → wait → drain.

Rules:
- A keeper that is there already is adopted: the plan that runs goes on, whatever this command line says.
- What fails before the service runs leaves nothing behind, unless it was running before.
- Signals: INT and TERM end the service (a second one ends it now), HUP, USR1 and USR2 are the app's.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio
from pannier.shared.errors import Blame, PannierError
from pannier.shared.profile import grace_milliseconds
from pannier.shared.runtime import service_dir
from pannier.supervisor import adoption, generations, live, renewal
from pannier.supervisor.adoption import Record
from pannier.supervisor.central import CentralMesh
from pannier.supervisor.child import accepts
from pannier.supervisor.compose import handed_all, listeners
from pannier.supervisor.ending import Cause, Ending, exit_code
from pannier.supervisor.hold import become_subreaper
from pannier.supervisor.keeper import Keeper, KeeperError, KeeperGone
from pannier.supervisor.keeper_birth import Born
from pannier.supervisor.keeper_protocol import ZYGOTE
from pannier.supervisor.keeper_start import start_keeper
from pannier.supervisor.lifecycle import ServiceState
from pannier.supervisor.plan import Place, Plan, UnixListener
from pannier.supervisor.planning import first_plan
from pannier.supervisor.ports import bind, outward, split_address, taken
from pannier.supervisor.renewal import Again
from pannier.supervisor.request import Request
from pannier.supervisor.service import LAST_WORDS, Service
from pannier.supervisor.socket_files import bind_unix
from pannier.supervisor.steering import Steering
from pannier.supervisor.tables import open_segments
from pannier.supervisor.tree import OTHER
from pannier.supervisor.verbs import serve_verbs

ENDING_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM})
_FORWARDED: Final = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


async def supervise(request: Request, born: Born | None = None) -> int | Again:
    """Runs the service until it ends; the exit code, or that another life of this process goes on with it. `born` is a
    keeper that was started for it already.

    Raises PannierError for what keeps it from running."""
    become_subreaper()
    began = trio.current_time()
    name = request.arguments.name
    directory = service_dir(name)
    with trio.open_signal_receiver(*ENDING_SIGNALS, *_FORWARDED) as signals:
        renewal.let_signals_through()
        try:
            # On a terminal the app is in the foreground group, which it gets from the keeper that starts it.
            own_group = not request.arguments.terminal
            grace = grace_milliseconds(request.profile.orphan_grace)
            async with start_keeper(directory, grace, own_group=own_group, born=born) as keeper:
                code = await _with_keeper(request, keeper, directory, signals)
        except KeeperError as error:
            if error.errno != errno.EBUSY:
                raise
            raise PannierError(
                f"{name} is already running: {error.message}", hint=f"try `pannier down --name {name}`"
            ) from error
    if code is not None:
        return code
    return Again(None if request.seconds is None else max(0.0, request.seconds - (trio.current_time() - began)))


async def _with_keeper(request: Request, keeper: Keeper, directory: Path, signals: AsyncIterator[int]) -> int | None:
    """The exit code; None if this is not the end of the service."""
    record = await adoption.load(keeper) if keeper.adopted else None
    segments = await open_segments(keeper)
    new = record is None
    try:
        async with trio.open_nursery() as nursery:
            plan = handed_all(record.plan, socket.gethostname()) if record else await _plan(request, keeper, directory)
            adoption.encode(Record(plan))  # refused now if it cannot be left for a successor
            service = Service(keeper, plan, segments, nursery)
            nursery.start_soon(_obey, signals, service, nursery)
            _watch_for_ends(request, service, nursery)
            steering = Steering(service)
            central = CentralMesh(service, adopted=record is not None)
            serve_verbs(service, steering, central)
            nursery.start_soon(steering.watch)
            nursery.start_soon(central.watch)
            if record is not None:
                await _adopt(request, service, record, nursery)
            else:
                await keeper.grace(plan.orphan_grace_ms)
                await _refuse_foreign_app(plan)
                await service.start(zygote=adoption.found(await keeper.list()).running.get(ZYGOTE))
            new = False
            nursery.start_soon(steering.begin, record)
            nursery.start_soon(_announce, request, service)
            await service.tree.over.wait()
            code = await _finish(service)  # None leaves everything to the next life
            nursery.cancel_scope.cancel()
        return code
    except BaseException:
        if new:  # what has run is left for the next supervisor, even by a bug of ours
            await _abandon(keeper)
        raise
    finally:
        segments.close()


async def _plan(request: Request, keeper: Keeper, directory: Path) -> Plan:
    place = Place(
        directory=str(directory),
        environment=request.environment,
        pannierd=str(Path(sys.executable).parent / "pannierd"),
        cores=len(os.sched_getaffinity(0)),
        hostname=socket.gethostname(),
        outward=outward(),
    )
    ports, sockets = {}, {}
    for listener in listeners(request.profile, request.arguments, place.cores):
        if isinstance(listener, UnixListener):
            sockets[listener.name] = await bind_unix(keeper, listener, directory.parent)
        else:
            ports[listener.name] = await bind(keeper, listener)
    return first_plan(
        request.profile,
        request.arguments,
        msgspec.structs.replace(place, ports=ports, sockets=sockets),
        said=request.said,
        installation=request.installation,
    )


async def _refuse_foreign_app(plan: Plan) -> None:
    """Somebody else at the app's address would be taken for the app."""
    address = plan.arguments.app
    if plan.app is None or address is None or not await accepts(address):
        return
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        hint = f"see who has it with `ss -lxp src {path}`, or choose another with --app-port"
        raise PannierError(f"somebody answers on {path} (app) already", hint=hint, blame=Blame.USAGE)
    raise taken(split_address(address)[1], "app", "--app-port")


async def _adopt(request: Request, service: Service, record: Record, nursery: trio.Nursery) -> None:
    await service.keeper.grace(record.plan.orphan_grace_ms)
    found = adoption.found(await service.keeper.list())
    await service.say(f"{service.plan.service} is taken over: {len(found.running)} processes run on")
    if difference := adoption.differences(service.plan.arguments, request.arguments):
        await service.say(f"what runs holds: {difference}")
    await service.start(found, record, zygote=found.running.get(ZYGOTE))
    if (pid := found.running.get(OTHER)) is not None:
        nursery.start_soon(generations.finish, service, pid)


def _watch_for_ends(request: Request, service: Service, nursery: trio.Nursery) -> None:
    if request.seconds is not None:
        nursery.start_soon(_end_after, request.seconds, service)
    if request.lifeline is not None:
        nursery.start_soon(_end_with, request.lifeline, service)


async def _end_after(seconds: float, service: Service) -> None:
    await trio.sleep(seconds)
    service.tree.end(Ending(Cause.TIME))


async def _end_with(lifeline: int, service: Service) -> None:
    await trio.lowlevel.wait_readable(lifeline)
    service.tree.end(Ending(Cause.LIFELINE))


async def _obey(signals: AsyncIterator[int], service: Service, nursery: trio.Nursery) -> None:
    terminal = service.plan.arguments.terminal
    async for number in signals:
        if number in _FORWARDED:
            if (app := service.tree.app) is not None:
                nursery.start_soon(app.signal, number)  # a keeper that does not answer must not deafen us
        elif service.tree.ending is None:
            told = terminal and number == signal.SIGINT
            service.tree.end(Ending(Cause.SIGNAL, 0 if told and service.tree.app is not None else number))
        elif service.deadline is not None:
            service.deadline.now()


async def _announce(request: Request, service: Service) -> None:
    tree = service.tree
    await tree.wait_until(lambda: tree.state in {ServiceState.READY, ServiceState.DRAINING, ServiceState.STOPPED})
    if tree.state is ServiceState.READY:
        request.on_ready(service.plan)


async def _finish(service: Service) -> int | None:
    ending = service.tree.ending
    assert ending is not None, "`over` is set with a reason"
    if ending.cause is Cause.RENEWED:
        with suppress(KeeperGone):
            if 0 <= service.plan.orphan_grace_ms < renewal.BETWEEN_MS:
                await service.keeper.grace(renewal.BETWEEN_MS)
        await service.say_last(patience=LAST_WORDS)
        return None
    if ending.message:
        await service.say(ending.message)
        if ending.hint:
            await service.say(f"  try: {ending.hint}")
    await service.stop(ending)
    try:
        live.clear_live(service.plan.service)
    except PannierError as error:
        await service.say(f"{error.message}; {error.hint}")
    # As for any program: who reads our output slowly is waited for, unless somebody wants us to end.
    await service.say_last(patience=math.inf if ending.cause is Cause.APP else LAST_WORDS)
    app = service.tree.app
    return exit_code(ending, app.last_exit if app is not None else None)


async def _abandon(keeper: Keeper) -> None:
    """Takes away what a failed start has left."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 5), suppress(KeeperGone):
        await keeper.shutdown(1000)
        async for _ in keeper.events():
            pass
