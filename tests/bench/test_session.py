"""The harness with a real origin, and with peers that are quick to start."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import load, memory
from tests.bench.peers import PEERS, Peer
from tests.bench.processes import BenchmarkError
from tests.bench.scenarios import SCENARIOS, layouts
from tests.bench.session import Refused, Session
from tests.bench.speed import Speedometer

Start = Callable[[str], Peer]


@pytest.fixture
def session(short_path: Path, require_peer: Callable[[str], str]) -> Iterator[Session]:
    require_peer("nginx")
    (layout, *_) = layouts(sorted(os.sched_getaffinity(0)))
    found = Session(SCENARIOS[0], layout, short_path, load.build(), Speedometer())
    with found.running():
        yield found


def ending(code: int) -> Peer:
    """A peer that says why it ends, and ends."""
    return Peer("ending", "", lambda: "sh", lambda place: ["sh", "-c", f"echo not today; exit {code}"])


def test_a_peer_that_the_kernel_refuses_is_told_from_one_that_fails(session: Session) -> None:
    with pytest.raises(Refused, match=r"^not today$"):
        session.start(ending(77))


def test_a_peer_that_ends_is_told_with_its_last_words(session: Session) -> None:
    with pytest.raises(BenchmarkError, match="not today") as failed:
        session.start(ending(1))
    assert not isinstance(failed.value, Refused)


def test_a_relay_is_measured_and_weighed(session: Session) -> None:
    relays = [peer for peer in PEERS if peer.key in ("relay", "relay-tokio")]
    complaints: list[str] = []
    weights = memory.weigh(session, relays, 100, complaints.append)
    assert (complaints, [one.key for one in weights]) == ([], ["relay", "relay-tokio"])
    assert all(one.idle_bytes > 500_000 for one in weights)
    # A task and two streams are more than an entry of a vector.
    assert weights[0].bytes_per_connection < weights[1].bytes_per_connection


def test_a_proxy_that_answers_wrongly_has_no_weight(session: Session) -> None:
    complaints: list[str] = []
    assert memory.weigh(session, [ending(1)], 10, complaints.append) == []
    assert len(complaints) == 1
    assert "ending: its memory was not measured" in complaints[0]
