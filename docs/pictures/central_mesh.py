"""The pictures of `docs/central-mesh.md`, and the figures of its tables.

    python -m docs.pictures.central_mesh               # draws what docs/pictures/central-mesh/*.json say; `make docs`
    python -m docs.pictures.central_mesh --simulate    # first makes fleet.json anew; ten minutes of one core

`three-hosts.json` is what `tests/bench/central.py` has measured on three hosts; it is taken over from build/central if
it is newer there.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from docs.pictures.chart import Curve, Panel, svg

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = Path(__file__).resolve().parent / "central-mesh"
FRESH: Final = ROOT / "build" / "central" / "three-hosts.json"

HOSTS: Final = 1_000
SIZES: Final = (50, 100, 200, 400, 800, 1_200)
KINDS: Final = (("correlated", 25), ("correlated", 75), ("spread", 25), ("spread", 75))
PEAKS: Final = {"correlated": "peaks at the same hour", "spread": "peaks spread over the day"}
RUNS: Final = {"local": "all stays", "local-inbound": "all stays"}
SMALL: Final = 300  # cores of the Central that is too small for everybody's peak
EVENING: Final = (17.0, 24.0)
MINUTES: Final = 5  # between points of a curve


def main(words: Sequence[str]) -> None:
    """Draws everything that there are figures for."""
    FOLDER.mkdir(exist_ok=True)
    if "--simulate" in words:
        _write(FOLDER / "fleet.json", simulated())
    kept = FOLDER / "three-hosts.json"
    if FRESH.exists() and (not kept.exists() or FRESH.stat().st_mtime > kept.stat().st_mtime):
        shutil.copyfile(FRESH, kept)
    for name, picture in pictures(FOLDER).items():
        (FOLDER / name).write_text(picture)


def pictures(folder: Path) -> dict[str, str]:
    """By file name: the pictures that the figures in that folder make."""
    made: dict[str, str] = {}
    if (folder / "fleet.json").exists():
        fleet = json.loads((folder / "fleet.json").read_text())
        made["tokens.svg"] = svg([tokens(fleet)])
        made["sizing.svg"] = svg([sizing(fleet)])
        made["cores.svg"] = svg([cores(fleet)])
    if (folder / "three-hosts.json").exists():
        measured = json.loads((folder / "three-hosts.json").read_text())
        for side in ("outbound", "inbound"):
            panels = three_hosts(measured, inbound=side == "inbound")
            if panels:
                made[f"three-hosts-{side}.svg"] = svg(panels)
    return made


def simulated() -> dict[str, Any]:
    """Every run that the page speaks of."""
    import msgspec
    from pannier.supervisor.central_fleet import Assumed, simulate
    from pannier.supervisor.cli.central_simulate import numbers

    def run(peaks: str, size: float, pressure: int = 25, others: Mapping[str, Assumed] | None = None) -> dict[str, Any]:
        found = numbers(None, [f"central.enter.host_pressure={pressure}"])
        controller = None if found is None else msgspec.msgpack.decode(found)
        assumed: dict[str, Assumed] = {"hosts": HOSTS, "load.peaks": peaks, "central.cores": size}
        outcome: dict[str, Any] = msgspec.to_builtins(simulate(assumed | dict(others or {}), controller))
        sys.stderr.write(f"{peaks} {size:g} {pressure} {others}: {outcome['relieved']:.3f}\n")
        return outcome

    runs = {(peaks, pressure, size): run(peaks, size, pressure) for peaks, pressure in KINDS for size in SIZES}
    no_tokens: dict[str, Assumed] = {"central.tokens": False}
    return {
        "hosts": HOSTS,
        "sizes": [
            {"peaks": peaks, "pressure": pressure, "cores": size} | _without_minutes(outcome)
            for (peaks, pressure, size), outcome in runs.items()
        ],
        "evening": {
            "tokens": _evening(run("correlated", SMALL)),
            "flee": _evening(run("correlated", SMALL, others=no_tokens)),
            "nothing": _evening(run("correlated", SMALL, others=no_tokens | {"central.slow_ms": 1e6})),
        },
        "day": {peaks: thinned(runs[peaks, 25, SIZES[-1]]["minutes"], "used") for peaks in ("correlated", "spread")},
        "apps": [
            {"app_us": app} | _without_minutes(run("spread", SIZES[-1], others={"host.app_us": app}))
            for app in (100, 500, 1_000)
        ],
    }


def thinned(minutes: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """By hour of the day: means of a few minutes, with few digits."""
    groups = [minutes[first : first + MINUTES] for first in range(0, len(minutes), MINUTES)]
    return [(_mean(group, "hour"), _mean(group, name)) for group in groups]


def tokens(fleet: Mapping[str, Any]) -> Panel:
    """What a Central answers in time while everybody has his peak."""
    evening = fleet["evening"]
    can = evening["tokens"]["central"]["can"]
    names = (("tokens", "tokens"), ("flee", "none; hosts leave a slow Central"), ("nothing", "none"))
    curves = [Curve(name, evening[key]["served_rps"], colour) for colour, (key, name) in enumerate(names)]
    return Panel(
        f"Answered in time by a Central of {SMALL} cores, {fleet['hosts']} hosts, peaks at the same hour",
        "hour of the day",
        "requests/s",
        [*curves, Curve("what it can do", [(EVENING[0], can), (EVENING[1], can)], 3, dashed=True)],
        every=1,
    )


def sizing(fleet: Mapping[str, Any]) -> Panel:
    """How much relief how many cores bring."""
    curves = [
        Curve(
            f"{PEAKS[peaks].split(maxsplit=1)[1]}, {pressure} %",
            [
                (run["cores"], 100 * run["relieved"])
                for run in fleet["sizes"]
                if (run["peaks"], run["pressure"]) == (peaks, pressure)
            ],
            colour,
        )
        for colour, (peaks, pressure) in enumerate(KINDS)
    ]
    return Panel(
        f"How large a Central must be: {fleet['hosts']} hosts; when they peak, at which pressure work leaves",
        "cores of the Central",
        "% of starving host-seconds relieved",
        curves,
        top=100.0,
        log_x=True,
    )


def cores(fleet: Mapping[str, Any]) -> Panel:
    """What of a Central is in use through the day."""
    return Panel(
        f"Cores in use at a Central that is large enough, {fleet['hosts']} hosts",
        "hour of the day",
        "cores",
        [Curve(name, fleet["day"][key], colour) for colour, (key, name) in enumerate(PEAKS.items())],
        every=4,
    )


def three_hosts(measured: Mapping[str, Any], *, inbound: bool) -> list[Panel]:
    """What was measured on three hosts: a panel for each quantity, a curve for each run, by time since the peak."""
    wanted = (
        ("weight", "Weight: of a hundred connections that could leave, so many have", "points", 100.0),
        ("app_rps", "What the app does", "requests/s", None),
        ("mesh_cpu_percent", "The mesh on the starving host", "% of a core", None),
        ("cgroup_pressure", "CPU pressure of the app's control group", "% of time", 100.0),
    )
    runs = [run for run in measured["runs"] if run["name"].endswith("inbound") == inbound]
    return [
        Panel(
            title,
            "seconds since the peak began",
            unit,
            [
                Curve(RUNS.get(run["name"], run["name"]), _series(run, name), colour)
                for colour, run in enumerate(runs)
                if _series(run, name)
            ],
            top=top,
            height=120,
            every=4,
        )
        for name, title, unit, top in wanted
        if any(_series(run, name) for run in runs)
    ]


def _series(run: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    return [
        (round(sample["t_s"] - run["peak_s"], 2), sample[name])
        for sample in run["samples"]
        if sample.get(name) is not None
    ]


def _evening(outcome: Mapping[str, Any]) -> dict[str, Any]:
    minutes = [minute for minute in outcome["minutes"] if EVENING[0] <= minute["hour"] <= EVENING[1]]
    return _without_minutes(outcome) | {"served_rps": thinned(minutes, "served")}


def _without_minutes(outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in outcome.items() if name != "minutes"}


def _mean(minutes: Sequence[Mapping[str, float]], name: str) -> float:
    return float(f"{sum(minute[name] for minute in minutes) / len(minutes):.4g}")


def _write(path: Path, data: Mapping[str, Any]) -> None:
    """A line for each run, so that a diff shows which has changed."""
    lines = (
        json.dumps(data, separators=(",", ":")).replace('{"peaks"', '\n{"peaks"').replace('{"app_us"', '\n{"app_us"')
    )
    path.write_text(lines.replace('":{"here"', '":\n{"here"').replace('"day"', '\n"day"') + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
