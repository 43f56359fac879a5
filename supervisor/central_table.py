"""The payload of table `central`: how work leaves this host for a Central, or comes in if it is one. Pure.

Keys are those of `pannier_decide::schema::central`. What was forced by hand is no part of the plan: it is laid into the
payload when that is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from pannier.shared.central import CentralSettings, Enter
from pannier.shared.duration import milliseconds
from pannier.shared.instances import default_id
from pannier.shared.profile import Profile
from pannier.supervisor.plan import Arguments, Listener, Place, Plan

PASSTHROUGH: Final = "passthrough"
GATEWAY: Final = "gateway"
LISTENERS: Final = (PASSTHROUGH, GATEWAY)
_OPTION: Final = {PASSTHROUGH: "--set central.port=N", GATEWAY: "--set central.gateway.port=N"}
_ANY: Final = "0.0.0.0"
_LOOPBACK: Final = "127.0.0.1"


class Forced(msgspec.Struct, frozen=True):
    """A weight, in points of 100, that somebody asked for; another `id` is another asking."""

    weight: float
    id: int


def listener(profile: Profile, workers: int) -> Listener | None:
    """What a Central, or a service that leans on one, listens on besides; None without a Central Mesh."""
    central = profile.central
    if central is None:
        return None
    gateway = central.gateway
    if gateway is None:
        return Listener(PASSTHROUGH, _ANY, central.port, workers, exact=True, option=_OPTION[PASSTHROUGH])
    return Listener(GATEWAY, gateway.host, gateway.port, workers, exact=True, option=_OPTION[GATEWAY])


def held_names(profile: Profile, place: Place) -> tuple[str, ...]:
    """What of that the proxy is handed. A listener that is bound stays: nobody else would take what comes in there."""
    wanted = listener(profile, 1)
    return tuple(name for name in LISTENERS if name in place.ports or (wanted is not None and wanted.name == name))


def widened(plan: Plan, workers: int) -> list[Listener]:
    """The same listeners for so many workers, of a service that runs: those that are bound, where they are."""
    central = plan.settings.get("central") or {}
    gateway = central.get("gateway") or {}
    said = {PASSTHROUGH: (_ANY, central.get("port", 0)), GATEWAY: (gateway.get("host", _ANY), gateway.get("port", 0))}
    return [
        Listener(
            name, said[name][0], plan.place.ports.get(name, said[name][1]), workers, exact=True, option=_OPTION[name]
        )
        for name in LISTENERS
        if name in plan.proxy.held
    ]


def central_table(profile: Profile, arguments: Arguments, place: Place) -> dict[str, Any] | None:
    """The payload; None without a Central Mesh. A listener that is not bound yet has port 0 in it: see `bound`."""
    central = profile.central
    if central is None:
        return None
    gateway, host = central.gateway, advertised(profile, central, place)
    client = gateway is None
    return {
        "service": central.service,
        "addresses": list(central.addresses),
        "plain": list(central.plain),
        "tls": None if central.tls is None else msgspec.to_builtins(central.tls),
        "outbound": str(central.outbound) if client else "off",
        "inbound": central.inbound and client,
        "instance": instance(profile, arguments, place),
        "passthrough": _reached(host, place.ports.get(PASSTHROUGH, 0)) if client else None,
        "listener": None if "outbound" in place.sockets else place.address("outbound"),
        "api": place.inside("api.sock"),
        "controller": controller(central),
        "gateway": None
        if gateway is None
        else {
            "capacity": float(gateway.capacity),
            "hosts": gateway.hosts,
            "address": _reached(host, place.ports.get(GATEWAY, 0)),
        },
    }


def bound(payload: dict[str, Any], ports: Mapping[str, int]) -> dict[str, Any]:
    """The payload with the port that `passthrough` was given since."""
    if payload["passthrough"] is None or PASSTHROUGH not in ports:
        return payload
    host = payload["passthrough"].rpartition(":")[0]
    return {**payload, "passthrough": f"{host}:{ports[PASSTHROUGH]}"}


def advertised(profile: Profile, central: CentralSettings, place: Place) -> str:
    """The host under which others reach this one. A Central on all addresses to which others can come says this host's
    own."""
    pilot = getattr(profile.sidecars.get("discovery"), "pilot", None)
    said: str | None = central.advertise or getattr(pilot, "advertise", None)
    if said is not None:
        return said
    if central.gateway is None:
        return _LOOPBACK
    host = central.gateway.host.strip("[]")
    if not ip_address(host).is_unspecified:
        return host
    others_may_come = central.tls is not None or bool(central.plain)
    return place.outward or _LOOPBACK if others_may_come else _LOOPBACK


def instance(profile: Profile, arguments: Arguments, place: Place) -> str:
    """The id under which discovery announces this instance; that of a Central is named after its gateway."""
    said = getattr(getattr(profile.sidecars.get("discovery"), "instance", None), "id", None)
    if said is not None:
        return str(said)
    if GATEWAY in place.ports:
        return default_id(place.hostname, f":{place.ports[GATEWAY]}", arguments.name)
    address = place.address("inbound") if arguments.app else f":{arguments.name}"
    return default_id(place.hostname, address, arguments.name)


def _reached(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def controller(central: CentralSettings) -> dict[str, Any]:
    """The numbers by which work leaves and comes back."""
    leave = central.leave
    return {
        "enter": _enter(central.enter),
        "leave": {"share": float(leave.share), "calm_ms": milliseconds(leave.calm)},
        "dwell_ms": milliseconds(central.dwell),
        "jitter": float(central.jitter),
        "step_up": float(central.step_up),
        "step_down": float(central.step_down),
    }


def _enter(enter: Enter) -> dict[str, Any]:
    return {
        "host_pressure": float(enter.host_pressure),
        "cgroup_pressure": float(enter.cgroup_pressure),
        "throttled": float(enter.throttled),
        "queue_wait_ms": float(milliseconds(enter.queue_wait)),
        "holds_ms": milliseconds(enter.holds),
        "within_ms": milliseconds(enter.within),
    }


def thresholds(payload: Mapping[str, Any]) -> dict[str, float]:
    """Of a payload: what lets work leave, by the names of the inputs."""
    return {
        name: value
        for name, value in payload["controller"]["enter"].items()
        if name in {"host_pressure", "cgroup_pressure", "throttled", "queue_wait_ms"}
    }
