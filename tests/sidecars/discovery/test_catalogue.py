"""What the catalogue makes of everything, and what of it survives a restart."""

from functools import partial

import pytest
from msgspec.structs import replace
from pannier import _native
from pannier.shared.detours import Share
from pannier.shared.instances import State
from pannier.shared.leases import Registration
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.sidecars.discovery.catalogue import KNOWN_LIMIT, Catalogue
from pannier.sidecars.discovery.health import Thresholds
from pannier.sidecars.discovery.table import Cluster, Endpoint, Table, decode, encode, without_refused

STATIC = {"payments": (StaticEndpoint("h:1", health="/healthz"),)}


def catalogue(restored: Table | None = None) -> Catalogue:
    return Catalogue(STATIC, Thresholds(), restored or Table(), now=0)


def rows(table: Table) -> dict[str, list[Endpoint]]:
    return {cluster.name: list(cluster.endpoints) for cluster in table.clusters}


def register(into: Catalogue, instance: str, *, service: str = "orders", state: State = State.UP) -> None:
    into.leases.register(Registration(service, instance, f"{instance}:80", 3, 10, state, {"k": "v"}), 0)


@pytest.mark.semantics("discovery", "An endpoint with a check gets nothing before its first success")
def test_nothing_is_accepted_until_the_first_success() -> None:
    one = catalogue()
    assert one.checks() == {("payments", "h:1"): "/healthz"}
    assert not rows(one.table())["payments"][0].healthy
    assert one.checked(("payments", "h:1"), True)
    assert rows(one.table())["payments"][0].healthy
    assert [one.checked(("payments", "h:1"), False) for _ in range(3)] == [False, False, True]


def test_an_address_that_was_taken_out_is_not_healthy_again_without_a_check() -> None:
    one = catalogue()
    checked = {"stock": (StaticEndpoint("h:2", health="/healthz"),)}
    one.use_file(checked)
    one.checked(("payments", "h:1"), True)
    one.checked(("stock", "h:2"), True)
    assert rows(one.table())["stock"][0].healthy
    one.use_file({"stock": ()})
    one.use_file(checked)
    assert not rows(one.table())["stock"][0].healthy
    assert rows(one.table())["payments"][0].healthy


def test_a_restart_changes_nothing() -> None:
    before = catalogue()
    before.checked(("payments", "h:1"), True)
    register(before, "a")
    register(before, "gone", service="stock")
    before.table()
    before.leases.deregister(("stock", "gone"))
    register(before, "b")
    table = decode(encode(before.table()))
    after = catalogue(table)
    assert after.table() == table
    assert after.leases.get(("orders", "a")).registration.metadata == {"k": "v"}
    assert rows(table)["stock"] == []


def test_the_file_keeps_its_last_word_across_a_restart() -> None:
    before = catalogue()
    second = StaticEndpoint("h:2", weight=3, metadata={"version": "v2"})
    before.use_file({"payments": (StaticEndpoint("h:1"), second)})
    table = decode(encode(before.table()))
    assert rows(table)["payments"][1].metadata == {"version": "v2"}
    assert catalogue().file_rows(table) == {"payments": (second,)}


def test_who_gets_no_traffic_is_listed_all_the_same() -> None:
    one = catalogue()
    for state in State:
        register(one, state.value.lower(), state=state)
    table = one.table()
    assert [row.id for row in rows(table)["orders"]] == ["draining", "up"]
    listed = {c.name: {(e.id, e.state) for e in c.endpoints} for c in one.services(table).clusters}
    assert listed["orders"] == {(state.value.lower(), state.value) for state in State}
    assert listed["payments"] == {("h:1", "DOWN")}


def test_services_without_anybody_are_forgotten_in_the_end() -> None:
    one = catalogue()
    for number in range(KNOWN_LIMIT + 5):
        register(one, "i", service=f"s{number}")
        one.table()
        one.leases.deregister((f"s{number}", "i"))
    names = rows(one.table())
    assert len(names) == KNOWN_LIMIT + 1
    assert "s4" not in names
    assert f"s{KNOWN_LIMIT + 4}" in names


def test_garbage_in_the_table_reads_as_nothing() -> None:
    assert decode(b"\xc1") == decode(None) == Table()
    assert decode(b"\x81\xa8clusters\x01") == Table()


def test_who_is_refused_with_his_way_by_a_central_stays_without_it() -> None:
    ways = (Share("central.example:15090", 40),)
    one = Endpoint("a", "10.0.0.1:80", 1, True, 0, 1, 0, "lease", 0, {}, ways)
    left, reasons = without_refused(Table((Cluster("good", (one,)),)), partial(_native.validate, "endpoints"))
    assert left == Table((Cluster("good", (replace(one, centrals=()),)),))
    (reason,) = reasons
    assert "is no gateway" in reason


def test_what_is_refused_is_left_out_with_its_reason() -> None:
    def validate(payload: bytes) -> None:
        for cluster in decode(payload).clusters:
            if cluster.name == "bad" or any(one.address == "bad" for one in cluster.endpoints):
                raise ValueError(f"{cluster.name} is refused")

    def endpoint(address: str) -> Endpoint:
        return Endpoint(address, address, 1, True, 0, 1, 0, "file", 0, {})

    table = Table((Cluster("bad", (endpoint("a"),)), Cluster("good", (endpoint("a"), endpoint("bad")))), 4)
    left, reasons = without_refused(table, validate)
    assert left == Table((Cluster("good", (endpoint("a"),)),), 4)
    assert reasons == ["bad is refused", "good is refused"]
