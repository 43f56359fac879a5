"""One run's result as Markdown tables; every function takes what stands in `latest.json` and gives lines.

Refused: figures that are rounded until they agree; a figure from void rounds stands there with its mark.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.phases import PHASES
from tests.bench.routes import COMPILE_MS_ALLOWED, MATCH_NS_ALLOWED
from tests.bench.targets import Target

Row = Mapping[str, Any]
NOISE = "CPU is that of the proxy process alone. A difference under 5 % is noise."


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table and the empty line after it."""
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    return [*lines, *("| " + " | ".join(cells) + " |" for cells in rows), ""]


def scenarios(rows: Sequence[Row]) -> list[str]:
    """A table for each scenario and layout."""
    lines: list[str] = []
    if any(row["void"] or row["latency_void"] for row in rows):
        lines += ["*void*: steal or foreign CPU above 2 %, or a slowed core, in every attempt; counts for nothing.", ""]
    for scenario, layout in dict.fromkeys((row["scenario"], row["layout"]) for row in rows):
        group = [row for row in rows if (row["scenario"], row["layout"]) == (scenario, layout)]
        rate = next((row["latency_at_rps"] for row in group if row["latency_at_rps"]), None)
        pace = f"; latency from an open loop at {rate} requests/s" if rate else ""
        lines += [f"## {scenario}, {layout}{pace}", ""]
        columns = ["peer", "features", "CPU µs/request", "ratio to haproxy", "rps", "p50 µs", "p99 µs"]
        lines += table([*columns, "RSS MB", "syscalls/request", ""], [_cells(row) for row in group])
    return lines


def _cells(row: Row) -> list[str]:
    marks = []
    if row["errors"]:
        marks.append(f"**{row['errors']} errors**")
    if row["void"]:
        marks.append("*void*")
    if row["latency_void"]:
        marks.append("*latency void*")
    resident = row["rss_bytes"]
    return [
        row["peer"],
        row["features"],
        _shown(row["cpu_us_per_request"], 2),
        "1" if row["key"] == "haproxy" else _ratio(row["cpu_ratio_to"].get("haproxy")),
        _shown(row["rps"], 0),
        _shown(row["p50_us"], 0),
        _shown(row["p99_us"], 0),
        _shown(resident / 1e6 if resident is not None else None, 1),
        _shown(row["syscalls_per_request"], 2),
        " ".join(marks),
    ]


def relays(rows: Sequence[Row]) -> list[str]:
    """What a reactor costs: the bare relays beside each other, and Pannier beside each of them."""
    shown: list[list[str]] = []
    for scenario, layout in dict.fromkeys((row["scenario"], row["layout"]) for row in rows):
        group = {row["key"]: row for row in rows if (row["scenario"], row["layout"]) == (scenario, layout)}
        bare = [row for row in group.values() if row["peer"] == "relay"]
        for row in bare if len(bare) > 1 else []:
            to_epoll = "1" if row["key"] == "relay" else _ratio(row["cpu_ratio_to"].get("relay"))
            pannier = _ratio(group["pannier"]["cpu_ratio_to"].get(row["key"])) if "pannier" in group else ""
            cost, calls = _shown(row["cpu_us_per_request"], 2), _shown(row["syscalls_per_request"], 2)
            shown.append([layout, row["features"], cost, to_epoll, pannier, calls])
    columns = ["layout", "bare relay", "CPU µs/request", "ratio to epoll", "Pannier's ratio to it", "syscalls/request"]
    return ["## What a reactor costs", "", *table(columns, shown)] if shown else []


def judged(targets: Sequence[Target]) -> list[str]:
    """The targets, each with its figure and whether it is met."""
    rows = [[one.what, one.layout, _limit(one), _figure(one), _verdict(one)] for one in targets]
    return ["## Targets", "", *table(["what", "layout", "target", "measured", ""], rows)] if rows else []


def _limit(target: Target) -> str:
    sign = "≥" if target.at_least else "≤"
    return f"{sign} {target.limit:g} {target.unit}".rstrip()


def _figure(target: Target) -> str:
    if target.median is None:
        return ""
    digits = target.digits
    ends = "" if target.low == target.high else f" ({target.low:.{digits}f}-{target.high:.{digits}f})"
    return f"{target.median:.{digits}f}{ends}"


def _verdict(target: Target) -> str:
    said = {None: "not measured", True: "met", False: "**not met**"}[target.met]
    return f"{said}, *void*" if target.void else said


def memory(weights: Sequence[Row]) -> list[str]:
    """Resident memory before any load, and of one idle connection."""
    if not weights:
        return []
    rows = [
        [
            one["peer"],
            one["features"],
            _shown(one["idle_bytes"] / 1e6, 1),
            _shown(one["bytes_per_connection"] / 1024, 1),
        ]
        for one in weights
    ]
    columns = ["peer", "features", "idle MB", "KiB a connection"]
    return [f"## Memory, {weights[0]['connections']} idle connections", "", *table(columns, rows)]


def instructions(counts: Sequence[Row]) -> list[str]:
    """What each sidecar adds."""
    if not counts:
        return []
    rows = []
    for number, count in enumerate(counts):
        name = "none" if not number else f"+ {count['sidecars'][-1]}"
        added = [f"{count['added']:+.0f}", f"{count['allowed']}"] if number else ["", ""]
        met = "" if not number else "met" if count["added"] <= count["allowed"] else "**not met**"
        calls, allocations = _shown(count["syscalls"], 2), _shown(count["allocations"], 2)
        rows.append([name, f"{count['instructions']:.0f}", *added, calls, allocations, met])
    columns = ["sidecars", "instructions", "added", "allowed", "system calls", "allocations", ""]
    title = "## Instructions a request, outbound, one connection, four endpoints (callgrind)"
    return [title, "", *table(columns, rows)]


def phases(counts: Sequence[Row]) -> list[str]:
    """Where the instructions go, without a sidecar and with all of them."""
    if not counts:
        return []
    none, every = counts[0], counts[-1]
    shown = [name for name in PHASES if round(every["phases"][name]) or round(none["phases"][name])]
    rows = [[name, *(f"{one['phases'][name]:.0f}" for one in (none, every))] for name in shown]
    rows.append(["sum", *(f"{one['instructions']:.0f}" for one in (none, every))])
    return ["## Instructions a request by phase", "", *table(["phase", "no sidecar", "all four"], rows)]


def routes(cost: Row | None) -> list[str]:
    """What ten thousand routes cost."""
    if cost is None:
        return []
    holds = cost["compile_ms"] <= COMPILE_MS_ALLOWED and cost["match_ns"] <= MATCH_NS_ALLOWED
    said = (
        f"compiled in {cost['compile_ms']:.0f} ms (allowed {COMPILE_MS_ALLOWED}), "
        f"one found in {cost['match_ns']:.0f} ns (allowed {MATCH_NS_ALLOWED}): {'met' if holds else '**not met**'}"
    )
    return [f"## {cost['routes']} routes", "", said, ""]


def _ratio(found: Row | None) -> str:
    if found is None:
        return ""
    return f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})" + (" *void*" if found["void"] else "")


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
