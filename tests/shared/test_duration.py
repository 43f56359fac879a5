from __future__ import annotations

import msgspec
import pytest
from pannier.shared.duration import Duration, milliseconds, seconds


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0s", 0),
        ("10s", 10_000),
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("1m1s1ms", 61_001),
        ("99999h", 359_996_400_000),
    ],
)
def test_reads_gateway_api_durations(text: str, length: int) -> None:
    assert milliseconds(text) == length
    assert seconds(text) == length / 1000


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1.5s", "-1s", "10 s", "1d", "100000s", "1h1m1s1ms1h", "1s\n", "\u0661s"]
)
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        milliseconds(text)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Duration)


def test_decodes_as_a_field_without_hooks() -> None:
    class Settings(msgspec.Struct):
        wait: Duration = "1s"

    assert seconds(msgspec.convert({"wait": "250ms"}, Settings).wait) == 0.25
    assert seconds(Settings().wait) == 1
