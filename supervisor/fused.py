"""The process that has several of our sidecars inside: one interpreter, one loop, a bus connection for each of them.

To the supervisor it is one more sidecar, which is told over the bus whom to run. Rules:

- A sidecar does not know that it has company: what it is in a process of its own, a function of its `Context`, it is
  here. So everything but a process is its own: token, connection, descriptors, configuration, readiness, life.
- Who refuses his configuration, or fails with an error, ends alone. What ends the process ends them all.
- `run` is answered when that life ends, so that a supervisor who has taken over hears of the end by asking again.
- SIGTERM ends everybody in order. The death of the supervisor ends nobody.

It must import nothing of the supervisor, as the zygote, whose child it is: the memory would be in every sidecar.
"""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path

import msgspec
import trio
from pannier.shared import sidecar
from pannier.shared.envelope import FUSED
from pannier.shared.errors import PannierError
from pannier.shared.messages import RUN, STOP, Member, MemberEnd, SidecarName


class Config(msgspec.Struct, frozen=True):
    """There is nothing to say."""


class _Life:
    """One life of a sidecar; `code` is what its process would exit with."""

    def __init__(self) -> None:
        self.ending = sidecar.Ending()
        self.over = trio.Event()
        self.code = 0


class Members:
    """The sidecars inside. Their tasks are in `nursery`, whose cancellation does not reach them: each is told to end,
    and has its bus until it has."""

    def __init__(self, nursery: trio.Nursery, bus: Path) -> None:
        self._nursery = nursery
        self._bus = bus
        self._lives: dict[str, _Life] = {}

    async def run(self, member: Member) -> MemberEnd:
        """Starts a sidecar unless it runs, and returns when it has ended."""
        life = self._lives.get(member.name)
        if life is None:
            life = self._lives[member.name] = _Life()
            self._nursery.start_soon(self._live, member, life)
        await life.over.wait()
        return MemberEnd(life.code)

    async def stop(self, member: SidecarName) -> None:
        """Tells a sidecar to end."""
        await trio.lowlevel.checkpoint()  # so that one whose `run` came just before is there
        if (life := self._lives.get(member.name)) is not None:
            life.ending.cancel()

    async def stop_all(self) -> None:
        """Tells everybody to end, and returns when all have."""
        lives = tuple(self._lives.values())
        for life in lives:
            life.ending.cancel()
        for life in lives:
            await life.over.wait()

    async def _live(self, member: Member, life: _Life) -> None:
        try:
            config = importlib.import_module(f"{member.module}.config").Config
            serve = importlib.import_module(f"{member.module}.service").serve
            with trio.CancelScope(shield=True):
                await sidecar.live(member.name, config, serve, self._bus, member.token, ending=life.ending)
        except* PannierError as group:
            life.code = sidecar.complain(member.name, group)
        except* Exception as group:
            traceback.print_exception(group)
            life.code = 1
        finally:
            del self._lives[member.name]
            life.over.set()


async def serve(context: sidecar.Context[Config]) -> None:
    """Runs whom the supervisor names, until cancelled."""
    async with trio.open_nursery() as nursery:
        members = Members(nursery, context.directory / "bus.sock")
        context.bus.serve(RUN, Member, members.run)
        context.bus.serve(STOP, SidecarName, members.stop)
        await context.bus.ready()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await members.stop_all()


if __name__ == "__main__":
    sidecar.main(FUSED, Config, serve)
