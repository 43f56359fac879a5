"""Proxies that are a Central, or a host that leans on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from pannier.shared.central import CentralSettings, CentralState, Enter, Leave, states_of
from pannier.supervisor.central_table import controller

from tests.proxy.central.peers import Central
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy, wait_until

#: Nothing on the machine under test moves anything by itself: what leaves was forced to.
CALM = CentralSettings(
    enter=Enter(
        host_pressure=100.0, cgroup_pressure=100.0, throttled=100.0, queue_wait="1h", holds="15m", within="15m"
    ),
    leave=Leave(calm="1h"),
    dwell="2h",
    step_down=0.1,
)
Condition = Callable[[CentralState], bool]


class Meshed(Proxy):
    """A proxy with a table `central`, and the listener that it needs for it."""

    def __init__(self, directory: Path, door: str, *, workers: int = 1) -> None:
        """`door` is `gateway` or `passthrough`."""
        super().__init__(directory, workers=workers)
        self.door = self._listen(door)
        self.central: dict[str, Any] = {
            "service": "central",
            "addresses": [],
            "plain": [],
            "tls": None,
            "outbound": "relay",
            "inbound": False,
            "instance": "one",
            "passthrough": None,
            "listener": None,
            "api": str(directory / "api.sock"),
            "controller": controller(CALM),
            "forced": None,
            "gateway": None,
        }
        if door == "gateway":
            where = "{}:{}".format(*self.door)
            self.central |= {"outbound": "off", "gateway": {"capacity": 1e5, "hosts": 16, "address": where}}
        self._forced = 0

    def publish_central(self, **changes: Any) -> int:
        """Publishes table `central` with these keys changed."""
        self.central |= changes
        return self._publish("central", self.central)

    def force(self, weight: float) -> None:
        """Forces a weight; returns once it is in force."""
        self._forced += 1
        self.publish_central(forced={"weight": weight, "id": self._forced})
        self.wait_state(lambda state: state.forced and state.weight == weight)

    def state(self) -> CentralState:
        """What it says of itself; fails if it says nothing, or what nobody understands."""
        bulletins = self.counters.central()
        (state,) = states_of(bulletins)
        assert msgspec.msgpack.decode(bulletins[0]).keys() == set(CentralState.__struct_fields__)
        return state

    def wait_state(self, condition: Condition) -> CentralState:
        """Waits until it says what fulfils `condition`; that."""
        found: list[CentralState] = []

        def holds() -> bool:
            found[:] = [state for state in states_of(self.counters.central()) if condition(state)]
            return bool(found)

        try:
            wait_until(holds)
        except AssertionError as error:
            raise AssertionError(f"waited in vain: {self.state()}") from error
        return found[0]


class StartMeshed(Protocol):
    """Starts a proxy with these keys of table `central`."""

    def __call__(self, *, base: dict[str, Any] | None = None, workers: int = 1, **central: Any) -> Meshed: ...


@pytest.fixture
def start_meshed(short_path: Path) -> Iterator[Callable[..., Meshed]]:
    """Starts proxies, which end with the test."""
    with ExitStack() as stack:

        def start(door: str, *, base: dict[str, Any] | None = None, workers: int = 1, **central: Any) -> Meshed:
            directory = short_path / str(len(list(short_path.iterdir())))
            directory.mkdir()
            proxy = stack.enter_context(closing(Meshed(directory, door, workers=workers)))
            proxy.publish_base(**(base or {}))
            generation = proxy.publish_central(**central)
            proxy.start()
            wait_until(lambda: proxy.in_force()["central"] == generation)
            return proxy

        yield start


@pytest.fixture
def start_gateway(start_meshed: Callable[..., Meshed]) -> StartMeshed:
    """Starts Centrals."""
    return lambda **how: start_meshed("gateway", **how)


@pytest.fixture
def start_host(start_meshed: Callable[..., Meshed], origin: Origin) -> StartMeshed:
    """Starts hosts: the origin is the app, and the cluster `up` that the app calls."""
    own = {"service": "shop", "app": origin.address}
    own_up = own | {"clusters": [{"name": "up", "endpoints": [{"address": origin.address}]}]}
    return lambda *, base=None, **how: start_meshed("passthrough", base=own_up | (base or {}), **how)


@pytest.fixture
def start_central() -> Iterator[Callable[..., Central]]:
    """Starts Centrals that the test plays itself."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(closing(Central(**how)))


@pytest.fixture
def central(start_central: Callable[..., Central]) -> Central:
    """The Central that the host knows."""
    return start_central()


@pytest.fixture
def host(start_host: StartMeshed, central: Central) -> Meshed:
    """A host that leans on `central`, which grants it something."""
    proxy = start_host(addresses=[central.address])
    proxy.wait_state(lambda state: state.granted_rps > 0)
    return proxy
