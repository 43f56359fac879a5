from __future__ import annotations

import msgspec
import pytest
from pannier.sidecars.resilience.inventory import Member, inventory


def payload(*clusters: tuple[str, list[dict[str, object]]]) -> bytes:
    return msgspec.msgpack.encode(
        {"lifecycle": "serving", "clusters": [{"name": name, "endpoints": found} for name, found in clusters]}
    )


def test_discovery_wins_and_static_ones_remain() -> None:
    endpoints = payload(("payments", [{"id": "p-1", "address": "a:1", "slot": 0, "incarnation": 3, "healthy": True}]))
    base = payload(
        ("Payments", [{"address": "a:9", "slot": 3900, "incarnation": 1}]),
        ("stock", [{"address": "s:1", "weight": 2, "slot": 3901, "incarnation": 1}, {"address": "s:2"}]),
    )
    assert inventory(endpoints, base) == {
        "payments": (Member("payments", "a:1", (0, 3)),),
        "stock": (Member("stock", "s:1", (3901, 1)),),
    }
    assert list(inventory(None, base)) == ["payments", "stock"]
    assert inventory(None, None) == {}


def test_a_service_without_endpoints_is_known() -> None:
    assert inventory(payload(("stock", [])), None) == {"stock": ()}


@pytest.mark.parametrize("damaged", [b"", b"\xc1", msgspec.msgpack.encode({"clusters": [1]})])
def test_what_is_no_table_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="no table of clusters"):
        inventory(damaged, None)


def test_a_member_reads_as_people_say_it() -> None:
    assert str(Member("payments", "a:1", (0, 1))) == "payments at a:1"
    assert str(Member("payments", "", (3584, 1))) == "payments"
