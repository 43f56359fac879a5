"""Table `central`, judged by the data path itself, and the listeners that belong to it."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from pannier import _native
from pannier.shared.central import CentralSettings, Certificates, GatewaySettings
from pannier.shared.profile import OutboundSettings, Profile
from pannier.sidecars.discovery import config as discovery
from pannier.supervisor.central_table import Forced, bound, central_table
from pannier.supervisor.change import change
from pannier.supervisor.compose import compose, listeners, widened
from pannier.supervisor.plan import Arguments, Installed, Listener, Place, Plan
from pannier.supervisor.status import urls

PORTS = {"inbound": 18080, "outbound": 15001, "passthrough": 19000}
CLIENT = CentralSettings(addresses=["127.0.0.1:15090"])
CENTRAL = CentralSettings(gateway=GatewaySettings())


def place(ports: dict[str, int], **more: Any) -> Place:
    return Place("/run/orders", {}, "/bin/pannierd", 2, ports, hostname="host", outward="10.9.9.9", **more)


def profile(central: CentralSettings | None, **config: Any) -> Profile:
    sidecars = {"discovery": discovery.Config(**config)}
    return Profile(central=central, outbound=OutboundSettings("deny"), sidecars=sidecars)


def planned(central: CentralSettings | None, ports: dict[str, int] = PORTS, **more: Any) -> Plan:
    installed = {"discovery": Installed("x.discovery", discovery.Config(), "token")}
    arguments = Arguments("orders", app="127.0.0.1:8080", **more)
    return compose(profile(central), arguments, place(ports), installed)


def table(central: CentralSettings, ports: dict[str, int] = PORTS, app: str | None = "127.0.0.1:8080") -> Any:
    payload = central_table(profile(central), Arguments("orders", app=app), place(ports))
    assert payload is not None
    _native.validate("central", msgpack.packb({**payload, "forced": None}))
    return payload


def test_a_service_that_leans_on_a_central() -> None:
    assert table(CLIENT) == {
        "service": "central",
        "addresses": ["127.0.0.1:15090"],
        "plain": [],
        "tls": None,
        "outbound": "best",
        "inbound": True,
        "instance": "host-18080",
        "passthrough": "127.0.0.1:19000",
        "listener": "127.0.0.1:15001",
        "api": "/run/orders/api.sock",
        "controller": {
            "enter": {
                "host_pressure": 25.0,
                "cgroup_pressure": 25.0,
                "throttled": 10.0,
                "queue_wait_ms": 20.0,
                "holds_ms": 2000,
                "within_ms": 3000,
            },
            "leave": {"share": 0.5, "calm_ms": 15000},
            "dwell_ms": 30000,
            "jitter": 0.2,
            "step_up": 10.0,
            "step_down": 5.0,
        },
        "gateway": None,
    }


def test_a_central() -> None:
    ports = {"inbound": 18080, "outbound": 15001, "gateway": 15090}
    payload = table(CENTRAL, ports, None)
    assert payload["gateway"] == {"capacity": 20000.0, "hosts": 2048, "address": "127.0.0.1:15090"}
    assert (payload["outbound"], payload["inbound"], payload["passthrough"]) == ("off", False, None)
    assert payload["instance"] == "host-15090"


def test_the_weight_that_is_asked_for_and_certificates_are_understood() -> None:
    tls = Certificates("/c.pem", "/k.pem", "/a.pem")
    payload = table(msgspec.structs.replace(CLIENT, tls=tls))
    assert payload["tls"] == {"certificate": "/c.pem", "key": "/k.pem", "authority": "/a.pem"}
    _native.validate("central", msgpack.packb({**payload, "forced": msgspec.to_builtins(Forced(40.0, 1))}))


@pytest.mark.parametrize(
    ("central", "pilot", "expected"),
    [
        (CLIENT, None, "127.0.0.1:19000"),
        (CLIENT, "10.0.0.7", "10.0.0.7:19000"),
        (msgspec.structs.replace(CLIENT, advertise="10.77.0.1"), "10.0.0.7", "10.77.0.1:19000"),
        (msgspec.structs.replace(CLIENT, advertise="fd00::1"), None, "[fd00::1]:19000"),
    ],
)
def test_where_a_central_reaches_the_app(central: CentralSettings, pilot: str | None, expected: str) -> None:
    config = {} if pilot is None else {"pilot": discovery.Pilot(["10.0.0.1:18800"], advertise=pilot)}
    payload = central_table(profile(central, **config), Arguments("orders", app="127.0.0.1:8080"), place(PORTS))
    assert payload is not None
    assert payload["passthrough"] == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gateway": GatewaySettings()}, "127.0.0.1:15090"),  # nobody else may come
        ({"gateway": GatewaySettings(), "plain": ["10.0.0.0/8"]}, "10.9.9.9:15090"),
        ({"gateway": GatewaySettings("10.77.0.2"), "plain": ["10.0.0.0/8"]}, "10.77.0.2:15090"),
        ({"gateway": GatewaySettings("[fd00::1]")}, "[fd00::1]:15090"),
        ({"gateway": GatewaySettings("10.77.0.2"), "advertise": "10.78.0.2"}, "10.78.0.2:15090"),
    ],
)
def test_where_hosts_reach_a_central(settings: dict[str, Any], expected: str) -> None:
    payload = table(CentralSettings(**settings), {"inbound": 1, "outbound": 2, "gateway": 15090})
    assert payload["gateway"]["address"] == expected


def test_only_the_discovery_of_a_central_speaks_for_others() -> None:
    gateway = {"inbound": 1, "outbound": 2, "gateway": 15090}
    plans = (planned(CENTRAL, gateway), planned(CLIENT), planned(None))
    assert [plan.settings["sidecars"]["discovery"]["vouches"] for plan in plans] == [True, False, False]


def test_calls_through_a_socket_cannot_be_redirected() -> None:
    where = place({"inbound": 18080}, sockets={"outbound": "/run/out.sock"})
    payload = central_table(profile(CLIENT), Arguments("orders", app="127.0.0.1:8080"), where)
    assert payload is not None
    assert payload["listener"] is None


def test_the_id_is_the_one_that_discovery_announces() -> None:
    plan = planned(CLIENT)
    assert plan.central is not None
    assert plan.settings["sidecars"]["discovery"]["instance"]["id"] == plan.central["instance"] == "host-18080"
    assert planned(None).settings["sidecars"]["discovery"]["instance"]["id"] is None
    own = profile(CLIENT, instance=discovery.Instance(id="mine"))
    payload = central_table(own, Arguments("orders", app="127.0.0.1:8080"), place(PORTS))
    assert payload is not None
    assert payload["instance"] == "mine"


@pytest.mark.parametrize(
    ("central", "expected"),
    [
        (None, None),
        (CLIENT, Listener("passthrough", "0.0.0.0", 0, 2, True, "--set central.port=N")),
        (
            msgspec.structs.replace(CLIENT, port=19000),
            Listener("passthrough", "0.0.0.0", 19000, 2, True, "--set central.port=N"),
        ),
        (CENTRAL, Listener("gateway", "0.0.0.0", 15090, 2, True, "--set central.gateway.port=N")),
    ],
)
def test_one_listener_more(central: CentralSettings | None, expected: Listener | None) -> None:
    found = [
        one
        for one in listeners(profile(central), Arguments("orders"), 2)
        if one.name not in PORTS.keys() - {"passthrough"}
    ]
    assert found == ([] if expected is None else [expected])


def test_the_proxy_is_handed_it_and_others_can_find_it() -> None:
    assert "passthrough" in planned(CLIENT).proxy.held
    assert urls(planned(CLIENT))["passthrough"] == "tcp://127.0.0.1:19000"
    central = planned(CENTRAL, {"inbound": 1, "outbound": 2, "gateway": 15090})
    assert ("gateway" in central.proxy.held, "passthrough" in central.proxy.held) == (True, False)
    assert urls(central)["gateway"] == "tcp://127.0.0.1:15090"
    none = planned(None, {"inbound": 1, "outbound": 2})
    assert none.proxy.held[:2] == ("inbound", "outbound")
    assert none.central is None
    assert not {"gateway", "passthrough"} & {*none.proxy.held, *urls(none)}


def test_who_begins_to_lean_on_a_central_gets_a_proxy_that_listens_for_it() -> None:
    before = planned(None, {"inbound": 1, "outbound": 2})
    after = planned(CLIENT, {"inbound": 1, "outbound": 2})
    made = change(before, after)
    assert (made.central, made.proxy) == (True, True)
    assert "~ replace proxy: it listens for passthrough, too" in made.lines
    assert [one.name for one in widened(after)] == ["inbound", "outbound", "passthrough"]
    assert after.central is not None
    assert bound(after.central, {"passthrough": 7})["passthrough"] == "127.0.0.1:7"


def test_a_listener_that_is_bound_stays_with_the_proxy() -> None:
    """Somebody has to take what comes in there."""
    made = change(planned(CLIENT), planned(None))
    assert (made.central, made.proxy) == (True, False)
    assert widened(planned(None))[-1] == Listener("passthrough", "0.0.0.0", 19000, 2, True, "--set central.port=N")


def test_a_change_is_told_by_its_path_and_a_port_waits_for_the_next_start() -> None:
    said = msgspec.structs.replace(CLIENT, dwell="40s", port=7)
    made = change(planned(CLIENT), planned(said))
    assert (made.central, made.proxy, made.base) == (True, False, False)
    assert made.lines == ("~ publish central: central.dwell 30s → 40s", "= at the next start: central.port 0 → 7")
