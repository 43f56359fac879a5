from __future__ import annotations

import msgspec
import pytest
from pannier.sidecars.traffic.endpoints import Endpoint, clusters, places


def table(**services: list[dict[str, object]]) -> bytes:
    return msgspec.msgpack.encode(
        {"clusters": [{"name": name, "endpoints": rows} for name, rows in services.items()], "other": 1}
    )


def test_discovery_wins_by_name_and_base_fills_in() -> None:
    one = {"address": "h:1", "slot": 3, "incarnation": 2, "metadata": {"version": "1"}}
    found = clusters(table(Payments=[one]), table(payments=[{"address": "h:2"}], stock=[{"address": "h:3"}]))
    assert found == {"payments": [Endpoint({"version": "1"}, 3, 2)], "stock": [Endpoint()]}
    assert clusters(None, None) == {}


def test_an_empty_cluster_of_discovery_is_not_filled_in() -> None:
    assert clusters(table(payments=[]), table(payments=[{"address": "h:2"}])) == {"payments": []}


@pytest.mark.parametrize("payload", [b"", b"\xc1", msgspec.msgpack.encode({"clusters": [{"endpoints": []}]})])
def test_what_is_no_table_is_said(payload: bytes) -> None:
    with pytest.raises(ValueError, match="no table of clusters"):
        clusters(payload, None)


def test_labels_select_and_none_select_all() -> None:
    endpoint = Endpoint({"version": "2", "zone": "a"})
    assert endpoint.carries({"version": "2"})
    assert endpoint.carries({})
    assert not endpoint.carries({"version": "2", "zone": "b"})
    assert not endpoint.carries({"stage": "2"})


def test_only_slots_are_counted() -> None:
    assert places([Endpoint({}, 0, 1), Endpoint(), Endpoint({}, 4, 9)]) == [(0, 1), (4, 9)]
