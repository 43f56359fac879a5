"""What this sidecar tells others: the `telemetry` table to the data path, the answer of the verb `stat` on the bus.

The types of `stat` are in `pannier.shared.messages`, since the command line decodes them too.
"""

from __future__ import annotations

import msgpack
from pannier.shared.messages import StatReply, StatRow
from pannier.sidecars.observability.config import Config
from pannier.sidecars.observability.window import Window


def telemetry_table(config: Config) -> bytes:
    """The payload of the table: what the data path shall record, and how it labels requests."""
    table = {
        "access_log": config.access_log.enabled,
        "sample_ratio": config.traces.sample_ratio,
        "routes": config.routes,
    }
    payload: bytes = msgpack.packb(table)
    return payload


def stat_reply(window: Window, now: float, window_s: float) -> StatReply:
    """The rows of the last `window_s` seconds before `now`; see `Window.rows` for what is really covered."""
    covered, rows = window.rows(now, window_s)
    return StatReply(
        window_s=round(covered, 3),
        rows=[
            StatRow(
                service=row.key.service,
                route=row.key.route,
                direction=row.key.direction,
                requests=row.requests,
                success_rate=row.success_rate,
                rps=round(row.rps, 3),
                p50_ms=row.p50_ms,
                p95_ms=row.p95_ms,
                p99_ms=row.p99_ms,
            )
            for row in rows
        ],
    )
