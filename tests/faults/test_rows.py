"""The table as data, and what a reader is told of a row."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from tests.faults.row import pick
from tests.faults.run import ROWS, entry, line, times, words
from tests.faults.verdict import Trial, outcome, void_outcome

FIRST = ROWS[0]

CLAIMED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "Processes": {
        "kill -9 of traffic, resilience, discovery, observability, one by one": [
            "kill-traffic",
            "kill-resilience",
            "kill-discovery",
            "kill-observability",
        ],
        "and all at once, or in one process": ["kill-sidecars", "kill-fused", "kill-sidecars-and-supervisor"],
        "kill -9 of the supervisor, then start it again": ["kill-supervisor"],
        "kill -9 of the keeper": ["kill-keeper"],
        "kill -9 of the proxy": ["kill-proxy", "kill-proxy-of-callee"],
        "SIGSTOP of each sidecar": ["stop-traffic", "stop-resilience", "stop-discovery", "stop-observability"],
        "SIGSTOP of the supervisor": ["stop-supervisor"],
        "crash loop at start": ["crash-loop", "crash-loop-again"],
        "50 random profile transitions": ["transitions"],
        "hot upgrade of the proxy, workers": ["upgrade-proxy", "upgrade-refused", "upgrade-workers"],
        "SIGTERM": ["terminate"],
        "every runtime file missing, stale or foreign": ["runtime-left", "runtime-foreign"],
        "a storm of retries": ["storm", "storm-without-breakers"],
    },
    "Independence": {"everybody who governs killed for ten minutes": ["alone"]},
    "Bus and shared memory": {
        "one peer floods": ["bus-flood-refused", "bus-flood-asking"],
        "a subscriber never reads": ["bus-unread"],
        "foreign uid, wrong role, paths": ["bus-trespass"],
        "hostile msgpack": ["bus-garbled"],
        "bytes of a table flipped": ["table-flipped"],
        "a damaged hot word": ["hot-words-flipped"],
        "writer killed": ["table-writer-killed", "table-sidecar-killed"],
        "reader stopped": ["table-reader-stopped"],
        "two writers": ["table-two-writers"],
        "truncate or grow a segment": ["segment-resized"],
    },
    "Discovery": {
        "store killed, blackholed, paused": ["store-killed", "store-paused", "store-blackholed"],
        "everything restarts while the store is down": ["reboot-without-pilot"],
        "empty, null, missing or halved endpoint list": ["list-emptied"],
        "mass lease expiry": ["lease-expiry"],
        "split brain": ["split-brain"],
        "revision going backwards": ["store-set-back"],
        "clock": ["clock-jumps"],
        "zombie of an older epoch": ["zombie"],
        "crash of an instance, SIGTERM, wiped store": ["instance-crashes", "instance-leaves", "store-wiped"],
        "kill -9 of the pilot": ["pilot-killed"],
        "all of it at random, judged by what was told": ["history-of-one", "history-of-three"],
    },
    "Central Mesh": {
        "forced shifts and returns": ["central-shifts-relay", "central-shifts-redirect"],
        "real starvation": ["central-starved"],
        "kill -9 of the Central": ["central-killed-relay", "central-killed-redirect"],
        "down, slow, partitioned, restarted": [
            "central-slow",
            "central-stopped",
            "central-partitioned",
            "central-restarted",
        ],
        "out of tokens, overloaded, looping": ["central-out-of-tokens", "central-overloaded", "central-looping"],
        "both down": ["central-both-down"],
        "a peer that claims to be a Central, a token flood": ["central-false", "central-token-flood"],
        "pressure files": ["central-nothing-to-read"],
    },
    "Hostile traffic": {
        "ambiguous framing": ["hostile-framing"],
        "limits of heads, targets, chunks": ["hostile-bombs"],
        "control characters in the log": ["hostile-log"],
        "identity, upgrades, authorities, admin": ["hostile-strangers"],
        "slow heads and bodies": ["hostile-slow-senders", "hostile-slow-crowd"],
        "stalled readers": ["hostile-slow-readers"],
        "connections": ["hostile-flood"],
        "amplification by retries": ["hostile-retries"],
    },
    "Configuration and resources": {
        "invalid files": ["config-invalid"],
        "oversized files, names, aliases": ["config-oversized"],
        "descriptors": ["resources-descriptors", "resources-descriptors-lowered"],
        "disk full": ["resources-disk"],
        "memory limit": ["resources-memory"],
        "CPU quota": ["resources-cpu"],
        "idle connections": ["resources-idle"],
    },
}
"""The faults that we claim to survive, by table, and the rows that try them."""


def test_every_fault_that_we_claim_to_survive_has_its_rows_and_no_row_is_without_a_claim() -> None:
    claimed = [(table, name) for table, faults in CLAIMED.items() for names in faults.values() for name in names]
    assert sorted(claimed) == sorted((row.table, row.name) for row in ROWS)


def test_a_row_can_be_named_and_is_recorded_apart_from_all_others() -> None:
    assert max(Counter(row.name for row in ROWS).values()) == 1
    assert max(Counter((row.table, row.fault) for row in ROWS).values()) == 1


def test_rows_are_picked_by_pattern_in_their_order() -> None:
    assert pick(ROWS, []) == list(ROWS)
    assert [row.name for row in pick(ROWS, words("kill-t*, kill-resilience"))] == ["kill-traffic", "kill-resilience"]
    with pytest.raises(ValueError, match=r"no row is called 'kil'; there are: kill-traffic"):
        pick(ROWS, ["kill-traffic", "kil"])


def test_few_repetitions_in_a_short_run_and_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    options = argparse.Namespace(repeat=None, short=False)
    assert times(FIRST, options) == 20
    monkeypatch.setenv("CI", "true")
    assert times(FIRST, options) == 3
    assert times(FIRST, argparse.Namespace(repeat=None, short=True)) == 3
    assert times(FIRST, argparse.Namespace(repeat=7, short=True)) == 7


def test_what_is_recorded_has_the_fields_that_others_read() -> None:
    found = entry(FIRST, outcome([Trial(0, sums={"failed": 0, "requests": 900}, times={"back_s": 0.5})]))
    assert list(found) == ["table", "fault", "promise", "repetitions", "held", "figures"]
    assert (found["table"], found["repetitions"], found["held"]) == ("Processes", 1, True)


def test_a_row_is_one_line() -> None:
    trials = [Trial(n, sums={"failed": n, "requests": 900}, times={"back_s": 0.5 + n}) for n in range(2)]
    assert line(FIRST, outcome(trials)) == "held  kill-traffic  2/2  1 of 1800 failed, back_s 1 … 1.5"
    trials[1].require(False, "others were touched")
    assert line(FIRST, outcome(trials)).startswith("LOST  kill-traffic  1/2")
    assert line(FIRST, void_outcome("slow")) == "void  kill-traffic: slow"
