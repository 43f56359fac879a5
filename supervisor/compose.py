"""An effective profile and the command line's arguments become a `Plan`: everything that will run, as data.

Rules:
- Pure: no file, socket, clock or environment is read here; tokens and ports are arguments. A plan prints, compares, and
  travels to the next supervisor through the keeper.
- Ports are known only once they are bound, so composition has two steps: `listeners` says what to bind, `compose` takes
  the result.
- A value that the user set in the environment is never overridden; what an *outer* Pannier set is (a shell in `run`).
- Governance does not call through itself: only the app is given a proxy.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pannier import _native
from pannier.shared.duration import milliseconds, seconds
from pannier.shared.envelope import FUSED
from pannier.shared.messages import LIFECYCLE
from pannier.shared.profile import Endpoint, Profile, grace_milliseconds
from pannier.shared.rights import TABLES, is_ours, needs_of
from pannier.supervisor import central_table
from pannier.supervisor.keeper_protocol import Stdio
from pannier.supervisor.plan import (
    Arguments,
    Grant,
    Installed,
    Kind,
    Listener,
    Place,
    Plan,
    ProcessPlan,
    Readiness,
    Said,
    UnixListener,
)
from pannier.supervisor.restart import Policy, RestartSettings
from pannier.supervisor.sparse import sparse
from pannier.supervisor.static_slots import Word, static_slots

SEGMENTS: Final = tuple(_native.SEGMENTS)
"""The proxy has them all; the keeper is asked for the same."""
LOOPBACK: Final = "localhost,127.0.0.1,::1"
XDS_FILE: Final = "GRPC_XDS_BOOTSTRAP"
XDS_CONFIG: Final = "GRPC_XDS_BOOTSTRAP_CONFIG"
"""What gRPC's clients read of the two: the file's name first, then the content itself."""
PUBLIC_MODE: Final = 0o660
PRIVATE_MODE: Final = 0o600
"""Of Unix sockets; `socket_files.py` says why."""
WORKERS: Final = "--workers"
SIDECAR_READY_WITHIN: Final = 10.0  # seconds
SETTLES: Final = 1.0  # seconds of readiness, after which an earlier crash of governance says nothing any more
SILENCE: Final = 6.0  # seconds without a beat (one comes every two), after which a ready process is killed


def worker_count(profile: Profile, arguments: Arguments, cores: int) -> int:
    """Workers of the proxy: the argument, else the profile's number, else one a core up to two."""
    return arguments.workers or profile.proxy.workers or min(2, max(1, cores))


def listeners(profile: Profile, arguments: Arguments, cores: int) -> tuple[Listener | UnixListener, ...]:
    """What to bind. Only a public port that was asked for is reachable from outside this host."""
    workers = worker_count(profile, arguments, cores)
    central = central_table.listener(profile, workers)
    return (
        _inbound(arguments.port, workers),
        _outbound(arguments.outbound_port, profile.outbound.port, workers),
        *((metrics_listener(arguments.metrics_port),) if "observability" in profile.sidecars else ()),
        *((central,) if central is not None else ()),
    )


def widened(plan: Plan) -> tuple[Listener | UnixListener, ...]:
    """The listeners of a service that runs, for as many workers as the proxy of `plan` is to have."""
    arguments, ports, words = plan.arguments, plan.place.ports, plan.proxy.argv
    workers = int(words[words.index(WORKERS) + 1])
    both = (_inbound(arguments.port, workers), _outbound(arguments.outbound_port, 0, workers))
    return (
        *(
            msgspec.structs.replace(each, port=ports[each.name]) if isinstance(each, Listener) else each
            for each in both
        ),
        *central_table.widened(plan, workers),
    )


def _inbound(asked: int | str | None, workers: int) -> Listener | UnixListener:
    if isinstance(asked, str):
        return UnixListener("inbound", asked.removeprefix("unix:"), PUBLIC_MODE, workers, "--port")
    host = "127.0.0.1" if asked is None else "0.0.0.0"
    return Listener("inbound", host, asked or 0, workers, exact=True, option="--port")


def _outbound(asked: int | str | None, default: int, workers: int) -> Listener | UnixListener:
    if isinstance(asked, str):
        return UnixListener("outbound", asked.removeprefix("unix:"), PRIVATE_MODE, workers, "--outbound-port")
    port = default if asked is None else asked
    return Listener("outbound", "127.0.0.1", port, workers, exact=asked is not None, option="--outbound-port")


def metrics_listener(port: int | None) -> Listener:
    return Listener("metrics", "127.0.0.1", port or 0, 1, exact=True, option="--metrics-port")


def compose(
    profile: Profile,
    arguments: Arguments,
    place: Place,
    installed: Mapping[str, Installed],
    said: Said | None = None,
    *,
    fused: ProcessPlan | None = None,
) -> Plan:
    """The plan. `installed` by the name of the sidecar; all that the profile names are among them. `said` is what the
    profile was made from, `fused` the process that our sidecars share."""
    ready_timeout = arguments.ready_timeout if arguments.ready_timeout is not None else seconds(profile.ready_timeout)
    return Plan(
        service=arguments.name,
        profile=arguments.profile,
        arguments=arguments,
        place=place,
        proxy=_proxy(profile, arguments, place),
        sidecars={
            name: _sidecar(name, profile, arguments, place, known, fused=fused is not None)
            for name, known in installed.items()
        },
        enabled=tuple(profile.sidecars),
        app=_app(profile, arguments, place, ready_timeout) if arguments.command else None,
        base=base_table(profile, arguments),
        ready_timeout=ready_timeout,
        drain=seconds(profile.proxy.timeouts.drain),
        orphan_grace_ms=grace_milliseconds(profile.orphan_grace),
        settings={
            **msgspec.to_builtins(profile),
            "sidecars": {
                name: _filled(settings, _facts(name, profile, arguments, place))
                for name, settings in profile.sidecars.items()
            },
        },
        said=said or Said(),
        fused=fused,
        central=central_table.central_table(profile, arguments, place),
    )


def base_table(profile: Profile, arguments: Arguments) -> dict[str, Any]:
    """The payload of table `base`: what the proxy does when no sidecar says more."""
    timeouts = profile.proxy.timeouts
    words = static_slots((name, e.address) for name, endpoints in profile.services.items() for e in endpoints)
    own_hosts = [arguments.name, "localhost", "127.0.0.1", "[::1]"]
    return {
        "service": arguments.name,
        "lifecycle": "serving",
        "app": arguments.app,
        "inbound": {
            "hosts": own_hosts + [host for host in profile.inbound.hosts if host not in own_hosts],
            "trusted_hops": profile.inbound.trusted_hops,
        },
        "outbound": {"unknown": str(profile.outbound.unknown)},
        "balance": str(profile.proxy.balance),
        "seed": profile.proxy.seed,
        "timeouts": {
            "header_ms": milliseconds(timeouts.header),
            "idle_ms": milliseconds(timeouts.idle),
            "connect_ms": milliseconds(timeouts.connect),
            "request_ms": milliseconds(timeouts.request),
            "drain_ms": milliseconds(timeouts.drain),
        },
        "clusters": [
            {"name": name, "endpoints": [_static(e, words.get((name, e.address))) for e in endpoints]}
            for name, endpoints in profile.services.items()
        ],
    }


def _static(endpoint: Endpoint, word: Word | None) -> dict[str, Any]:
    said = {"address": endpoint.address, "weight": endpoint.weight, "metadata": endpoint.metadata}
    return said if word is None else {**said, "slot": word.slot, "incarnation": word.incarnation}


def fused_process(arguments: Arguments, place: Place, token: str) -> ProcessPlan:
    """The process that our sidecars share. Its own bus connection is what it is told by whom to run; what a sidecar
    needs comes over the sidecar's."""
    return ProcessPlan(
        name=FUSED,
        kind=Kind.SIDECAR,
        argv=(sys.executable, "-P", "-m", "pannier.supervisor.fused"),
        environment=_environment(arguments, place, token),
        cwd=arguments.cwd,
        held=(),
        stdio=(Stdio.NULL, Stdio.PIPE, Stdio.PIPE),
        own_group=True,
        restart=RestartSettings(Policy.PERMANENT, settles=SETTLES, prompt=True),
        readiness=Readiness.MESSAGE,
        ready_within=SIDECAR_READY_WITHIN,
        silence=SILENCE,
        grant=Grant(role=FUSED, token=token, descriptors=(), config=b"", topics=()),
    )


def _sidecar(
    name: str, profile: Profile, arguments: Arguments, place: Place, known: Installed, *, fused: bool
) -> ProcessPlan:
    settings = profile.sidecars.get(name, known.settings)
    needs, ours = needs_of(type(settings)), is_ours(type(settings))
    writes = tuple(kind for kind in needs.writes if kind in TABLES)
    read = (held if held in SEGMENTS else f"table.{held}" for held in needs.reads)
    filled = msgspec.convert(_filled(settings, _facts(name, profile, arguments, place)), type(settings))
    # -P: the app's folder may hold a `calendar.py`, which `python -m` would import instead of the real one.
    return ProcessPlan(
        name=name,
        kind=Kind.SIDECAR,
        argv=(sys.executable, "-P", "-m", known.module),
        environment=_environment(arguments, place, known.token),
        cwd=arguments.cwd,
        held=needs.listeners if ours else (),
        stdio=(Stdio.NULL, Stdio.NULL, Stdio.NULL) if fused and ours else (Stdio.NULL, Stdio.PIPE, Stdio.PIPE),
        own_group=True,
        restart=RestartSettings(Policy.PERMANENT, settles=SETTLES, prompt=True),
        readiness=Readiness.MESSAGE,
        ready_within=SIDECAR_READY_WITHIN,
        silence=SILENCE,
        writes=writes,
        grant=Grant(
            role=name,
            token=known.token,
            descriptors=(*(f"table.{kind}" for kind in writes), *read),
            config=msgspec.msgpack.encode(sparse(filled)),
            topics=needs.publishes,
            hears=None if ours else (LIFECYCLE, *needs.subscribes),
            verbs=None if ours else needs.verbs,
        ),
        fused=fused and ours,
    )


def _environment(arguments: Arguments, place: Place, token: str) -> dict[str, str]:
    return {
        **_telemetry(arguments),
        **without_outer(place.environment),
        "PANNIER_BUS": place.inside("bus.sock"),
        "PANNIER_TOKEN": token,
    }


def _facts(name: str, profile: Profile, arguments: Arguments, place: Place) -> dict[str, Any]:
    """What only the supervisor knows, in the fields that a built-in sidecar's settings keep for it."""
    if name == "observability":
        return {"resource": {"service": arguments.name, "stage": arguments.profile}}
    if name == "discovery":
        services = {name: [msgspec.to_builtins(e) for e in found] for name, found in profile.services.items()}
        address = place.address("inbound") if arguments.app else None
        instance = {"address": address}
        if profile.central is not None:  # a Central knows it by the id that the data path tells
            instance["id"] = central_table.instance(profile, arguments, place)
        facts: dict[str, Any] = {"services": services, "app": arguments.app, "instance": instance}
        if profile.central is not None and profile.central.gateway is not None:
            facts["vouches"] = True
        if getattr(profile.sidecars.get(name), "pilot", None) is None:
            return facts
        return {**facts, "stage": arguments.profile}  # of no use otherwise, and another stage would restart it
    return {}


def _filled(settings: msgspec.Struct, facts: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `facts` wherever the profile says nothing."""
    return _laid_under(msgspec.to_builtins(settings), facts)


def _laid_under(said: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    for key, fact in facts.items():
        if isinstance(fact, dict) and isinstance(said.get(key), dict):
            said[key] = _laid_under(said[key], fact)
        elif not said.get(key):
            said[key] = fact
    return said


def _proxy(profile: Profile, arguments: Arguments, place: Place) -> ProcessPlan:
    return ProcessPlan(
        name="proxy",
        kind=Kind.PROXY,
        argv=(place.pannierd, "proxy", WORKERS, str(worker_count(profile, arguments, place.cores))),
        environment={**without_outer(place.environment), "NOTIFY_SOCKET": place.inside("notify.sock")},
        cwd=arguments.cwd,
        held=("inbound", "outbound", *central_table.held_names(profile, place), *SEGMENTS),
        stdio=(Stdio.NULL, Stdio.PIPE, Stdio.PIPE),
        own_group=True,
        restart=RestartSettings(Policy.PERMANENT, settles=SETTLES, prompt=True),
        readiness=Readiness.NOTIFY,
        ready_within=SIDECAR_READY_WITHIN,
        silence=SILENCE,
    )


def _app(profile: Profile, arguments: Arguments, place: Place, ready_timeout: float) -> ProcessPlan:
    output = Stdio.INHERIT if arguments.terminal else Stdio.PIPE
    return ProcessPlan(
        name="app",
        kind=Kind.APP,
        argv=arguments.command,
        environment=app_environment(profile, arguments, place),
        cwd=arguments.cwd,
        held=(),
        stdio=(Stdio.INHERIT, output, output),
        own_group=not arguments.terminal,
        restart=RestartSettings(
            Policy.TRANSIENT if profile.restart.on_crash else Policy.TEMPORARY,
            max_restarts=profile.restart.max_restarts,
            period=seconds(profile.restart.period),
            settles=seconds(profile.restart.period),
        ),
        readiness=Readiness.LISTENING if arguments.app else Readiness.SPAWNED,
        ready_within=ready_timeout,
    )


def handed_all(plan: Plan, hostname: str = "") -> Plan:
    """The plan of a release before, whose proxy was handed fewer segments: its next life gets all there are. Its place
    had no `hostname`, its settings no `central`."""
    held = dict.fromkeys([*plan.proxy.held, *SEGMENTS])
    return msgspec.structs.replace(
        plan,
        proxy=msgspec.structs.replace(plan.proxy, held=tuple(held)),
        place=msgspec.structs.replace(plan.place, hostname=plan.place.hostname or hostname),
        settings={"central": None, **plan.settings},
    )


def app_environment(profile: Profile, arguments: Arguments, place: Place) -> dict[str, str]:
    """The caller's environment and, wherever the user set nothing, ours. Upper and lower case are one variable.

    No client takes a Unix socket as `HTTP_PROXY`, so then there is none.
    """
    environment = without_outer(place.environment)
    outbound = place.url("outbound")
    ours = {
        "PANNIER_NAME": arguments.name,
        "PANNIER_OUTBOUND": outbound,
        "PANNIER_BUS": place.inside("bus.sock"),
        "PANNIER_API": place.inside("api.sock"),
        **_telemetry(arguments),
        **({} if XDS_FILE in environment else _xds(profile, arguments)),
    }
    for name, value in () if "outbound" in place.sockets else (("HTTP_PROXY", outbound), ("NO_PROXY", LOOPBACK)):
        if name not in environment and name.lower() not in environment:
            ours |= {name: value, name.lower(): value}
    return {**ours, **environment}


def _xds(profile: Profile, arguments: Arguments) -> dict[str, str]:
    """Where gRPC's own clients find a pilot, if the profile says where one serves them."""
    pilot = getattr(profile.sidecars.get("discovery"), "pilot", None)
    if pilot is None or pilot.grpc is None:
        return {}
    from pannier.sidecars.pilot.xds import bootstrap

    made = bootstrap.grpc(pilot.grpc, arguments.name, metadata={"stage": arguments.profile})
    return {XDS_CONFIG: msgspec.json.encode(made).decode()}


def without_outer(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` less what a Pannier around us gave to its app: a shell under `run` may run another service."""
    inner = {k: v for k, v in environment.items() if k not in {"PANNIER_TOKEN", "PANNIER_FDS", "NOTIFY_SOCKET"}}
    name, outbound = inner.get("PANNIER_NAME", ""), inner.get("PANNIER_OUTBOUND", "")
    if not (name and outbound and inner.get("PANNIER_BUS", "").endswith(f"/{name}/bus.sock")):
        return inner
    if outbound in {inner.get("HTTP_PROXY"), inner.get("http_proxy")}:
        for variable in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
            inner.pop(variable, None)
    if inner.get("OTEL_SERVICE_NAME") == name:
        inner.pop("OTEL_SERVICE_NAME")
        inner.pop("OTEL_RESOURCE_ATTRIBUTES", None)
    if f'"id":"{name}"' in inner.get(XDS_CONFIG, ""):
        inner.pop(XDS_CONFIG)
    for variable in ("PANNIER_NAME", "PANNIER_OUTBOUND", "PANNIER_BUS", "PANNIER_API"):
        inner.pop(variable, None)
    return inner


def _telemetry(arguments: Arguments) -> dict[str, str]:
    return {
        "OTEL_SERVICE_NAME": arguments.name,
        "OTEL_RESOURCE_ATTRIBUTES": f"deployment.environment.name={arguments.profile}",
    }
