"""What `[central]` says that cannot be meant: thresholds that would flap, identities that nobody can check. Pure.

The data path refuses the same thresholds (`shared/core/central/src/config.rs`); here they are refused with the place
where they are written, before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

from pannier.shared.central import TICK_MS, CentralSettings
from pannier.shared.duration import milliseconds
from pannier.shared.explain import BAD_VALUE, Finding
from pannier.shared.instances import check_address

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


def findings(profile: Profile, *, discovery: bool, pilot: bool) -> list[Finding]:
    """What is wrong, with paths from the root of the profile; `discovery`, `pilot`: whether the profile has them."""
    central = profile.central
    if central is None:
        return []
    found = [*_flapping(central), *_places(central)]
    if central.gateway is not None:
        found += _as_central(central, profile.outbound.unknown)
    else:
        found += _as_client(central, profile.outbound.unknown, discovery=discovery, pilot=pilot)
    return found


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
    for number, address in enumerate(central.addresses):
        try:
            check_address(address)
        except ValueError as error:
            yield Finding(
                ("central", "addresses", number), BAD_VALUE, str(error), 'expected one like "10.77.0.2:15090"'
            )
    for number, text in enumerate(central.plain):
        try:
            ip_network(text)
        except ValueError as error:
            expected = 'expected a network such as "10.77.0.0/24" or "fd00::/8"'
            yield Finding(("central", "plain", number), BAD_VALUE, f"no network: {error}", expected)
    for path, host in ((("advertise",), central.advertise), (("gateway", "host"), _listens(central))):
        if host is not None and (":" in host or path[-1] == "host"):
            try:
                ip_address(host.strip("[]"))
            except ValueError as error:
                yield Finding(("central", *path), BAD_VALUE, str(error), "expected a host without a port")


def _listens(central: CentralSettings) -> str | None:
    return None if central.gateway is None else central.gateway.host


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
    """A name may be anywhere: where networks are named, the data path looks whether it is in one of them."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        ip = ip_address(host)
    except ValueError:
        return host == "localhost" or bool(plain)
    return ip.is_loopback or any(ip in network for network in plain)
