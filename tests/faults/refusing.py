"""Attacks by what is said: one connection a try, and what it deserves is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.attack import MALFORMED, Attack, Siege, answers
from tests.faults.attacker import Reply, Toll, forwarded, say, split
from tests.faults.attacks import FORBIDDEN_HOSTS, INJECTIONS, OURS, UNKNOWN_HOSTS, UPGRADES, Case
from tests.faults.bed import CALLEE, ORDERS, SHOP
from tests.faults.waiting import wait_until

WRITTEN_S = 3.0
ESCAPED = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)} - {"\n"}


def smuggled(siege: Siege) -> bytes:
    """A request that must never be seen by an origin, to be put behind something that is refused."""
    path = siege.path("smuggled").encode()
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\nx-bench-number: 1\r\nx-attack: 1\r\n\r\n" % path


def judge(siege: Siege, case: Case, reply: Reply) -> None:
    """One answer, that status, and the end of the connection."""
    right = len(reply.statuses) == 1 and case.status in (0, *reply.statuses)
    siege.trial.require(right, f"{case.name}: answered {reply.statuses}, promised {case.status}")
    siege.trial.require(reply.ended, f"{case.name}: the connection lives on")


@dataclass(frozen=True)
class Refused(Attack):
    """Each case again and again, with a smuggled request behind it; in between, what must pass."""

    cases: Sequence[Case]
    legitimate: Sequence[Case] = ()
    counts: tuple[str, ...] = (MALFORMED,)

    def attack(self, siege: Siege) -> None:
        behind = smuggled(siege)
        for case in siege.rounds((*self.cases, *self.legitimate)):
            if case in self.legitimate:
                judge(siege, case, say(siege.inbound, case.data + b"Connection: close\r\n\r\n", siege.toll))
            else:
                judge(siege, case, say(siege.inbound, case.data + behind, siege.toll))
                siege.count(MALFORMED)
        came, size = forwarded(siege.bed.ledgers, siege.path("smuggled"))
        siege.toll.forwarded += size + forwarded(siege.bed.ledgers, "/victim")[1]
        siege.trial.require(came == 0, f"{came} smuggled requests came to an origin")


class Injected(Attack):
    """Bytes that would spoil a log. One request, one line of JSON, nothing raw in it or in `pannier logs`."""

    def attack(self, siege: Siege) -> None:
        log = siege.bed.host.runtime / ORDERS / "access.log"
        start = log.stat().st_size
        sent = 0
        for case in siege.rounds(INJECTIONS):
            judge(siege, case, say(siege.inbound, case.data, siege.toll))
            sent += 1
        wait_until(lambda: len(strange(log, start)) >= sent, f"{sent} attacks are {sent} lines", within=WRITTEN_S)
        written = strange(log, start)
        siege.trial.require(len(written) == sent, f"{sent} attacks are {len(written)} lines")
        for line in written:
            siege.trial.require(not ESCAPED & set(line), f"raw in the log: {line!r}")
        shown = siege.bed.host.run("logs", "--access", "--tail", str(10 * len(INJECTIONS)), "--name", ORDERS).stdout
        found = ESCAPED & set(shown)
        siege.trial.require(not found and bool(shown), f"`pannier logs` prints {sorted(found)} as they came")


def entries(log: Path, start: int = 0) -> list[tuple[str, Mapping[str, Any]]]:
    """The whole lines of an access log from a place on, and what they say. Raises ValueError if one is no JSON."""
    with log.open("rb") as file:
        file.seek(start)
        whole, _, _ = file.read().rpartition(b"\n")
    return [(line, json.loads(line)) for line in whole.decode().split("\n") if line]


def strange(log: Path, start: int) -> list[str]:
    """The lines that are none of the load's."""
    return [line for line, said in entries(log, start) if not said["path"].startswith("/hostile-")]


class UnknownHosts(Attack):
    """Inbound nobody else is served, and nobody is looked up; outbound nothing link-local is reached."""

    counts = (answers(404), MALFORMED, "pannier_proxy_connects_failed_total")

    def attack(self, siege: Siege) -> None:
        before = connected(siege)
        for host in siege.rounds((*UNKNOWN_HOSTS, *FORBIDDEN_HOSTS)):
            for absolute in (False, True):
                if host in UNKNOWN_HOSTS:
                    self._ask(siege, siege.inbound, f"{host}:8080" if absolute else host, 404, "NR", absolute=absolute)
                    siege.count(answers(404))
                else:
                    self._ask(siege, siege.outbound, host, 403, "DN", absolute=absolute)
        made = connected(siege) - before
        siege.trial.require(made == 0, f"{made:g} connections were made to what is forbidden")

    def _ask(self, siege: Siege, address: str, host: str, status: int, reason: str, *, absolute: bool = False) -> None:
        target, named = (f"http://{host}/latest/meta-data/", CALLEE) if absolute else ("/latest/meta-data/", host)
        data = f"GET {target} HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n\r\n".encode()
        reply = say(address, data, siege.toll)
        judge(siege, Case(f"{host} at {address}", data, status), reply)
        told = f"x-pannier-reason: {reason}\r\n".encode()
        siege.trial.require(told in reply.data, f"{host}: the reason is not {reason}: {reply.data[:200]!r}")


def connected(siege: Siege) -> float:
    """How many connections the caller's proxy has made in its life."""
    metric = siege.bed.host.metric
    return metric(SHOP, "pannier_proxy_connects_total") - metric(SHOP, "pannier_proxy_connects_failed_total")


class OwnFields(Attack):
    """A stranger's `x-pannier-*`: none of them arrives. A deadline is honoured, since it only ever takes time away;
    what is passed on of it is our own field, once."""

    def attack(self, siege: Siege) -> None:
        fields = "".join(f"{name}: {value}\r\n" for name, value in OURS)
        data = f"GET /echo HTTP/1.1\r\nHost: {CALLEE}\r\n{fields}Connection: close\r\n\r\n".encode()
        for _ in siege.rounds((data,)):
            reply = say(siege.inbound, data, siege.toll)
            siege.toll.forwarded += len(reply.data)
            judge(siege, Case("own fields", data, 200), reply)
            arrived = reply.data.lower().partition(b"\r\n\r\n")[2]
            for name, _ in OURS:
                most = 1 if name.lower() == "x-pannier-deadline" else 0
                siege.trial.require(arrived.count(name.lower().encode() + b":") <= most, f"{name} arrived")


class Upgraded(Attack):
    """What stands behind an upgrade that is not granted is a request like any other, or is refused."""

    counts = (MALFORMED,)

    def attack(self, siege: Siege) -> None:
        behind = smuggled(siege)
        for data in siege.rounds(UPGRADES):
            reply = say(siege.inbound, data + behind, siege.toll)
            siege.trial.require(
                reply.statuses[:1] == [200] and 101 not in reply.statuses and reply.statuses[-1] in (400, 505),
                f"{data!r}: answered {reply.statuses}",
            )
            siege.count(MALFORMED)
        came, _ = forwarded(siege.bed.ledgers, siege.path("smuggled"))
        siege.trial.require(came == 0, f"{came} requests passed through an upgrade that was not granted")


class Administered(Attack):
    """What governs a service listens to this host and this user alone, and to no page of a stranger's in a browser."""

    def attack(self, siege: Siege) -> None:
        for service in (SHOP, ORDERS):
            folder = siege.bed.host.runtime / service
            for path in [siege.bed.host.runtime, folder, *folder.glob("*.sock")]:
                found = path.stat(follow_symlinks=False)
                private = found.st_uid == os.geteuid() and not found.st_mode & 0o077
                siege.trial.require(private, f"{service}: {path.name} has mode {found.st_mode:o}")
            for what in ("metrics", "outbound"):
                host, _ = split(siege.bed.address(service, what))
                siege.trial.require(host == "127.0.0.1", f"{what} of {service} listens on {host}")
        metrics = siege.bed.address(ORDERS, "metrics")
        for page, fields in siege.rounds([(page, fields) for page in PAGES for fields in FOREIGN]):
            data = f"GET {page} HTTP/1.1\r\n{fields}\r\nConnection: close\r\n\r\n".encode()
            judge(siege, Case(f"{page} with {fields!r}", data, 403), say(metrics, data, siege.toll))
        data = f"GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n".encode()
        judge(siege, Case("/metrics as it is meant", data, 200), say(metrics, data, Toll()))


PAGES = ("/metrics", "/readyz?verbose", "/livez")
FOREIGN = (
    "Host: rebound.example:9100",
    "Host: 127.0.0.1.rebound.example",
    "Host: localhost\r\nOrigin: https://evil.example",
    "Host: 127.0.0.1\r\nOrigin: null",
)
"""Fields as a browser sends them for a page of somebody else's."""
