"""What the policy plane does in a second, between real processes: `make bench-plane`, figures in docs/policy-plane.md.

- `_native.Rings.drain` in batches, while another process fills the rings;
- from the call of `publish` to the moment when every worker of a real `pannierd proxy` says that the table is in force.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from pannier import _native

from tests.proxy.process import Proxy

SECONDS = 3.0
PUBLISHES = 500
RULES = 1_000
WORKERS = 2


def drained(fill: Path) -> str:
    """Records a second that Python drains in batches."""
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(Path(folder))
        try:
            fd = proxy.fds["rings"]
            command = [str(fill), "fill", str(fd)]
            # Somebody must be enrolled, or nobody's ring is looked at.
            _start(proxy)
            proxy.kill()
            filler = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.PIPE)
            records = batches = skipped = 0
            started = time.perf_counter()
            while (elapsed := time.perf_counter() - started) < SECONDS:
                found = proxy.rings.drain(-1, False, 8192)
                records, batches, skipped = records + found.records, batches + 1, skipped + found.skipped
            filler.communicate()
        finally:
            proxy.close()
    rate = records / elapsed / 1e6
    return f"rings, drained by Python: {rate:.1f} M records/s, {records // max(batches, 1)} a call, {skipped} skipped"


def published() -> str:
    """Milliseconds from `publish` until a table of so many rules is in force on every worker."""
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(Path(folder), workers=WORKERS)
        try:
            _start(proxy)
            writer = _native.TableWriter("endpoints", proxy.fds["table.endpoints"])
            times = sorted(_in_force(proxy, writer, number) for number in range(PUBLISHES))
        finally:
            proxy.close()
    half, most = times[len(times) // 2], times[int(len(times) * 0.99)]
    return (
        f"table of {RULES} endpoints, published to in force on {WORKERS} workers: "
        f"p50 {half:.2f} ms, p99 {most:.2f} ms, longest {times[-1]:.2f} ms of {PUBLISHES}"
    )


def _start(proxy: Proxy) -> None:
    _native.TableWriter("base", proxy.fds["table.base"]).publish(msgspec.msgpack.encode(proxy.base))
    proxy.start()


def _in_force(proxy: Proxy, writer: _native.TableWriter, number: int) -> float:
    endpoints = [
        {"id": f"orders-{n}", "slot": n, "incarnation": 1, "address": f"127.0.0.1:{1024 + n}", "weight": 1 + number % 2}
        for n in range(RULES)
    ]
    payload = msgspec.msgpack.encode({"clusters": [{"name": "orders", "endpoints": endpoints}]})
    started = time.perf_counter()
    generation = writer.publish(payload)
    while proxy.in_force()["endpoints"] != generation:
        pass
    return (time.perf_counter() - started) * 1_000


def main() -> None:
    """Prints one line a figure; the first argument is the program that fills rings."""
    fill = Path(sys.argv[1])
    subprocess.run([str(fill)], check=True)
    print(drained(fill))
    print(published())


if __name__ == "__main__":
    main()
