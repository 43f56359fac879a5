"""What `[central]` says that cannot be meant: thresholds that would flap, identities that nobody can check. Pure.

The data path refuses the same thresholds (`shared/core/central/src/config.rs`); here they are refused with the place
where they are written, before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

from pannier.shared.central import TICK_MS, CentralSettings
from pannier.shared.duration import milliseconds
from pannier.shared.explain import BAD_VALUE, Finding
from pannier.shared.instances import check_ip_address

if TYPE_CHECKING:
    from pannier.shared.profile import Profile

FLAPS: Final = "PAN0501"
OPEN_NAMES: Final = "PAN0502"
UNENCRYPTED: Final = "PAN0503"
CENTRAL_AND_CLIENT: Final = "PAN0504"
NOBODY: Final = "PAN0505"

MOST_SHARE: Final = 0.8
MOST_JITTER: Final = 0.5

_Networks: TypeAlias = list[IPv4Network | IPv6Network]


def findings(profile: Profile, *, discovery: bool, pilot: bool, advertised: str | None = None) -> list[Finding]:
    """What is wrong, with paths from the root of the profile; `discovery`, `pilot`: whether the profile has them,
    `advertised`: the pilot's `advertise`, which holds where `central.advertise` says nothing."""
    central = profile.central
    if central is None:
        return []
    found = [*_flapping(central), *_places(central)]
    if advertised is not None and central.advertise is None and _ip(advertised) is None:
        found.append(_advertised_name(central, advertised))
    if central.gateway is not None:
        found += _as_central(central, profile.outbound.unknown)
    else:
        found += _as_client(central, profile.outbound.unknown, discovery=discovery, pilot=pilot)
    return found


def _advertised_name(central: CentralSettings, name: str) -> Finding:
    """Nobody looks up names to reach a Central, and a Central none to reach an app."""
    where, expected = ("sidecars", "discovery", "pilot", "advertise"), "expected central.advertise with an IP address"
    if central.gateway is not None:
        return Finding(where, BAD_VALUE, f"{name} is no IP address, so nobody would reach this Central", expected)
    message = f"{name} is no IP address, so a Central does not reach the app, and calls to it never leave"
    return Finding(where, NOBODY, message, expected, severity="warning")


def _flapping(central: CentralSettings) -> Iterator[Finding]:
    """The rules of `Config::check`, with their reasons."""
    enter, leave = central.enter, central.leave
    holds, within, calm, dwell = map(milliseconds, (enter.holds, enter.within, leave.calm, central.dwell))
    needed = math.ceil(100 / central.step_up) * TICK_MS + within
    jitter = min(max(central.jitter, 0.0), MOST_JITTER)
    faster = central.step_up * 1000 / TICK_MS
    rules: tuple[tuple[bool, tuple[str, ...], str, str], ...] = (
        (
            not 0 < leave.share <= MOST_SHARE,
            ("leave", "share"),
            f"{leave.share:g}: work would come back to a host that is nearly as busy as when it left, and leave again",
            f"expected more than 0, and at most {MOST_SHARE:g}",
        ),
        (
            holds < TICK_MS,
            ("enter", "holds"),
            f"{enter.holds}: one sample would be enough for work to leave",
            f"expected at least {TICK_MS}ms",
        ),
        (
            within < holds,
            ("enter", "within"),
            f"{enter.within}: nothing holds for {enter.holds} within that, so work would never leave",
            f"expected at least {enter.holds}",
        ),
        (
            calm < holds,
            ("leave", "calm"),
            f"{leave.calm}: work would come back faster than it leaves, and leave again",
            f"expected at least {enter.holds}, as enter.holds",
        ),
        (
            milliseconds(enter.queue_wait) == 0,
            ("enter", "queue_wait"),
            f"{enter.queue_wait}: some work always waits, so it would never stay here",
            "expected at least 1ms",
        ),
        (
            dwell * (1 - jitter) < needed,
            ("dwell",),
            f"{central.dwell}: less its jitter it would end before a whole shift can be seen to help, which takes "
            f"{needed} ms (100 points by step_up, and enter.within)",
            f"expected at least {math.ceil(needed / (1 - jitter))}ms",
        ),
        (
            not 0 <= central.jitter <= MOST_JITTER,
            ("jitter",),
            f"{central.jitter:g}: the dwell could end at once",
            f"expected 0 to {MOST_JITTER:g}",
        ),
        (
            central.step_down > faster,
            ("step_down",),
            f"{central.step_down:g} points a second: work would come back faster than it can leave",
            f"expected at most {faster:g}, which is step_up in a second",
        ),
        (
            100_000 / central.step_down < within,
            ("step_down",),
            f"{central.step_down:g} points a second: all work would be back before {enter.within} (enter.within) have "
            "shown what it does",
            f"expected at most {100_000 / max(within, 1):g}",
        ),
    )
    for wrong, path, message, expectation in rules:
        if wrong:
            yield Finding(("central", *path), FLAPS, message, expectation)


def _places(central: CentralSettings) -> Iterator[Finding]:
    known: set[str] = set()
    for number, address in enumerate(central.addresses):
        path = ("central", "addresses", number)
        try:
            ip = check_ip_address(address)
        except ValueError as error:
            yield Finding(path, BAD_VALUE, str(error), 'expected one like "10.77.0.2:15090"')
            continue
        place = f"{ip}:{int(address.rpartition(':')[2])}"
        if ip.is_unspecified:
            yield Finding(path, BAD_VALUE, f"{address} is nobody's address", "expected that of a Central")
        elif place in known:
            yield Finding(path, NOBODY, f"{address} is there twice", "expected each Central once", severity="warning")
        known.add(place)
    for number, text in enumerate(central.plain):
        path = ("central", "plain", number)
        try:
            network = ip_network(text)
        except ValueError as error:
            expected = 'expected a network such as "10.77.0.0/24" or "fd00::/8"'
            yield Finding(path, BAD_VALUE, f"no network: {error}", expected)
            continue
        if network.prefixlen == 0:
            message = f"{text}: whoever reaches this host is believed, and nothing is encrypted anywhere"
            yield Finding(
                path, NOBODY, message, "expected the network that hosts and Centrals share", severity="warning"
            )
    yield from _hosts(central)


def _hosts(central: CentralSettings) -> Iterator[Finding]:
    if (said := central.advertise) is not None:
        ip = _ip(said)
        if ip is None or ip.is_unspecified:
            message = f"{said} is nobody's address" if ip is not None else f"{said} is no IP address"
            yield Finding(
                ("central", "advertise"), BAD_VALUE, message, "expected that under which others reach this host"
            )
    if central.gateway is not None:
        host = central.gateway.host
        bare = host.removeprefix("[").removesuffix("]")
        ip = _ip(bare)
        if ip is None or (ip.version == 6) is not host.startswith("["):
            path = ("central", "gateway", "host")
            yield Finding(path, BAD_VALUE, f"{host} is no IP address", 'expected one like "0.0.0.0" or "[::]"')


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _as_client(central: CentralSettings, unknown: str, *, discovery: bool, pilot: bool) -> Iterator[Finding]:
    if central.outbound != "off" and unknown != "deny":
        yield Finding(
            ("central", "outbound"),
            OPEN_NAMES,
            f'{central.outbound}: the app\'s calls leave, and outbound.unknown is "{unknown}", so the Central would '
            "have to look up names that only this host's network knows",
            'expected outbound.unknown = "deny", or central.outbound = "off"',
        )
    if central.tls is None:
        plain = _networks(central)
        for number, address in enumerate(central.addresses):
            if not _may_be_plain(address, plain):
                yield Finding(
                    ("central", "addresses", number),
                    UNENCRYPTED,
                    f"{address}: addresses outside loopback need certificates, or a network named in central.plain",
                    "expected central.tls with certificate, key and authority",
                )
    if central.outbound == "off" and not central.inbound:
        message = "outbound is off and inbound false: nothing can ever leave"
        yield Finding(("central",), NOBODY, message, "expected one of the two", severity="warning")
    if central.outbound == "redirect" and not central.plain and central.tls is not None:
        message = "redirect: the app's own connections go unencrypted, and no network in central.plain allows that"
        yield Finding(("central", "outbound"), NOBODY, message, 'expected "best", or central.plain', severity="warning")
    if central.addresses:
        return
    if not discovery:
        message = "no Central is named, and there is no discovery to find one: work can never leave"
        yield Finding(
            ("central",), NOBODY, message, "expected central.addresses, or [sidecars.discovery]", severity="warning"
        )
    elif central.tls is None and not central.plain and pilot:
        message = "without certificates and without a network in central.plain only a Central on this host is used"
        yield Finding(("central",), NOBODY, message, "expected central.tls, or central.plain", severity="warning")


def _as_central(central: CentralSettings, unknown: str) -> Iterator[Finding]:
    if unknown != "deny":
        yield Finding(
            ("central", "gateway"),
            OPEN_NAMES,
            f'it calls for others, and outbound.unknown is "{unknown}": it would call any name for whoever reaches it',
            'expected outbound.unknown = "deny"',
        )
    if central.addresses:
        yield Finding(
            ("central", "addresses"),
            CENTRAL_AND_CLIENT,
            "a Central leans on nobody: a call passes one Central at most",
            "expected no addresses beside central.gateway",
        )


def _networks(central: CentralSettings) -> _Networks:
    found: _Networks = []
    for text in central.plain:
        try:
            found.append(ip_network(text))
        except ValueError:
            continue
    return found


def _may_be_plain(address: str, plain: _Networks) -> bool:
    try:
        ip = check_ip_address(address)
    except ValueError:
        return True  # `_places` says what is wrong
    return ip.is_loopback or ip.is_unspecified or any(ip in network for network in plain)
