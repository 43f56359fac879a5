from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import msgpack
import msgspec
import pytest
from pannier import _native
from pannier.shared.profile import Endpoint, OutboundSettings, Profile, ProxySettings, Timeouts
from pannier.shared.profile import RestartSettings as AppRestart
from pannier.shared.rights import Needs
from pannier.sidecars.discovery import config as discovery_config
from pannier.sidecars.observability import config as observability
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic import config as traffic
from pannier.supervisor.change import change
from pannier.supervisor.compose import compose, handed_all, listeners, without_outer
from pannier.supervisor.keeper import Stdio
from pannier.supervisor.plan import Arguments, Installed, Place, Plan, Readiness, UnixListener
from pannier.supervisor.restart import Policy


class Settings(msgspec.Struct, frozen=True):
    services: dict[str, Any] = {}
    app: str | None = None
    instance: dict[str, Any] = {}
    resource: dict[str, Any] = {}
    chosen: int = 1


CONFIGS = {
    "discovery": discovery_config.Config,
    "observability": observability.Config,
    "resilience": resilience.Config,
    "traffic": traffic.Config,
}


INSTALLED = {name: Installed(f"somewhere.{name}", Settings(), f"token-{name}") for name in ("discovery", "third")}
PORTS = {"inbound": 18080, "outbound": 15001}


def planned(profile: Profile | None = None, environment: Mapping[str, str] | None = None, **arguments: Any) -> Plan:
    return compose(
        profile or Profile(sidecars={"discovery": Settings()}),
        Arguments(**{"name": "orders", "command": ("serve",), "app": "127.0.0.1:8080"} | arguments),
        Place("/run/orders", dict(environment or {}), "/bin/pannierd", cores=8, ports=PORTS),
        INSTALLED,
    )


def app_environment(environment: Mapping[str, str]) -> dict[str, str]:
    plan = planned(environment=environment)
    assert plan.app is not None
    return plan.app.environment


def test_the_apps_environment() -> None:
    assert app_environment({"PATH": "/bin"}) == {
        "PATH": "/bin",
        "PANNIER_NAME": "orders",
        "PANNIER_OUTBOUND": "http://127.0.0.1:15001",
        "PANNIER_BUS": "/run/orders/bus.sock",
        "PANNIER_API": "/run/orders/api.sock",
        "HTTP_PROXY": "http://127.0.0.1:15001",
        "http_proxy": "http://127.0.0.1:15001",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "no_proxy": "localhost,127.0.0.1,::1",
        "OTEL_SERVICE_NAME": "orders",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=dev",
    }


@pytest.mark.parametrize(
    "variable",
    ["PANNIER_NAME", "PANNIER_OUTBOUND", "PANNIER_BUS", "PANNIER_API", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"],
)
def test_what_the_user_set_is_never_overridden(variable: str) -> None:
    assert app_environment({variable: "mine"})[variable] == "mine"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"])
def test_upper_and_lower_case_are_one_variable(variable: str) -> None:
    made = app_environment({variable: "mine"})
    assert {made[name] for name in made if name.lower() == variable.lower()} == {"mine"}


def test_governance_does_not_call_through_itself() -> None:
    plan = planned(environment={"HTTP_PROXY": "http://corporate:3128"})
    for process in (plan.proxy, *plan.sidecars.values()):
        assert process.environment["HTTP_PROXY"] == "http://corporate:3128"
        assert "PANNIER_OUTBOUND" not in process.environment
    outer = app_environment({"PATH": "/bin"})
    inner = planned(environment=outer, name="inner")
    assert "HTTP_PROXY" not in inner.proxy.environment
    assert inner.app is not None
    assert inner.app.environment["PANNIER_NAME"] == "inner"
    assert inner.app.environment["OTEL_SERVICE_NAME"] == "inner"


def test_secrets_of_an_outer_service_stay_outside() -> None:
    assert without_outer({"PANNIER_TOKEN": "x", "PANNIER_FDS": "a=3", "NOTIFY_SOCKET": "/x", "A": "b"}) == {"A": "b"}


def test_an_apps_grpc_clients_find_the_pilot_that_the_profile_names() -> None:
    pilot = discovery_config.Pilot(["10.0.0.1:18800"], grpc="10.0.0.1:18801")
    profile = Profile(sidecars={"discovery": discovery_config.Config(pilot=pilot)})
    variable = "GRPC_XDS_BOOTSTRAP_CONFIG"
    app = planned(profile).app
    assert app is not None
    said = json.loads(app.environment[variable])
    assert said["xds_servers"][0]["server_uri"] == "10.0.0.1:18801"
    assert said["node"] == {"id": "orders", "metadata": {"stage": "dev"}}
    assert variable not in without_outer(app.environment)
    for own in ("GRPC_XDS_BOOTSTRAP", variable):
        app = planned(profile, {own: "mine"}).app
        assert app is not None
        assert {name: text for name, text in app.environment.items() if name.startswith("GRPC")} == {own: "mine"}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_settings_are_the_same_when_the_keeper_hands_them_back(config: type[msgspec.Struct]) -> None:
    """A successor compares: a tuple that comes back as a list would restart a sidecar for nothing."""
    settings = msgspec.to_builtins(config())
    assert msgpack.unpackb(msgpack.packb(settings)) == settings


def test_every_installed_sidecar_is_planned_and_the_profiles_run() -> None:
    plan = planned()
    assert set(plan.sidecars) == {"discovery", "third"}
    assert plan.enabled == ("discovery",)
    third = plan.sidecars["third"]
    assert third.argv == (sys.executable, "-P", "-m", "somewhere.third")
    assert third.grant is not None
    assert (third.grant.role, third.grant.descriptors, third.grant.topics) == ("third", (), ())
    assert third.environment["PANNIER_TOKEN"] == third.grant.token == "token-third"
    assert (third.restart.policy, third.restart.prompt) == (Policy.PERMANENT, True)


def test_discovery_is_told_what_only_the_supervisor_knows_unless_the_profile_says_it() -> None:
    services = {"stock": [Endpoint("127.0.0.1:9000", 3)]}
    plan = planned(Profile(services=services, sidecars={"discovery": Settings(chosen=7)}))
    told = plan.sidecars["discovery"].grant
    assert told is not None
    assert msgpack.unpackb(told.config) == {
        "services": {"stock": [{"address": "127.0.0.1:9000", "weight": 3, "health": None, "metadata": {}}]},
        "app": "127.0.0.1:8080",
        "instance": {"address": "127.0.0.1:18080"},
        "chosen": 7,
    }, "what is a default anyway is not sent"
    said = planned(Profile(sidecars={"discovery": Settings(app="unix:/mine", instance={"address": "10.0.0.1:80"})}))
    grant = said.sidecars["discovery"].grant
    assert grant is not None
    config = msgpack.unpackb(grant.config)
    assert (config["app"], config["instance"]) == ("unix:/mine", {"address": "10.0.0.1:80"})


def test_the_base_table() -> None:
    profile = Profile(
        services={"stock": [Endpoint("127.0.0.1:9000", metadata={"version": "v2"})]},
        outbound=OutboundSettings(unknown="deny"),
        proxy=ProxySettings(balance="round_robin", seed=1, timeouts=Timeouts(drain="1500ms")),
    )
    assert planned(profile).base == {
        "service": "orders",
        "lifecycle": "serving",
        "app": "127.0.0.1:8080",
        "inbound": {"hosts": ["orders", "localhost", "127.0.0.1", "[::1]"], "trusted_hops": 0},
        "outbound": {"unknown": "deny"},
        "balance": "round_robin",
        "seed": 1,
        "timeouts": {
            "header_ms": 10000,
            "idle_ms": 60000,
            "connect_ms": 1000,
            "request_ms": 15000,
            "drain_ms": 1500,
        },
        "clusters": [
            {
                "name": "stock",
                "endpoints": [
                    {
                        "address": "127.0.0.1:9000",
                        "weight": 1,
                        "metadata": {"version": "v2"},
                        "slot": 3840,
                        "incarnation": 63721,
                    }
                ],
            }
        ],
    }
    assert planned(profile).drain == 1.5


def test_every_built_in_sidecar_is_handed_what_it_reads_and_writes() -> None:
    installed = {name: Installed(name, config(), name) for name, config in CONFIGS.items()}
    plan = compose(Profile(), Arguments(name="x"), Place("/r", {}, "/p", cores=1, ports=PORTS), installed)
    assert set(plan.proxy.held) == {"inbound", "outbound", *_native.SEGMENTS}
    for name in CONFIGS:
        sidecar = plan.sidecars[name]
        assert sidecar.grant is not None
        assert set(sidecar.grant.descriptors) <= set(_native.SEGMENTS)
        assert {f"table.{kind}" for kind in sidecar.writes} <= set(sidecar.grant.descriptors)
        assert (sidecar.grant.hears, sidecar.grant.verbs) == (None, None), (
            "ours may listen to all, and be asked for all"
        )
    written = [kind for sidecar in plan.sidecars.values() for kind in sidecar.writes]
    assert sorted(["base", "central", "headers", *written]) == sorted(_native.TABLES)
    discovery = plan.sidecars["discovery"]
    assert (discovery.writes, discovery.held) == (("endpoints",), ())
    assert discovery.grant is not None
    assert discovery.grant.descriptors == ("table.endpoints", "table.base", "hot")
    assert plan.sidecars["observability"].held == ("metrics",)


def test_a_third_partys_sidecar_is_handed_what_it_needs_and_no_more() -> None:
    class Third(msgspec.Struct, frozen=True):
        needs: ClassVar[Needs] = Needs(
            writes=("headers", "base"),
            reads=("counters",),
            publishes=("third.x",),
            verbs=("go",),
            listeners=("metrics",),
        )

    installed = {"third": Installed("third", Third(), "token")}
    plan = compose(Profile(), Arguments(name="x"), Place("/r", {}, "/p", cores=1, ports=PORTS), installed)
    third = plan.sidecars["third"]
    assert (third.writes, third.held) == (("headers",), ())
    assert third.grant is not None
    assert third.grant.descriptors == ("table.headers", "counters")
    assert (third.grant.topics, third.grant.hears, third.grant.verbs) == (("third.x",), ("lifecycle",), ("go",))


def test_a_proxy_of_a_release_before_is_handed_every_segment_in_its_next_life() -> None:
    plan = planned()
    assert handed_all(plan) == plan
    fewer = tuple(name for name in plan.proxy.held if name != "table.headers")
    older = msgspec.structs.replace(plan, proxy=msgspec.structs.replace(plan.proxy, held=fewer))
    assert set(handed_all(older).proxy.held) == set(plan.proxy.held)


def test_a_plan_of_a_release_before_has_no_central_mesh_and_a_change_says_so() -> None:
    plan = planned()
    older = msgspec.structs.replace(plan, settings={key: v for key, v in plan.settings.items() if key != "central"})
    assert change(handed_all(older), plan).lines == ()
    assert change(plan, handed_all(older)).lines == ()


@pytest.mark.parametrize(
    ("command", "app", "readiness"),
    [
        (("serve",), "127.0.0.1:8080", Readiness.LISTENING),
        (("serve",), None, Readiness.SPAWNED),
        ((), "127.0.0.1:8080", None),
    ],
)
def test_what_makes_the_app_ready(command: tuple[str, ...], app: str | None, readiness: Readiness | None) -> None:
    plan = planned(command=command, app=app)
    assert (plan.app.readiness if plan.app else None) is readiness


def test_on_a_terminal_the_app_has_it_and_else_its_output_is_piped() -> None:
    shared, piped = planned(terminal=True).app, planned().app
    assert shared is not None and piped is not None
    assert (shared.stdio, shared.own_group) == ((Stdio.INHERIT,) * 3, False)
    assert (piped.stdio, piped.own_group) == ((Stdio.INHERIT, Stdio.PIPE, Stdio.PIPE), True)


@pytest.mark.parametrize(("on_crash", "policy"), [(True, Policy.TRANSIENT), (False, Policy.TEMPORARY)])
def test_the_apps_restart_policy_is_the_profiles(on_crash: bool, policy: Policy) -> None:
    app = planned(Profile(restart=AppRestart(max_restarts=2, period="3s", on_crash=on_crash))).app
    assert app is not None
    assert (app.restart.policy, app.restart.max_restarts, app.restart.period) == (policy, 2, 3.0)
    assert not app.restart.prompt


def test_listeners() -> None:
    profile = Profile(sidecars={"observability": Settings()})
    asked = listeners(profile, Arguments(name="x", port=80, outbound_port=81, metrics_port=82, workers=3), cores=2)
    assert [(each.name, each.host, each.port, each.count, each.exact) for each in asked] == [
        ("inbound", "0.0.0.0", 80, 3, True),
        ("outbound", "127.0.0.1", 81, 3, True),
        ("metrics", "127.0.0.1", 82, 1, True),
    ]
    default = listeners(Profile(), Arguments(name="x"), cores=8)
    assert [(each.name, each.host, each.port, each.count, each.exact) for each in default] == [
        ("inbound", "127.0.0.1", 0, 2, True),
        ("outbound", "127.0.0.1", 15001, 2, False),
    ]


def test_unix_listeners() -> None:
    arguments = Arguments(name="x", port="unix:/run/a.sock", outbound_port="unix:/run/b.sock", workers=3)
    assert listeners(Profile(), arguments, cores=2) == (
        UnixListener("inbound", "/run/a.sock", 0o660, 3, "--port"),
        UnixListener("outbound", "/run/b.sock", 0o600, 3, "--outbound-port"),
    )


SOCKETS = {"inbound": "/run/a.sock", "outbound": "/run/b.sock"}


def test_an_app_that_calls_through_a_socket_gets_no_proxy_variables() -> None:
    arguments = Arguments(name="orders", command=("serve",), app="unix:/run/app.sock")
    plan = compose(Profile(), arguments, Place("/run/orders", {}, "/p", cores=1, sockets=SOCKETS), INSTALLED)
    assert plan.app is not None
    environment = plan.app.environment
    assert environment["PANNIER_OUTBOUND"] == "http+unix://%2Frun%2Fb.sock"
    assert not [name for name in environment if name.lower() in {"http_proxy", "no_proxy"}]
    discovery = plan.sidecars["discovery"].grant
    assert discovery is not None
    assert msgpack.unpackb(discovery.config)["instance"] == {"address": "unix:/run/a.sock"}


def test_an_outer_service_that_calls_through_a_socket_stays_outside() -> None:
    arguments = Arguments(name="orders", command=("serve",))
    place = Place("/run/orders", {"HTTP_PROXY": "http://mine"}, "/p", cores=1, sockets=SOCKETS)
    outer = compose(Profile(), arguments, place, INSTALLED).app
    assert outer is not None
    assert without_outer(outer.environment) == {"HTTP_PROXY": "http://mine"}


def test_a_plan_survives_its_way_through_the_keeper() -> None:
    plan = planned()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan) == plan
