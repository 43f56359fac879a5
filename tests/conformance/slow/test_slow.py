"""slowhttptest against the proxy: who holds connections by being slow is cut by the deadlines, and nobody else notices.

The timeouts are short so that the tests are; the floor of 240 B/s for a body begins after 10 s, as always.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.slow.honest import honest_caller
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy, wait_until
from tests.proxy.wire import Message, answer

ATTACKERS = 60
#: How long slowhttptest would go on.
HOLD_S = 60
#: Of a header's end; and of any pause, which none of the attackers makes but the one that reads slowly.
TIMEOUTS = {"header_ms": 1000, "idle_ms": 2000}


@dataclass(frozen=True)
class Attack:
    """How slowhttptest is called, and as what the proxy counts those that it cuts."""

    options: tuple[str, ...]
    target: str
    status: int
    flag: str


HEADERS = Attack(("-H", "-i", "1", "-x", "24"), "/", 408, "DT")
BODY = Attack(("-B", "-i", "1", "-x", "10", "-s", "8192"), "/", 408, "DT")
READ = Attack(("-X", "-n", "1", "-z", "32", "-w", "16", "-y", "512"), "/large", 200, "DC")


@pytest.fixture
def proxy(short_path: Path) -> Iterator[Proxy]:
    """A proxy before an app that can give a large answer."""
    large, small = answer(bytes(8 << 20)), answer()

    def give(request: Message) -> bytes:
        return large if request.target == "/large" else small

    with closing(Origin()) as origin, closing(Proxy(short_path)) as proxy:
        origin.answer = give
        proxy.publish_base(app=origin.address, timeouts=TIMEOUTS)
        proxy.start()
        yield proxy


@contextmanager
def attacking(program: str, proxy: Proxy, how: Attack) -> Iterator[subprocess.Popen[bytes]]:
    """Runs slowhttptest, which would hold on for a minute; it ends by itself once it has no connection left."""
    host, port = proxy.inbound
    command = [program, *how.options, "-c", str(ATTACKERS), "-r", str(ATTACKERS), "-l", str(HOLD_S), "-v", "0"]
    with subprocess.Popen([*command, "-u", f"http://{host}:{port}{how.target}"], stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def count(proxy: Proxy, how: Attack) -> int:
    return sum(s.count for s in proxy.counters.series() if (s.status, s.flag) == (how.status, how.flag))


@pytest.mark.parametrize("how", [HEADERS, BODY, READ], ids=["headers", "body", "read"])
def test_slow_callers_are_cut_and_nobody_else_notices(
    proxy: Proxy, how: Attack, require_peer: Callable[[str], str]
) -> None:
    program = require_peer("slowhttptest")
    with honest_caller(proxy) as tally, attacking(program, proxy, how) as process:
        began = time.monotonic()
        while process.poll() is None and count(proxy, how) < ATTACKERS:
            time.sleep(0.05)
        assert count(proxy, how) >= ATTACKERS
        assert time.monotonic() - began < HOLD_S / 2, "they were cut, they did not go"
    assert tally.failed == 0
    assert tally.served > 100
    wait_until(lambda: proxy.totals("connections_closed") == proxy.totals("connections_accepted"))
