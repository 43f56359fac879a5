"""Table "Independence": requests need nobody who governs, for as long as it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults.alone import Alone
from tests.faults.bed import Stage
from tests.faults.row import Row

TABLE: Final = "Independence"

ROWS: Final[Sequence[Row]] = (
    Row(
        name="alone",
        table=TABLE,
        fault="the bus, every supervisor and every Python process killed for ten minutes, of all services",
        promise="0 failed; latency at most twice; split, header edit, retries and limit in force, counted at the "
        "origins; who was out comes back at its `until`; then all are taken over, same PIDs",
        how=Alone(),
        stage=Stage("production"),
        seconds=640.0,
        short_seconds=95.0,
        compares=True,
    ),
)
