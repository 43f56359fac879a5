"""What a discovery sidecar costs beside a fleet that changes all the time, and whether its calls fail meanwhile.

    python -m tests.bench.fleet_follower [--rate 1000] [--seconds 30]

A real pilot and 10 000 instances as in `make bench-fleet`, one update of one of them a millisecond; a real service that
follows twenty of its 200 services and calls a real one, 200 times a second. Prints, in per cent of a core, what each of
its processes has spent, and what became of the calls. Figures for people, on a quiet machine: pilot, fleet, service and
load share the cores.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.bench.fleet_processes import TICKS, Client, Fleet, Pilot
from tests.bench.processes import PROC, BenchmarkError
from tests.system.host import Host, until
from tests.system.load import Load
from tests.system.origin import Origin
from tests.system.test_pilot import UnixConnection, ask

FLEET: Final = Fleet(instances=10_000, hosts=100, lease_ms=10_000)
FOLLOWED: Final = 20
PER_SERVICE: Final = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="updates a second (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pannier-follower-") as name:
        folder = Path(name)
        with Pilot(folder, str(folder / "store.sqlite")) as pilot:
            follow(pilot, Host(folder), given.rate, given.seconds)


def follow(pilot: Pilot, host: Host, rate: int, seconds: int) -> None:
    names = [f"service-{number}" for number in range(FOLLOWED)]
    profile = host.folder / "dev.toml"
    token = host.folder / "s" / "pilot" / "token"
    profile.write_text(
        f'extends = "dev"\n[sidecars.discovery.pilot]\naddresses = ["{pilot.place("tcp")}"]\ntoken_file = "{token}"\n'
        f'advertise = "127.0.0.1"\nfollow = {[*names, "orders"]}\n'
    )
    origin = Origin(host, shutil.which("nginx") or "/usr/sbin/nginx")
    try:
        origin.serve("orders", "--profile", str(profile))
        origin.serve("web", "--profile", str(profile))
        with Client(pilot.place("tcp"), pilot.token, FLEET, {}) as client:
            client.tell("open")
            until(lambda: known(host) >= FOLLOWED * PER_SERVICE, within=60.0)
            with Load(host.urls("web")["outbound"], "orders", rate=200) as load:
                before, began = spent(host), time.monotonic()
                said = client.tell(f"churn {rate} {seconds}")
                took, after = time.monotonic() - began, spent(host)
        if said["errors"]:
            raise BenchmarkError(f"the fleet was told what is wrong: {said['first_error']}")
        print(f"{said['changes']} updates in {took:.1f} s, {known(host)} instances followed of {FLEET.instances}")
        for process, ticks in sorted(after.items()):
            print(f"  {process:14} {100 * (ticks - before.get(process, 0)) / TICKS / took:5.1f} % of a core")
        print(f"{load.issued} calls, {load.failed} failed, slowest {load.slowest_s * 1000:.0f} ms")
        load.assert_all_answered()
    finally:
        for process in host.started:
            process.terminate()
            process.communicate(timeout=20)


def known(host: Host) -> int:
    """Instances that the service knows by a pilot."""
    _, found = ask(UnixConnection(host.runtime / "web" / "api.sock"), "GET", "/v1/services")
    return sum(row["source"] == "pilot" for cluster in found["clusters"] for row in cluster["endpoints"])


def spent(host: Host) -> Mapping[str, int]:
    """Ticks of each process of the service, user and system."""
    found = {}
    for name, pid in host.pids("web").items():
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        found[name] = int(fields[11]) + int(fields[12])
    return found


if __name__ == "__main__":
    main()
