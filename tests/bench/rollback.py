"""How long a rollback takes: from the request on the bus until the tables are published, and until the proxy has them.

    python -m tests.bench.rollback [--rules 1000] [--times 40]

A service of `staging` with so many routes goes back and forth between two revisions that differ in the tables `routes`
and `base`. A thread watches the generation of `routes` in the shared memory; nothing is asked of anybody for it. What
else this host does is in the figures: they are printed with its load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio
from pannier import _native
from pannier.shared.bus import open_bus
from pannier.shared.messages import Changed, LiveChange, LiveSetting, Rollback

from tests.system.host import PATIENCE, Host, free_port

CHANGES = {"sidecars.traffic.zone": "b", "outbound.unknown": "deny"}
ANSWER_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--times", type=int, default=40)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pannier-") as folder:
        host = Host(Path(folder))
        (host.folder / "own.toml").write_text(profile(asked.rules))
        port = free_port()
        command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port))
        options = ("-p", "./own.toml", "--port", "0", "--outbound-port", "auto", "--set", "orphan_grace=1s")
        service = host.serve("orders", port, *options, command=command, stderr=subprocess.DEVNULL)
        try:
            measured = trio.run(measure, host, host.pids("orders")["proxy"], asked.times)
        finally:
            service.terminate()
            service.wait(PATIENCE)
    load = [round(each, 1) for each in os.getloadavg()]
    print(json.dumps({"rules": asked.rules, "times": asked.times, "load": load, **measured}, indent=2))


def profile(rules: int) -> str:
    """`staging` with so many routes to one service."""
    routes = (
        f'[[sidecars.traffic.routes]]\nname = "r{n}"\nhosts = ["h{n}.example"]\n'
        f'matches = [{{ prefix = "/a{n}" }}]\nto = {{ stock = 100 }}\n'
        for n in range(rules)
    )
    return 'extends = "staging"\n[services]\nstock = [{ address = "127.0.0.1:9" }]\n' + "".join(routes)


async def measure(host: Host, proxy: int, times: int) -> dict[str, dict[str, float]]:
    """Milliseconds of so many rollbacks: until published, until in force, until answered."""
    routes = _native.TableReader("routes", opened(proxy, "table.routes", os.O_RDONLY))
    counters = _native.Counters(opened(proxy, "counters", os.O_RDWR))
    published: list[float] = []
    in_force: list[float] = []
    answered: list[float] = []

    def watch(before: int, began: float) -> None:
        while (now := routes.generation()) == before:
            time.sleep(0.0001)
        published.append(time.perf_counter() - began)
        while all(each.in_force.get("routes", 0) < now for each in counters.enrolled() if each.alive):
            time.sleep(0.0001)
        in_force.append(time.perf_counter() - began)

    async with open_bus(host.runtime / "orders" / "bus.sock") as bus:
        changes = [LiveSetting(path.split("."), msgspec.msgpack.encode(value)) for path, value in CHANGES.items()]
        await bus.request("supervisor", "live.set", LiveChange(changes), Changed, timeout=ANSWER_S)
        for time_ in range(times):
            began = time.perf_counter()
            watcher = threading.Thread(target=watch, args=(routes.generation(), began))
            watcher.start()
            revision = "1" if time_ % 2 == 0 else "2"
            await bus.request("supervisor", "config.rollback", Rollback(revision), Changed, timeout=ANSWER_S)
            answered.append(time.perf_counter() - began)
            await trio.to_thread.run_sync(watcher.join)
            await trio.sleep(0.05)  # what the last one still does is not part of the next
    return {
        "published_ms": summary(published),
        "in_force_ms": summary(in_force),
        "answered_ms": summary(answered),
    }


def opened(pid: int, name: str, flags: int) -> int:
    """The segment of that name, as a process holds it."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).startswith(f"/memfd:{name} "):
            return os.open(link, flags)
    raise SystemExit(f"process {pid} holds no {name}")


def summary(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    places = {"min": 0, "p50": len(ordered) // 2, "p90": len(ordered) * 9 // 10, "max": len(ordered) - 1}
    return {name: round(1000 * ordered[place], 1) for name, place in places.items()}


if __name__ == "__main__":
    main()
