"""Two processes of the proxy for a moment: one comes, takes the callers over, the other one drains and goes.

Both accept on the keeper's listeners and read the same tables, so there is no moment without anybody. Rules:

- Who is called `proxy` is in force. The other one is `tree.OTHER`: first who comes, and once he is ready the two
  exchange their names, with the keeper first. So a successor of this supervisor knows what to do with whomever it finds
  by that name: he goes.
- Two at most: while one goes, none comes.
- Who goes has the time of any drain; then he is killed.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Final

import msgspec
import trio
from pannier.shared.errors import UsageError
from pannier.supervisor.child import KILLED, Child
from pannier.supervisor.keeper import KeeperError, KeeperGone
from pannier.supervisor.lifecycle import ProcessState
from pannier.supervisor.plan import ProcessPlan
from pannier.supervisor.service import Service
from pannier.supervisor.tree import OTHER

SOFT_STOP: Final = signal.SIGUSR1
"""Of a proxy; `generation.rs` says what it does."""


async def take_over(service: Service, plan: ProcessPlan) -> Child:
    """Another proxy, as `plan` says, is in force when this returns; whom it replaced. Raises NotReady if it does not
    come up, and then nothing has changed; UsageError while an earlier one still goes."""
    tree = service.tree
    if OTHER in tree.children:
        raise UsageError(
            "an earlier process of the proxy still drains",
            hint=f"try again when it is gone, {service.plan.drain:g} s from its end at the latest: pannier ps",
        )
    await tree.add([msgspec.structs.replace(plan, name=OTHER)])
    try:
        await service.keeper.swap(plan.name, OTHER)
    except (KeeperError, KeeperGone):
        await tree.remove([OTHER])
        raise
    tree.exchange(plan.name, OTHER)
    return tree.children[OTHER]


async def leave(service: Service, proxy: Child) -> None:
    """Has a proxy that is replaced drain and end, at the latest by the service's deadline for that."""
    proxy.drain()
    with suppress(KeeperGone):
        await proxy.signal(SOFT_STOP)
    with trio.move_on_after(service.plan.drain):
        await proxy.wait_gone()
    await proxy.stop(signal.SIGKILL, patience=KILLED)
    service.tree.children.pop(OTHER, None)
    with suppress(KeeperError, KeeperGone):
        await service.keeper.forget(OTHER)


async def put_back(service: Service) -> None:
    """Who was replaced is in force again, and who replaced him goes."""
    name = service.plan.proxy.name
    await service.keeper.swap(name, OTHER)
    service.tree.exchange(name, OTHER)
    await leave(service, service.tree.children[OTHER])


async def finish(service: Service, pid: int) -> None:
    """Ends the replacement of a proxy that an earlier supervisor had begun: `pid` is the one that is not in force."""
    tree = service.tree
    proxy = tree.children[OTHER]
    proxy.drain()  # now, since its end may be known already
    tree.take_over(proxy, pid)
    await tree.wait_until(lambda: proxy.pid == pid or proxy.state is ProcessState.STOPPED)
    await leave(service, proxy)
