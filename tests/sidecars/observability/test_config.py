from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from pannier.sidecars.observability.config import Config
from pannier.sidecars.observability.messages import stat_reply, telemetry_table
from pannier.sidecars.observability.window import Window


def test_an_empty_table_in_a_profile_is_a_whole_configuration() -> None:
    config = msgspec.convert({}, Config)
    assert (config.traces.sample_ratio, config.traces.queue, config.traces.batch) == (1.0, 4096, 512)
    assert (config.access_log.enabled, config.access_log.max_bytes) == (True, 64 * 1024 * 1024)
    assert config.max_series == 10_000


@pytest.mark.parametrize(
    "settings",
    [
        {"traces": {"sample_ratio": 1.5}},
        {"traces": {"otlp_endpoint": "collector:4318"}},
        {"traces": {"timeout": "5"}},
        {"traces": {"queue": 0}},
        {"routes": ["orders/{id}"]},
        {"access_log": {"path": ""}},
        {"acces_log": {}},
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, Config)


def test_the_table_says_what_shall_be_recorded() -> None:
    config = msgspec.convert({"routes": ["/orders/{id}"], "traces": {"sample_ratio": 0.01}}, Config)
    assert msgpack.unpackb(telemetry_table(config)) == {
        "access_log": True,
        "sample_ratio": 0.01,
        "routes": ["/orders/{id}"],
    }


def test_stat_answers_in_the_shape_of_the_interface(fakes: Any) -> None:
    window = Window(fakes.FINE)
    window.tick(0.0, [])
    window.tick(2.0, [fakes.Series(seconds=[0.001] * 3), fakes.Series(status=500, seconds=[0.001])])
    reply = msgspec.to_builtins(stat_reply(window, 2.0, 10))
    assert reply == {
        "window_s": 2.0,
        "rows": [
            {
                "service": "orders",
                "route": "",
                "direction": "inbound",
                "requests": 4,
                "success_rate": 0.75,
                "rps": 2.0,
                "p50_ms": 0.5,
                "p95_ms": 0.95,
                "p99_ms": 0.99,
            }
        ],
    }
