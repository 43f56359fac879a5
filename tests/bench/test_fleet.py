"""The load client against a real pilot, very small: that it works, and says what is wrong. No figures here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.fleet import restarted, told
from tests.bench.fleet_processes import Client, Fleet, Pilot

SMALL = Fleet(instances=20, hosts=4, lease_ms=3000)
OPTIONS = {"per-service": "5", "follows": "2", "spread": "0.1"}


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[Pilot]:
    with Pilot(tmp_path, str(tmp_path / "store.sqlite")) as found:
        yield found


def test_a_small_fleet_opens_changes_and_outlives_its_pilot(pilot: Pilot) -> None:
    with Client(pilot.place("tcp"), pilot.token, SMALL, OPTIONS) as client:
        rows = [told("open", pilot, client, "open"), told("changes", pilot, client, "changes 4 1")]
        rows += [told("churn", pilot, client, "churn 50 1"), restarted("restart", pilot, client)]
        gone = client.tell("slow 1")
    assert [(row.scenario, row.changes, row.first_error) for row in rows] == [
        ("open", 0, ""),
        ("changes", 4, ""),
        ("churn", 50, ""),
        ("restart", 0, ""),
    ]
    assert gone["errors"] == 0


def test_who_has_no_token_is_refused_and_the_client_says_so(pilot: Pilot) -> None:
    with Client(pilot.place("tcp"), "wrong", SMALL, OPTIONS | {"patience": "1"}) as client:
        said = client.tell("open")
    assert "token" in str(said["first_error"])
