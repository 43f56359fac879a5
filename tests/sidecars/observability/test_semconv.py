from __future__ import annotations

import pytest
from pannier.shared.outcome import succeeded
from pannier.sidecars.observability.semconv import authority_parts, error_type, known_method


@pytest.mark.parametrize(
    ("direction", "status", "flag", "error"),
    [
        ("inbound", 200, "", ""),
        ("inbound", 404, "", ""),
        ("inbound", 429, "RL", ""),
        ("inbound", 500, "", "500"),
        ("inbound", 503, "UF", "UF"),
        ("inbound", 0, "", "_OTHER"),
        ("inbound", 0, "DC", "DC"),
        ("inbound", 200, "DC", "DC"),
        ("inbound", 200, "DI", ""),
        ("inbound", 500, "DI", "DI"),
        ("outbound", 200, "", ""),
        ("outbound", 200, "CF", ""),
        ("outbound", 302, "", ""),
        ("outbound", 404, "", "404"),
        ("outbound", 504, "UT", "UT"),
    ],
)
def test_error_type_is_the_flag_or_the_status_of_what_the_conventions_call_an_error(
    direction: str, status: int, flag: str, error: str
) -> None:
    assert error_type(direction, status, flag) == error


@pytest.mark.parametrize(
    ("status", "flag", "good"),
    [(200, "", True), (404, "", True), (499, "DC", True), (500, "", False), (0, "DC", False), (200, "UF", False)],
)
def test_only_5xx_and_broken_exchanges_lower_the_success_rate(status: int, flag: str, good: bool) -> None:
    assert succeeded(status, flag) is good


def test_a_method_of_the_callers_own_making_is_no_label() -> None:
    assert [known_method(method) for method in ("GET", "get", "BREW")] == ["GET", "_OTHER", "_OTHER"]


@pytest.mark.parametrize(
    ("authority", "parts"),
    [
        ("orders", ("orders", None)),
        ("orders:80", ("orders", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", None)),
        ("::1", ("::1", None)),
        ("orders:", ("orders:", None)),
        ("orders:99999", ("orders", None)),
        ("orders:²", ("orders:²", None)),
        ("unix:/run/app.sock", ("unix:/run/app.sock", None)),
        ("", ("", None)),
    ],
)
def test_an_authority_falls_into_host_and_port(authority: str, parts: tuple[str, int | None]) -> None:
    assert authority_parts(authority) == parts
