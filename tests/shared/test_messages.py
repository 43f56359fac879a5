from __future__ import annotations

import msgspec
import pytest
from pannier.shared import framing
from pannier.shared.messages import Process, StatReply, StatRow, Status

STATUS = Status("orders", "dev", 7, [Process("proxy", "proxy", 8, "running", 0, 1024, 0.5, True)])
REPLY = StatReply(10.0, [StatRow("orders", "/orders/{id}", "inbound", 3, 1.0, 0.3, 1.0, 2.0, None)])


def test_ps_prints_the_fields_that_others_rely_on():
    (row,) = msgspec.json.decode(msgspec.json.encode([STATUS]))
    assert list(row) == ["name", "profile", "supervisor_pid", "processes", "urls"]
    assert list(row["processes"][0]) == [
        "name",
        "kind",
        "pid",
        "state",
        "restarts",
        "pss_bytes",
        "cpu_percent",
        "ready",
    ]


def test_stat_prints_the_fields_that_others_rely_on():
    reply = msgspec.json.decode(msgspec.json.encode(REPLY))
    assert list(reply) == ["window_s", "rows"]
    assert list(reply["rows"][0]) == [
        "service",
        "route",
        "direction",
        "requests",
        "success_rate",
        "rps",
        "p50_ms",
        "p95_ms",
        "p99_ms",
    ]


@pytest.mark.parametrize("message", [STATUS, REPLY], ids=lambda m: type(m).__name__)
def test_they_survive_the_wire(message):
    assert framing.decode(framing.encode(message), type(message)) == message
