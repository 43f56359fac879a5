"""Table "Hostile traffic": what strangers may do to a public port, and what nobody else may notice of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults.amplifying import AlwaysFailing
from tests.faults.attack import Several
from tests.faults.attacks import BOMBS, FRAMING, LEGITIMATE
from tests.faults.bed import Stage
from tests.faults.crowding import Flood, SlowReaders, SlowSenders
from tests.faults.refusing import Administered, Injected, OwnFields, Refused, UnknownHosts, Upgraded
from tests.faults.row import Fault, Row

TABLE: Final = "Hostile traffic"
WHOLE: Final = Stage("production")
IDLE_S: Final = 3.0
IMPATIENT: Final = Stage("production", (f"proxy.timeouts.idle={IDLE_S:g}s",))
OPEN: Final = Stage("production", ("outbound.unknown=passthrough",))
UNBROKEN: Final = Stage("production", ('sidecars.resilience.services={"*" = {failure_policy = "none"}}',))
GATE: Final = "others: 0 failed, p99 at most twice; amplified at most 10 times; counted; the proxy does not grow"
SLOWER: Final = 2.0


def row(
    name: str, fault: str, promise: str, how: Fault, stage: Stage = WHOLE, *, seconds: float = 10.0, quick: bool = False
) -> Row:
    """A row of this table: while the load goes to the public port, so does the attack."""
    return Row(
        name=f"hostile-{name}",
        table=TABLE,
        fault=fault,
        promise=f"{promise}; {GATE}",
        how=how,
        stage=stage,
        seconds=seconds,
        short_seconds=4.0 if quick else None,
        to="inbound",
        slower=SLOWER,
        quick=quick,
    )


ROWS: Final[Sequence[Row]] = (
    row(
        "framing",
        "requests that could be read in two ways, each with another one smuggled behind it",
        "400 and close; nothing reaches an origin",
        Refused(FRAMING),
        quick=True,
    ),
    row(
        "bombs",
        "heads, targets, chunk extensions, trailers and Connection options over every limit",
        "431, 414 or as named, and close; 90 cookie crumbs and 59 KiB of fields pass",
        Refused(BOMBS, LEGITIMATE),
        quick=True,
    ),
    row(
        "log",
        "control characters, quotes and forged lines in path, method, Host, user agent, request id and trace state",
        "one request is one line of JSON with everything escaped, as `pannier logs` prints it too",
        Injected(),
        quick=True,
    ),
    row(
        "strangers",
        "x-pannier-* under every alias; another protocol behind an upgrade that is not granted; authorities not served "
        "here; link-local and metadata addresses, also by name; a stranger's page in a browser of this host",
        "none of ours arrives; what follows an upgrade without 101 is a request, or refused; 404 NR, never looked up; "
        "403 DN, never reached; metrics and health answer 403",
        Several((OwnFields(), Upgraded(), UnknownHosts(), Administered())),
        OPEN,
    ),
    row(
        "slow-senders",
        "200 heads of 4 B/s and 60 bodies of 20 B/s",
        "408 and close after 10 s, or when a body has been below 240 B/s for as long",
        SlowSenders(),
        seconds=14.0,
    ),
    row(
        "slow-crowd",
        "300 bodies of 20 B/s, more than load shedding lets be under way at the same time",
        "they are told 408, or 503 at once, and take nobody else's place",
        SlowSenders(heads=1, bodies=300, are_shed=True),
        seconds=14.0,
    ),
    row(
        "slow-readers",
        "64 clients that read 1 MiB at 10 KiB/s, and 16 that ask for 20 MiB and more and read nothing",
        "who reads is served; who does not is cut after the idle timeout, and nothing more is fetched for him",
        SlowReaders(IDLE_S),
        IMPATIENT,
        seconds=12.0,
    ),
    row(
        "flood",
        "3 000 connections opened and left, 250 a second opened and closed",
        "at most 10 KiB for each that is left; a new connection is served",
        Flood(),
    ),
    row(
        "retries",
        "400 requests a second that always fail, through a caller that retries and into the callee, with forged fields",
        "the budget holds: 1.2 x + 10/s; nothing is repeated for who comes from outside",
        AlwaysFailing(),
        UNBROKEN,
    ),
)
