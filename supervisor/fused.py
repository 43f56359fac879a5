"""The process that has several of our sidecars inside: one interpreter, one loop, a bus connection for each of them.

To the supervisor it is one more sidecar, which is told over the bus whom to run. Rules:

- A sidecar does not know that it has company: what it is in a process of its own, a function of its `Context`, it is
  here. So everything but a process is its own: token, connection, descriptors, configuration, readiness, life.
- Who refuses his configuration, or fails with an error, ends alone. What ends the process ends them all.
- `run` is answered when that life ends. Lives are numbered, so that who asks again, because a connection was lost or
  the supervisor is another one, is told of the life that he means, and never begins a second one by it.
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
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.messages import RUN, STOP, WHOEVER, Member, MemberEnd


class Config(msgspec.Struct, frozen=True):
    """There is nothing to say."""


class _Life:
    """One life of a sidecar; `code` is what its process would exit with."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ending = sidecar.Ending()
        self.over = trio.Event()
        self.code = 0


class Members:
    """The sidecars inside. Their tasks are in `nursery`, whose cancellation does not reach them: each is told to end,
    and has its bus until it has."""

    def __init__(self, nursery: trio.Nursery, bus: Path) -> None:
        self._nursery = nursery
        self._bus = bus
        self._lives: dict[str, _Life] = {}  # the last one of each
        self._closing = False

    async def run(self, member: Member) -> MemberEnd:
        """Returns when that life has ended. It begins now if it is a new one and none runs; one that runs has the new
        number then. Raises Unreachable once all have to end: the end of the process is the answer."""
        life = self._lives.get(member.name)
        if life is None or (life.over.is_set() and member.life not in {life.number, WHOEVER}):
            if self._closing:
                raise _closing()
            life = self._lives[member.name] = _Life(member.life)
            self._nursery.start_soon(self._live, member, life)
        elif member.life != WHOEVER:
            life.number = member.life
        await life.over.wait()
        if self._closing:
            raise _closing()
        return MemberEnd(life.code)

    async def stop(self, member: Member) -> None:
        """Tells that life to end."""
        await trio.lowlevel.checkpoint()  # so that one whose `run` came just before is there
        life = self._lives.get(member.name)
        if life is not None and member.life in {life.number, WHOEVER}:
            life.ending.cancel()

    async def stop_all(self) -> None:
        """Tells everybody to end, lets nobody begin, and returns when all have ended."""
        self._closing = True
        for life in self._lives.values():
            life.ending.cancel()
        for life in self._lives.values():
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
            life.over.set()


def _closing() -> Unreachable:
    return Unreachable("everybody in this process is told to end")


async def serve(context: sidecar.Context[Config]) -> None:
    """Runs whom the supervisor names, until cancelled."""
    async with trio.open_nursery() as nursery:
        members = Members(nursery, context.directory / "bus.sock")
        context.bus.serve(RUN, Member, members.run)
        context.bus.serve(STOP, Member, members.stop)
        await context.bus.ready()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await members.stop_all()


if __name__ == "__main__":
    sidecar.main(FUSED, Config, serve)
