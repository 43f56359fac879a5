"""`make bench-fleet`: what a pilot costs as the fleet grows, and how long a change takes to everybody who follows.

    python -m tests.bench.fleet [--quick] [--only NAME ...] [--store sqlite|etcd] [--over tcp|unix]

A real pilot on one core, and `pannier-bench fleet` on another: each of its hosts registers ten instances and follows
twenty services over one connection, as a discovery sidecar does, and holds whatever it is told against what was
registered. `convergence` is from the sending of a change until a follower knows it or a newer one, of every change and
every follower. CPU is user and system time of the pilot, in per cent of one core. Figures for people, on a quiet
machine; they are printed, and written to build/bench/fleet.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.fleet_processes import Client, Fleet, Pilot
from tests.bench.processes import BenchmarkError
from tests.sidecars.pilot.real_etcd import running_etcd

ROOT: Final = Path(__file__).parents[2]
WRITTEN: Final = ROOT / "build" / "bench" / "fleet.json"
SIZES: Final = (100, 300, 1_000, 3_000, 10_000)
PER_HOST: Final = 10
LEASE_MS: Final = 10_000


class Row(msgspec.Struct, frozen=True):
    """What a scenario has come to. Convergence in milliseconds; `cpu` in per cent of a core, `rss` in MB, of the pilot
    alone; rates a second; `more` is what only this scenario has."""

    scenario: str
    instances: int
    hosts: int
    seconds: float
    changes: int
    p50: float
    p99: float
    longest: float
    cpu: float
    rss: float
    renewals: float
    megabytes: float
    errors: int
    first_error: str
    more: dict[str, float] = {}


@dataclass(frozen=True)
class Bench:
    """How all scenarios are run."""

    quick: bool
    over: str
    etcd: str | None

    @contextlib.contextmanager
    def fleet(self, instances: int, *, xds: bool = False) -> Iterator[tuple[Pilot, Client]]:
        """A pilot and a client that has not connected yet."""
        with tempfile.TemporaryDirectory(prefix="pannier-fleet-") as name, contextlib.ExitStack() as held:
            folder = Path(name)
            store = str(folder / "store.sqlite")
            if self.etcd is not None:
                (folder / "etcd").mkdir()
                store = f"etcd://127.0.0.1:{held.enter_context(running_etcd(self.etcd, folder / 'etcd'))}"
            pilot = held.enter_context(Pilot(folder, store))
            fleet = Fleet(instances, max(instances // PER_HOST, 1), LEASE_MS)
            options = {"xds": pilot.xds} if xds else {}
            yield pilot, held.enter_context(Client(pilot.place(self.over), pilot.token, fleet, options))

    def long(self, seconds: int) -> int:
        """So many seconds, or fewer if it is to be quick."""
        return max(seconds // 10, 2) if self.quick else seconds


def told(name: str, pilot: Pilot, client: Client, command: str, **more: float) -> Row:
    """One command of the client, and what the pilot has spent on it."""
    before, began = pilot.cpu_seconds(), time.monotonic()
    said = client.tell(command)
    spent = Spent(pilot.cpu_seconds() - before, time.monotonic() - began, pilot.resident_bytes())
    return row(name, client.fleet, said, spent, more)


@dataclass(frozen=True)
class Spent:
    """What the pilot has spent, within which time, and what it has of memory."""

    cpu: float
    seconds: float
    resident: int


def row(name: str, fleet: Fleet, said: Mapping[str, object], spent: Spent, more: dict[str, float]) -> Row:
    """A row of what the client says and the pilot has spent."""
    number = {key: float(value) for key, value in said.items() if isinstance(value, int | float)}
    return Row(
        scenario=name,
        instances=fleet.instances,
        hosts=fleet.hosts,
        seconds=round(spent.seconds, 2),
        changes=int(number["changes"]),
        p50=number["p50_ms"],
        p99=number["p99_ms"],
        longest=number["max_ms"],
        cpu=round(100 * spent.cpu / spent.seconds, 1),
        rss=round(spent.resident / 1e6, 1),
        renewals=round(number["renewals"] / spent.seconds, 1),
        megabytes=round(number["bytes"] / spent.seconds / 1e6, 2),
        errors=int(number["errors"]),
        first_error=str(said["first_error"]),
        more=more,
    )


def restarted(name: str, pilot: Pilot, client: Client) -> Row:
    """The pilot is killed and started again; the row is about the new one, until everybody knows everything."""
    client.begin("restart")
    began = time.monotonic()
    pilot.kill()
    pilot.start()
    down = time.monotonic() - began
    said = client.answer()
    spent = Spent(pilot.cpu_seconds(), time.monotonic() - began, pilot.resident_bytes())
    more = {
        "down_s": round(down, 2),
        "reconnects_a_second": float(str(said["opened_a_second"])),
        "cpu_s": round(spent.cpu, 2),
    }
    return row(name, client.fleet, said, spent, more)


def scale(bench: Bench) -> Iterator[Row]:
    """What a fleet costs while nothing changes, one thing changes a second, and its pilot starts again."""
    for instances in SIZES[:2] if bench.quick else SIZES:
        with bench.fleet(instances) as (pilot, client):
            empty = pilot.resident_bytes()
            yield told("open", pilot, client, "open", empty_mb=round(empty / 1e6, 1))
            yield told("standing", pilot, client, f"stand {bench.long(20)}")
            yield told("one a second", pilot, client, f"churn 1 {bench.long(20)}")
            yield restarted("restart", pilot, client)


def one_change(bench: Bench) -> Iterator[Row]:
    """One change at a time."""
    with bench.fleet(largest(bench)) as (pilot, client):
        client.tell("open")
        yield told("one-change", pilot, client, f"changes {10 if bench.quick else 100} 100")


def churn(bench: Bench) -> Iterator[Row]:
    """A thousand changes a second."""
    with bench.fleet(largest(bench)) as (pilot, client):
        client.tell("open")
        yield told("churn", pilot, client, f"churn {100 if bench.quick else 1000} {bench.long(30)}")


def xds(bench: Bench) -> Iterator[Row]:
    """Both for who follows over delta ADS, twenty services by name."""
    with bench.fleet(largest(bench), xds=True) as (pilot, client):
        yield told("xds open", pilot, client, "open")
        yield told("xds standing", pilot, client, f"stand {bench.long(20)}")
        yield told("xds one-change", pilot, client, f"changes {10 if bench.quick else 100} 100")
        yield told("xds churn", pilot, client, f"churn {100 if bench.quick else 1000} {bench.long(30)}")


def slow(bench: Bench) -> Iterator[Row]:
    """The same with ten who follow everything and read nothing."""
    with bench.fleet(largest(bench)) as (pilot, client):
        client.tell("open")
        before = pilot.resident_bytes()
        client.tell("slow 10")
        found = told("slow", pilot, client, f"churn {100 if bench.quick else 500} {bench.long(60)}")
        more = {"slow": 10.0, "let_go": float(str(client.tell("gone")["gone"]))}
        more |= {"before_mb": round(before / 1e6, 1), "most_mb": round(pilot.most_resident_bytes() / 1e6, 1)}
        yield msgspec.structs.replace(found, more=more)


def restart(bench: Bench) -> Iterator[Row]:
    """The pilot starts again under the whole fleet."""
    with bench.fleet(largest(bench)) as (pilot, client):
        client.tell("open")
        yield restarted("restart", pilot, client)


SCENARIOS: Final[Mapping[str, Callable[[Bench], Iterator[Row]]]] = {
    "scale": scale,
    "one-change": one_change,
    "churn": churn,
    "xds": xds,
    "slow": slow,
    "restart": restart,
}
COLUMNS: Final = (
    ("scenario", 14),
    ("instances", 9),
    ("hosts", 5),
    ("seconds", 7),
    ("changes", 7),
    ("p50", 8),
    ("p99", 8),
    ("longest", 8),
    ("cpu", 6),
    ("rss", 6),
    ("renewals", 8),
    ("megabytes", 9),
    ("errors", 6),
)


def largest(bench: Bench) -> int:
    """How many instances a scenario has that is not about their number."""
    return SIZES[1] if bench.quick else SIZES[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and short: to see that it works")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--store", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--over", choices=("tcp", "unix"), default="tcp")
    given = parser.parse_args()
    etcd = shutil.which("etcd") if given.store == "etcd" else None
    if given.store == "etcd" and etcd is None:
        raise SystemExit("etcd is not installed: make peers")
    bench = Bench(given.quick, given.over, etcd)
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    print(f"{given.store} over {given.over}, {cores} cores, load {load:.1f} before")
    print("convergence in ms, cpu in % of a core, rss in MB, renewals and megabytes a second")
    print(" ".join(f"{name:>{width}}" for name, width in COLUMNS), flush=True)
    rows: list[Row] = []
    try:
        for name in given.only:
            for found in SCENARIOS[name](bench):
                rows.append(found)
                print(line(found), flush=True)
    except BenchmarkError as error:
        raise SystemExit(f"bench-fleet: {error}") from error
    write(rows, {"store": given.store, "over": given.over, "cores": cores, "load_before": load, "quick": given.quick})
    if any(found.errors for found in rows):
        raise SystemExit("bench-fleet: what was told was wrong, see above")


def line(found: Row) -> str:
    """A row as it is printed."""
    text = " ".join(f"{getattr(found, name):>{width}}" for name, width in COLUMNS)
    extra = "".join(f" {name}={value:g}" for name, value in found.more.items())
    return text + extra + (f"\n  first error: {found.first_error}" if found.errors else "")


def write(rows: Sequence[Row], setting: Mapping[str, object]) -> None:
    """The figures, for the page of docs and whoever compares."""
    WRITTEN.parent.mkdir(parents=True, exist_ok=True)
    document = {"setting": setting, "rows": rows}
    WRITTEN.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


if __name__ == "__main__":
    main()
