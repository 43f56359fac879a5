"""Canaries over endpoints that come and go, over changes around them, and over restarts; in virtual time."""

from __future__ import annotations

import msgspec
import pytest
from pannier.sidecars.traffic.canary import Counts, State
from pannier.sidecars.traffic.config import Service, Shift
from pannier.sidecars.traffic.endpoints import Endpoint
from pannier.sidecars.traffic.tally import Place
from pannier.sidecars.traffic.watch import Kept, Watch, watched

SHIFT = Shift(to="v2", step=10, every="30s")
SERVICE = Service(subsets={"v1": {"version": "1"}, "v2": {"version": "2"}}, split={"v1": 995, "v2": 5}, shift=SHIFT)
OLD, NEW = Endpoint({"version": "1", "zone": "a"}, 0, 1), Endpoint({"version": "2"}, 1, 1)
OLD_AT, NEW_AT = (0, 1), (1, 1)


def start(service: Service = SERVICE, kept: dict[str, Kept] | None = None, now: float = 0.0) -> Watch:
    watch = watched({"payments": service}, {}, kept or {}, now)["payments"]
    watch.meet([OLD, NEW])
    return watch


def look(watch: Watch, now: float, counted: dict[Place, Counts], endpoints: tuple[Endpoint, ...] = (OLD, NEW)) -> bool:
    known = {place: counted.get(place, Counts()) for place in watch.places(endpoints)}
    return watch.look(endpoints, known, now)


@pytest.mark.semantics("traffic", "Only calls to its own endpoints judge a canary")
def test_only_calls_to_its_own_endpoints_judge_it() -> None:
    watch = start()
    look(watch, 0.0, {})
    assert not look(watch, 1.0, {OLD_AT: Counts(500, 500), NEW_AT: Counts(40, 0)})
    assert look(watch, 2.0, {OLD_AT: Counts(500, 500), NEW_AT: Counts(100, 60)})
    assert watch.canary.state is State.ABORTED
    assert watch.split() == SERVICE.split


def test_each_step_counts_from_its_own_beginning() -> None:
    watch = start()
    look(watch, 0.0, {})
    assert look(watch, 30.0, {NEW_AT: Counts(1000, 5)})
    assert watch.split() == {"v1": 80, "v2": 20}
    assert not look(watch, 59.0, {NEW_AT: Counts(1019, 24)})
    assert look(watch, 59.1, {NEW_AT: Counts(1020, 25)})
    assert watch.canary.reason == "success 0.0 % < 99 % over 20 requests"


def test_an_endpoint_that_vanishes_does_not_take_its_failures_with_it() -> None:
    watch = start()
    other = Endpoint({"version": "2"}, 2, 1)
    look(watch, 0.0, {}, (OLD, NEW, other))
    look(watch, 1.0, {NEW_AT: Counts(19, 19)}, (OLD, NEW, other))
    assert watch.canary.state is State.RUNNING
    assert look(watch, 2.0, {(2, 1): Counts(1, 0)}, (OLD, other))
    assert watch.canary.state is State.ABORTED


def test_without_endpoints_it_gets_no_calls() -> None:
    watch = watched({"payments": SERVICE}, {}, {}, 0.0)["payments"]
    watch.meet([OLD])
    assert watch.split() == {"v1": 100, "v2": 0}
    assert look(watch, 1.0, {}, (OLD,))
    progress = watch.progress(1.0)
    assert (progress.state, progress.weight, progress.reason) == ("paused", 0, "v2 has no endpoint")
    assert look(watch, 2.0, {})
    assert watch.split() == {"v1": 90, "v2": 10}


def test_without_a_split_the_others_share_and_an_abort_leaves_them_everything() -> None:
    service = msgspec.structs.replace(SERVICE, split={}, subsets={**SERVICE.subsets, "v3": {"version": "3"}})
    watch = start(service)
    assert watch.split() == {"v1": 45, "v3": 45, "v2": 10}
    look(watch, 0.0, {})
    look(watch, 1.0, {NEW_AT: Counts(20, 20)})
    assert watch.split() == {"v1": 1, "v3": 1}


def test_progress() -> None:
    watch = start()
    look(watch, 0.0, {})
    look(watch, 12.0, {NEW_AT: Counts(19, 0)})
    assert msgspec.to_builtins(watch.progress(12.0)) == {
        "service": "payments",
        "subset": "v2",
        "weight": 10,
        "target": 100,
        "state": "running",
        "reason": "",
        "step_success": None,
        "next_step_in_s": 18.0,
    }
    look(watch, 12.0, {NEW_AT: Counts(200, 1)})
    assert watch.progress(12.0).step_success == pytest.approx(0.995)
    look(watch, 30.0, {NEW_AT: Counts(200, 1)})
    assert watch.progress(30.0).step_success is None
    look(watch, 60.0, {NEW_AT: Counts(200, 1)})
    assert watch.progress(60.0).next_step_in_s is None


def test_the_same_shift_goes_on_under_other_settings_and_another_one_begins() -> None:
    first = start()
    look(first, 0.0, {})
    look(first, 30.0, {NEW_AT: Counts(20, 0)})
    around = msgspec.structs.replace(SERVICE, split={"v1": 50, "v3": 50}, subsets={**SERVICE.subsets, "v3": {"v": "3"}})
    second = watched({"payments": around}, {"payments": first}, {}, 31.0)["payments"]
    assert second.canary == first.canary
    assert second.split() == {"v1": 40, "v3": 40, "v2": 20}
    again = msgspec.structs.replace(SERVICE, shift=msgspec.structs.replace(SHIFT, started=31.0))
    third = watched({"payments": again}, {"payments": second}, {}, 31.0)["payments"]
    assert (third.canary.weight, third.canary.since) == (10, 31.0)


def test_a_shift_that_is_gone_is_over() -> None:
    assert watched({"payments": msgspec.structs.replace(SERVICE, shift=None)}, {"payments": start()}, {}, 1.0) == {}
    alone = msgspec.structs.replace(SERVICE, split={}, subsets={"v2": {"version": "2"}})
    assert watched({"payments": alone}, {}, {}, 0.0) == {}


def restarted(watch: Watch, now: float, service: Service = SERVICE) -> Watch:
    kept = msgspec.json.decode(msgspec.json.encode({"payments": watch.kept()}), type=dict[str, Kept])
    return start(service, kept, now)


@pytest.mark.semantics("traffic", "A restart of traffic goes on in the middle of a step, with what was counted")
def test_a_restart_goes_on_in_the_middle_of_a_step_with_what_was_counted() -> None:
    first = start()
    look(first, 0.0, {NEW_AT: Counts(300, 300)})
    look(first, 10.0, {NEW_AT: Counts(310, 300)})
    second = restarted(first, 20.0)
    assert second.split() == first.split()
    assert not look(second, 20.0, {NEW_AT: Counts(315, 300)})
    assert second.progress(20.0).next_step_in_s == 10.0
    assert look(second, 30.0, {NEW_AT: Counts(320, 300)})
    assert second.canary.weight == 20


def test_a_restart_does_not_forget_failures() -> None:
    first = start()
    look(first, 0.0, {})
    look(first, 1.0, {NEW_AT: Counts(15, 15)})
    second = restarted(first, 2.0)
    assert look(second, 2.0, {NEW_AT: Counts(20, 15)})
    assert second.canary.state is State.ABORTED


@pytest.mark.semantics("traffic", "What was aborted stays so until another shift is asked for")
def test_what_was_aborted_stays_so_while_the_shift_is_the_same() -> None:
    first = start()
    look(first, 0.0, {})
    look(first, 1.0, {NEW_AT: Counts(20, 20)})
    second = restarted(first, 1e9)
    assert (second.canary, second.split()) == (first.canary, SERVICE.split)
    assert not look(second, 2e9, {NEW_AT: Counts(90, 20)})
    anew = restarted(second, 3.0, msgspec.structs.replace(SERVICE, shift=msgspec.structs.replace(SHIFT, started=3.0)))
    assert anew.canary.state is State.RUNNING


def test_a_file_of_another_shift_changes_nothing() -> None:
    first = start(msgspec.structs.replace(SERVICE, shift=msgspec.structs.replace(SHIFT, step=50)))
    assert restarted(first, 7.0).canary == start(now=7.0).canary
