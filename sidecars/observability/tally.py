"""What this sidecar counts itself, apart from what the data path counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Totals since the sidecar started. Each field has one writing thread, except for `spans_dropped`, which the export
    queue guards.
    """

    log_errors: int = 0
    log_rotations: int = 0
    spans_exported: int = 0
    spans_dropped: int = 0
    spans_failed: int = 0
