"""One service under government: tree, bus, tables and output, from the keeper's hand to the last flush.

This is the shell: it wires the parts and carries news between them. What to do about an exit, a silence or a signal is
decided in `restart.py`, `watchdog.py` and `ending.py`.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import trio
from pannier.shared import messages
from pannier.shared.envelope import FUSED
from pannier.shared.errors import Blame, PannierError
from pannier.shared.ticks import BEAT_SECONDS, next_tick
from pannier.shared.unix import listen_unix, remove_stale
from pannier.supervisor import adoption, notify, status
from pannier.supervisor.admission import Admission
from pannier.supervisor.adoption import Found, Pending, Record
from pannier.supervisor.broker import Broker, Grants
from pannier.supervisor.central_table import Forced
from pannier.supervisor.child import Child
from pannier.supervisor.ending import APP_SHARE, PROXY_PATIENCE, SIDECAR_PATIENCE, Cause, Deadline, Ending
from pannier.supervisor.fuse import Fuse, unfolded
from pannier.supervisor.hold import Hold, kill_orphans
from pannier.supervisor.keeper import Keeper, KeeperError, KeeperGone, Stdio
from pannier.supervisor.keeper_birth import SOCKET_NAME
from pannier.supervisor.lifecycle import ProcessState
from pannier.supervisor.plan import Kind, Plan, ProcessPlan
from pannier.supervisor.relay import Line, Sink, Tail, batches, relay
from pannier.supervisor.restart import Exit
from pannier.supervisor.tables import Segments
from pannier.supervisor.tree import OTHER, Tree
from pannier.supervisor.watchdog import Watchdog
from pannier.supervisor.zygote_plan import zygote_plan

LAST_WORDS: Final = 1.0  # seconds for what the app printed last to reach our own output
_KEEPER_PATIENCE: Final = 3.0
_ANSWER_PATIENCE: Final = 2.0  # seconds for each answer of the keeper, once the service ends
_ZYGOTE_LOADS: Final = 3.0  # seconds; who is started before is executed, and is of what is installed as well


class Service:
    """Everything of one run. Made once; `start`, then wait for `tree.over`, then `stop`."""

    def __init__(self, keeper: Keeper, plan: Plan, segments: Segments, nursery: trio.Nursery) -> None:
        self.plan = plan
        self.keeper = keeper
        self.segments = segments
        self.meter = status.Meter()
        self._measuring = trio.CapacityLimiter(1)
        self.grants = Grants()
        self.admission = Admission(keeper, segments, self.grants)
        self.broker = Broker(service=plan.service, grants=self.grants, on_ready=self._on_ready, on_beat=self._on_beat)
        self.hold = Hold(keeper, nursery, self._ended, self._refused)
        self.zygote = Child(
            zygote_plan(plan), self.hold, Watchdog(trio.current_time()), changed=self._changed, began=self._began
        )
        self.fuse = None if plan.fused is None else self._fuse(plan.fused, nursery)
        self.tree = Tree(plan, self.hold, nursery, fuse=self.fuse, changed=self._changed, began=self._began)
        self.tail = Tail(now_ms, self._publish_lines)
        self.drained = trio.Event()
        self.keeper_gone = trio.Event()
        self.deadline: Deadline | None = None
        self.life = messages.Life(secrets.token_hex(8), version("pannier"), ready=False)
        self._directory = Path(plan.place.directory)
        self._keeper_socket = _identity(self._directory / SOCKET_NAME)
        self._nursery = nursery
        self._stdout, self._stderr = Sink(1), Sink(2)
        for sink in (self._stdout, self._stderr):
            nursery.start_soon(sink.run)
        self._last_words: set[trio.Event] = set()
        self._revision = 1
        self._changing: tuple[str, ...] = ()
        self.pending: Pending | None = None
        self.forced: Forced | None = None
        self._forcings = 0
        self._central = trio.Event()
        self._news = trio.Event()
        self._happenings: list[messages.Happening] = []

    async def start(self, found: Found | None = None, record: Record | None = None, zygote: int | None = None) -> None:
        """Serves the bus, publishes table `base`, starts what `found` does not have. Raises PannierError.

        What `found` has runs on, a sidecar that is no part of the plan and a proxy that is replaced included: they are
        ended like any other, not here.
        `zygote` is the PID of one that runs.
        """
        running: dict[str, int] = {}
        if found is not None and record is not None and self.fuse is not None:
            fused = [name for name, each in self.plan.sidecars.items() if each.fused]
            found = unfolded(found, record.counted, fused)
        for name in found.running if found is not None else ():
            if name in self.plan.sidecars and name not in self.tree.children:
                self.tree.plant(self.plan.sidecars[name])
            elif name == OTHER:
                self.tree.plant(msgspec.structs.replace(self.plan.proxy, name=OTHER))
        if record is not None:
            self._revision, self._changing, self.pending = record.revision, record.changing, record.pending
            self.forced, self._forcings = record.forced, record.forcings
        for name, child in self.tree.children.items():
            if record is not None:
                child.restarts, child.counted = record.restarts.get(name, 0), record.counted.get(name, 0)
            if found is None:
                continue
            if name in found.running:
                running[name] = found.running[name]
            elif name in found.ended:
                running[name], end = found.ended[name]
                child.ended(running[name], end)
        self.segments.publish_base(self.plan.base)
        self.segments.publish_central(self.plan.central, self.forced)
        for child in self.tree.sidecars:
            await self.admission.admit(child.plan)
        listener = listen_unix(self._directory / "bus.sock")
        self._nursery.start_soon(self.broker.serve, listener)
        self._nursery.start_soon(self._hear, notify.open_notify(self._directory / "notify.sock"))
        self._nursery.start_soon(self._report)
        self._nursery.start_soon(self.tree.watch)
        self._nursery.start_soon(self._spread_news)
        self._nursery.start_soon(self._beat)
        self._write_urls()
        self._nursery.start_soon(self.zygote.govern, zygote)
        if self.fuse is not None:
            inside = [child.plan for child in self.tree.sidecars if child.plan.fused and child.name in running]
            await self.admission.admit(self.fuse.process.plan)
            self._nursery.start_soon(self.fuse.govern, found.running.get(FUSED) if found else None, inside)
        await self.tree.start(running)

    async def withdraw(self, plan: ProcessPlan) -> None:
        """Publishes that the capability of a sidecar that has ended is gone."""
        self.admission.revoke(plan)
        self.broker.clear(plan.name)
        for kind in plan.writes:
            self.segments.withdraw(kind)
        await self.admission.release(plan)

    def record(self) -> Record:
        """What a successor has to know."""
        children = self.tree.children.values()
        restarts = {child.name: child.restarts for child in children}
        counted = {child.name: child.counted for child in children}
        return Record(
            self.plan,
            restarts,
            counted,
            self._revision,
            self._changing,
            self.pending,
            self.forced,
            self._forcings,
        )

    async def touch(self, names: tuple[str, ...]) -> None:
        """Notes that these sidecars are about to be as the plan does not say, or are as it says again."""
        self._changing = names
        with suppress(KeeperGone):
            await adoption.save(self.keeper, self.record())

    async def force(self, weight: float | None) -> None:
        """The weight that is asked for by hand, in points; None leaves it to the controller again. Published before a
        successor could know of it."""
        self._forcings += 1
        self.forced = None if weight is None else Forced(weight, self._forcings)
        self.segments.publish_central(self.plan.central, self.forced)
        await self.touch(self._changing)

    async def wait_central(self) -> None:
        """Returns when a plan with a Central Mesh is in force."""
        while self.plan.central is None:
            self._central = trio.Event()
            await self._central.wait()

    async def keep(self, plan: Plan) -> None:
        """The plan in force, with what has been done about a process; its revision is the same."""
        self.plan = plan
        self.tree.replan(plan)
        await self.touch(self._changing)

    async def put_in_force(self, plan: Plan, pending: Pending | None) -> None:
        """The plan that holds from now on, for a successor as well; what it says of processes has been done."""
        forcings = self._forcings
        with suppress(KeeperGone):
            await self.keeper.grace(plan.orphan_grace_ms)
        self.plan, self.pending = plan, pending
        self._forget_forced()
        if self._forcings != forcings:  # who asked just now has published that of the plan before
            self.segments.publish_central(plan.central, self.forced)
        self._central.set()
        self.tree.replan(plan)
        self._revision += 1
        self._write_urls()
        await self.touch(())
        self._news.set()

    def settle(self) -> None:
        """Nothing waits to be confirmed any more: the plan in force stands."""
        self.pending = None
        self._forget_forced()

    def _forget_forced(self) -> None:
        """Who adds a Central Mesh again asks again; one that may come back has the weight that it had."""
        if self.plan.central is None and self.pending is None:
            self.forced = None

    def tell(self, source: str, kind: str, text: str, severity: str) -> None:
        """An event that an operator wants to know of, on the bus and in our own output."""
        self._happenings.append(messages.Happening(source, kind, text, severity, now_ms()))
        self._news.set()

    async def stop(self, ending: Ending) -> None:
        """Ends everything in order, by one deadline; afterwards nothing of the service is left."""
        self.deadline = Deadline(trio.current_time() + self.plan.drain)
        self.keeper.patience = _ANSWER_PATIENCE
        app = self.tree.app
        self.tree.drain()
        self.segments.publish_base(self.plan.base, draining=True)
        if ending.cause is not Cause.APP:
            with self.deadline.scope(share_left=APP_SHARE):
                await self._wait_drained(app)
        await self.tree.stop_app(ending.signal, self.deadline)
        with trio.move_on_after(LAST_WORDS):
            for last in tuple(self._last_words):
                await last.wait()
        await self.tree.stop_all(self.tree.sidecars, patience=SIDECAR_PATIENCE)
        await self.tree.stop_all([self.tree.proxy], patience=PROXY_PATIENCE)
        self.tree.stopped()
        for child in self._unseen:
            await child.ask_to_stop(signal.SIGTERM)
        await self.shut_down()

    async def say_last(self, *, patience: float) -> None:
        """Returns when our own output has taken all that was printed, or after `patience` seconds."""
        with trio.move_on_after(patience):
            await self._stdout.wait_written()
            await self._stderr.wait_written()

    async def replace_zygote(self) -> None:
        """Ends the zygote and starts another from what is installed now; returns when that has loaded, or does not."""
        ended = self.keeper.zygote_news
        await self.zygote.restart()
        with trio.move_on_after(_ZYGOTE_LOADS):
            await ended.wait()
            await self.keeper.zygote_news.wait()

    async def renew_fused(self) -> None:
        """The process that sidecars share is of what is installed now, and so are they, all at once. Raises
        NotReady."""
        if self.fuse is not None:
            before = {child: child.restarts for child in self.tree.sidecars if child.plan.fused}
            await self.fuse.renew(before)
            await self.tree.come_up(before)

    @property
    def _unseen(self) -> tuple[Child, ...]:
        """The processes that are no part of the tree."""
        return (self.zygote,) if self.fuse is None else (self.zygote, self.fuse.process)

    async def shut_down(self) -> None:
        """Ends the keeper and all that it still has, and leaves no file: what the keeper could not clear away is ours
        to, unless a successor has begun in the same folder."""
        in_order = False
        with suppress(KeeperGone, KeeperError), trio.move_on_after(_KEEPER_PATIENCE):
            await self.keeper.shutdown(1000)
            await self.keeper_gone.wait()
            in_order = True
        if not in_order:
            self.keeper.kill()
            await self.keeper_gone.wait()
        if self.tree.keeper_lost:
            kill_orphans()
        if not in_order:
            for path in self.plan.place.sockets.values():
                with suppress(PannierError):
                    remove_stale(Path(path))
        socket = self._directory / SOCKET_NAME
        if not in_order and self._keeper_socket is not None and _identity(socket) == self._keeper_socket:
            for entry in self._directory.iterdir():
                with suppress(OSError):
                    entry.unlink()
            with suppress(OSError):
                self._directory.rmdir()

    async def status(self) -> messages.Status:
        pids = [self.keeper.pid, os.getpid(), self.zygote.pid, *(child.pid for child in self.tree.children.values())]
        usage = await trio.to_thread.run_sync(self.meter.measure, pids, limiter=self._measuring)
        return messages.Status(
            name=self.plan.service,
            profile=self.plan.profile,
            supervisor_pid=os.getpid(),
            processes=status.processes(
                (self.zygote, *self.tree.children.values()),
                usage,
                supervisor_state=self.tree.state.value,
                keeper_pid=self.keeper.pid,
                keeper_lost=self.tree.keeper_lost,
            ),
            urls=status.urls(self.plan),
        )

    async def say(self, text: str) -> None:
        """A line of the supervisor's own, on stderr."""
        await self._stderr.write(f"pannier | {text}\n".encode())
        await self.tail.add("supervisor", "stderr", [text])

    async def _wait_drained(self, app: Child | None) -> None:
        async with trio.open_nursery() as nursery:
            if app is not None:
                nursery.start_soon(_then_cancel, app.wait_gone, nursery.cancel_scope)
            nursery.start_soon(_then_cancel, self.tree.proxy.wait_gone, nursery.cancel_scope)
            await self.drained.wait()
            nursery.cancel_scope.cancel()

    async def _on_ready(self, role: str, pid: int) -> None:
        if (child := self.tree.children.get(role)) is not None:
            child.said_ready(pid)
        elif self.fuse is not None and role == FUSED:
            self.fuse.said_ready(pid)
        await trio.lowlevel.checkpoint()

    async def _on_beat(self, role: str) -> None:
        if (child := self.tree.children.get(role)) is not None:
            child.beat()
        elif self.fuse is not None and role == FUSED:
            self.fuse.process.beat()
        await trio.lowlevel.checkpoint()

    async def _hear(self, socket: trio.socket.SocketType) -> None:
        with socket:
            await notify.hear(socket, self._notified)

    def _notified(self, pid: int, fields: dict[str, str]) -> None:
        proxies = [child for child in self.tree.children.values() if child.plan.kind is Kind.PROXY]
        proxy = next((child for child in proxies if child.pid == pid), None)
        if proxy is None:
            for each in proxies if notify.READY in fields else ():
                each.said_ready(pid)  # it may be one whose PID the keeper has not told yet
            return
        if notify.READY in fields and not proxy.ready:
            proxy.said_ready(pid)
        if notify.WATCHDOG in fields:
            proxy.beat()
        if notify.DRAINED in fields and proxy is self.tree.proxy:
            self.drained.set()

    def _ended(self, name: str, pid: int, exit_: Exit) -> None:
        for child in self._unseen:
            if child.name == name:
                child.ended(pid, exit_)
        self.tree.ended(name, pid, exit_)

    def _fuse(self, plan: ProcessPlan, nursery: trio.Nursery) -> Fuse:
        return Fuse(plan, self.hold, self.broker, nursery, ended=self._left, changed=self._changed, began=self._began)

    def _left(self, name: str, pid: int, exit_: Exit) -> None:
        if (child := self.tree.children.get(name)) is not None:
            child.ended(pid, exit_)

    def _refused(self, name: str, pid: int) -> None:
        text = f"{name} (pid {pid}) takes no signals from us: it runs as another user"
        self.tell(name, "not_permitted", text, "error")

    async def _report(self) -> None:
        await self.hold.report()
        self.keeper_gone.set()
        if self.deadline is None:
            self.tell("keeper", "keeper_lost", "the keeper is gone: what runs goes on, nothing restarts", "error")
        self.tree.lose_keeper()
        await self.zygote.ask_to_stop(0)  # it ends by itself, and nobody could use another
        names = {child.pid: child.name for child in (*self.tree.children.values(), *self._unseen) if child.pid}
        for pid, name in names.items():
            self.hold.watch(name, pid)

    async def _beat(self) -> None:
        while True:
            self.segments.beat()
            await next_tick(BEAT_SECONDS)

    def _began(self, child: Child) -> None:
        for stream, kind in zip(("stdout", "stderr"), child.plan.stdio[1:], strict=True):
            if kind is Stdio.PIPE:
                self._nursery.start_soon(self._relay, child, stream)

    async def _relay(self, child: Child, stream: str) -> None:
        is_app = child.plan.kind is Kind.APP
        speaker = self.tree.proxy.name if child.plan.kind is Kind.PROXY else child.name  # whichever of the two it is
        last = trio.Event()
        if is_app:
            self._last_words.add(last)
        sink = self._stdout if is_app and stream == "stdout" else self._stderr
        prefix = None if is_app else f"{speaker} | ".encode()
        try:
            descriptor = await self.keeper.fetch(f"{child.name}.{stream}")
            await relay(descriptor, speaker, stream, sink=sink, tail=self.tail, prefix=prefix)
        except (KeeperGone, KeeperError):
            return
        finally:
            last.set()
            self._last_words.discard(last)

    def _changed(self, child: Child | None) -> None:
        if child is not None and child.state in {ProcessState.BACKOFF, ProcessState.FAILED} and not child.restarting:
            how = f"ended ({child.last_exit})" if child.spawn_error is None else f"cannot start: {child.spawn_error}"
            failed = child.state is ProcessState.FAILED
            then = "failed: tried again once a minute" if failed else "it is started again"
            if self.tree.keeper_lost:
                then = "not started again, since the keeper is gone: start the service again"
            self.tell(child.name, child.state.value, f"{child.name} {how}; {then}", "error" if failed else "warning")
        self._news.set()

    async def _spread_news(self) -> None:
        told = noted = revised = None
        while True:
            self._news = trio.Event()
            if revised != self._revision:
                revised = self._revision
                revision = messages.ConfigRevision(revised, self.plan.profile)
                await self.broker.publish(messages.CONFIG_REVISION, revision, retain=True)
            lifecycle = self._lifecycle()
            if lifecycle != told:
                told = lifecycle
                await self.broker.publish(messages.LIFECYCLE, lifecycle, retain=True)
            record = self.record()
            if record != noted:
                noted = record
                with suppress(KeeperGone):
                    await adoption.save(self.keeper, record)
            while self._happenings:
                happening = self._happenings.pop(0)
                await self.broker.publish(messages.EVENTS, happening)
                await self.say(happening.message)
            await self._news.wait()

    def _lifecycle(self) -> messages.Lifecycle:
        return messages.Lifecycle(
            self.plan.service,
            self.plan.profile,
            self.tree.state.value,
            [
                messages.ProcessState(child.name, child.plan.kind.value, child.state.value, child.ready)
                for child in self.tree.generation
            ],
        )

    async def _publish_lines(self, lines: list[Line]) -> None:
        if not self.broker.read(messages.LOGS):
            return
        for batch in batches(lines):
            await self.broker.publish(messages.LOGS, log_lines(batch))

    def _write_urls(self) -> None:
        path = self._directory / "urls.json"
        draft = path.with_suffix(".json.new")
        try:
            draft.write_text(json.dumps(status.urls(self.plan), indent=2) + "\n", encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise PannierError(
                f"cannot write {path}: {error.strerror}", hint=f"see what it is: ls -ld {path}", blame=Blame.PLATFORM
            ) from error


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Tells a file from a later one of that name, whose inode may be the same number."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def log_lines(lines: Iterable[Line]) -> messages.LogLines:
    return messages.LogLines([messages.LogLine(line.process, line.stream, line.text, line.at) for line in lines])


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _then_cancel(wait: object, scope: trio.CancelScope) -> None:
    await wait()  # type: ignore[operator]
    scope.cancel()
