"""A bed of three hosts: `shop` leans on a Central, calls `origin` and is called by it.

    load ──► shop's proxy (outbound) ──► [Central ──►] origin's proxy ──► origin
    load ──► origin's proxy (outbound) ──► [Central ──►] shop's proxy ──► shop's app

What the app's host has left is what the row says: by itself it is a host on which nobody ever waits, whatever else this
machine does, so that work leaves when somebody asks for it, and only then.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.faults.bed import SHOP, Bed, Stage, app
from tests.faults.load import Aim, Flow
from tests.faults.waiting import wait_until
from tests.system.host import PATIENCE
from tests.system.three_hosts import APP, CENTRAL, ORIGIN, ThreeHosts, known

PORTS: Final = {SHOP: 9000, ORIGIN: 9001}
PUBLIC: Final = {SHOP: 18080, ORIGIN: 18081}
NAMES: Final = (CENTRAL, ORIGIN, SHOP)


class Leant(Bed):
    """`three` are the hosts."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        assert stage.leaning is not None
        self._stack = ExitStack()
        try:
            self.three = self._stack.enter_context(ThreeHosts(self.folder, stage.leaning))
        except BaseException:
            self._stack.close()
            raise

    def make(self) -> None:
        self.three.start("pilot")
        for name in NAMES:
            self.begin(name)
        self.settle()

    def begin(self, name: str) -> None:
        """Starts a service; does not wait."""
        if name == CENTRAL:
            self.three.start(CENTRAL)
            return
        port = PORTS[name]
        self.three.start(name, "--port", str(PUBLIC[name]), "--app-port", str(port), command=app(port, self))

    def settle(self) -> None:
        """Waits until all are ready and linked, know one another, and all work is at home."""
        for name in NAMES:
            running = self.three.running[name]
            wait_until(partial(self._is_ready, name), f"{name} is ready", within=2 * PATIENCE)
            assert running.poll() is None, f"{name} ended: {self.three.log(name).read_text()[-300:]!r}"
        wait_until(self.know_each_other, "they know one another", within=PATIENCE)
        wait_until(self.is_home, "the host is linked, and all work at home", within=PATIENCE)

    def _is_ready(self, name: str) -> bool:
        return self.three.ready(name) or self.three.running[name].poll() is not None

    def know_each_other(self) -> bool:
        hosts = self.three.hosts
        return bool(known(hosts[APP], SHOP, ORIGIN)) and bool(known(hosts[ORIGIN], ORIGIN, SHOP))

    def is_home(self) -> bool:
        """Whether the host could lean on its Central, and does not."""
        return self.three.linked() and self.three.state().weight == 0

    def aim(self, flow: Flow, to: str) -> Aim:
        if to == "outbound":
            return Aim(self.three.address(SHOP, "outbound"), ORIGIN, self.three.network.inside(APP))
        return Aim(self.three.address(ORIGIN, "outbound"), SHOP, self.three.network.inside(ORIGIN))

    def close(self) -> None:
        try:
            self._stack.close()
        finally:
            super().close()


def leant(bed: Bed) -> Leant:
    """The bed, as one that leans on a Central."""
    assert isinstance(bed, Leant)
    return bed
