"""What a run came to, as `build/run/summary.json` says it.

All figures about requests are the load's and the origins' own; only the list of sidecars and the moments are the mesh's
word. Always `failed = injected + unexplained`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ledger import Verdict
from load import Notes
from pannier.shared.messages import Status
from stages import Moment, Stage


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values: the smallest one that `share` (0 to 1) of them do not exceed.

    0 if there are none.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def summarise(
    profile: str,
    notes: Notes,
    verdict: Verdict,
    services: Iterable[Status],
    *,
    moments: Iterable[Moment] = (),
    missing: Sequence[str] = (),
) -> dict[str, Any]:
    """The document, in the shape that interfaces rely on. Latencies are of all requests, in milliseconds.

    `moments` are what happened on the stage, `missing` is what should have and did not.
    """
    requests, failed = len(notes.latencies), len(verdict.failed)
    ordered = sorted(notes.latencies)
    return {
        "profile": profile,
        "seconds": round(notes.seconds, 3),
        "requests": requests,
        "failed": failed,
        "injected": len(verdict.injected),
        "unexplained": len(verdict.unexplained),
        "success_rate": 1 - failed / requests if requests else 0.0,
        "p50_ms": round(percentile(ordered, 0.5) * 1000, 3),
        "p99_ms": round(percentile(ordered, 0.99) * 1000, 3),
        "sidecars": [
            {
                "service": service.name,
                "name": process.name,
                "state": process.state,
                "restarts": process.restarts,
                "pss_bytes": process.pss_bytes,
            }
            for service in services
            for process in service.processes
            if process.kind == "sidecar"
        ],
        "moments": [asdict(moment) for moment in moments],
        "missing": list(missing),
    }


def write(path: Path, summary: dict[str, Any]) -> None:
    """Whole or not at all: a reader never sees half a file."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(summary, indent=2) + "\n")
    draft.replace(path)


def closing_lines(summary: dict[str, Any], verdict: Verdict, path: Path, *, limit: int = 10) -> list[str]:
    """What a person reads at the end: the verdict, and the first unexplained failures by number."""
    lines = [
        f"{summary['requests']} requests in {summary['seconds']:.1f} s: {summary['failed']} failed, "
        f"{summary['injected']} of them injected, {summary['unexplained']} unexplained",
        f"p50 {summary['p50_ms']:.1f} ms, p99 {summary['p99_ms']:.1f} ms; written to {path}",
    ]
    unexplained = sorted(verdict.unexplained.items())
    lines += [f"  request {number}: {failure.reason}" for number, failure in unexplained[:limit]]
    if len(unexplained) > limit:
        lines.append(f"  and {len(unexplained) - limit} more")
    return lines


def shown_lines(stage: Stage, missing: Sequence[str]) -> list[str]:
    """Whether the stage has shown what it is to show."""
    if not stage.shows:
        return []
    return [f"shown: {stage.shows}"] if not missing else [f"not shown: {one} (give it FOR=20s)" for one in missing]
