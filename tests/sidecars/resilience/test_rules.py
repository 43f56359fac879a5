"""The rules together: what is counted where, under which policy, and what follows."""

from __future__ import annotations

from pannier.sidecars.resilience.config import Breaker, Config, Outlier, Service, ServiceBreaker
from pannier.sidecars.resilience.readings import Counts
from pannier.sidecars.resilience.rules import Close, Open, Rules, Spare

UNIFIED = Service(breaker=Breaker(success_rate=0.8, jitter=0))
EJECTING = Service(failure_policy="outlier")
WHOLE = Service(failure_policy="none", service_breaker=ServiceBreaker(calls=10, half_open_calls=2))


def rules(service: Service) -> Rules:
    return Rules(Config(services={"*": service}), lambda: 0.0)


def test_the_defaults_leave_everything_to_the_proxy(scene) -> None:
    decided, now = rules(Service()), scene(10)
    assert decided.step(now.look(*[Counts(1000, 1000)] * 10)) == []
    assert decided.step(now.look(*[Counts(1000, 1000)] * 10, after_ms=60_000)) == []


def test_a_breaker_opens_by_rate_for_longer_each_time(scene) -> None:
    decided, now = rules(UNIFIED), scene(2)
    now.word(now.members[1]).times = 3
    [opened] = decided.step(now.look(Counts(10, 0), Counts(10, 5)))
    assert opened == Open(now.members[1], now.now_ms + 8000, "success 50 % < 80 % of 10 requests in 10s")


def test_while_a_breaker_is_not_closed_nothing_is_counted_against_it(scene) -> None:
    decided, now = rules(UNIFIED), scene(1)
    word = now.word(now.members[0])
    decided.step(now.look(Counts(4, 4)))
    word.state = "half_open"
    assert decided.step(now.look(Counts(9, 9), after_ms=50)) == []
    word.state = "closed"
    assert decided.step(now.look(Counts(4, 4), after_ms=50)) == []
    assert len(decided.step(now.look(Counts(1, 1), after_ms=50))) == 1


def test_outliers_are_judged_once_an_interval_on_all_of_it(scene) -> None:
    decided, now = rules(EJECTING), scene(10)
    good, bad = [Counts(60, 0)] * 9, Counts(60, 30)
    assert decided.step(now.look()) == []
    assert decided.step(now.look(*good, bad, after_ms=50)) == []
    [opened] = decided.step(now.look(*good, bad, after_ms=9_950))
    assert isinstance(opened, Open)
    assert (opened.member, opened.until_ms) == (now.members[9], now.now_ms + 30_000)
    assert opened.why.startswith("ejected by success rate: 50.0 % < ")
    assert decided.step(now.look(*good, bad, after_ms=9_999)) == []


def test_what_is_out_counts_against_the_bound_until_its_time_is_over(scene) -> None:
    decided, now = rules(EJECTING), scene(10)
    out = now.word(now.members[0])
    out.state, out.until_ms = "open", now.now_ms + 15_000
    bad = [Counts()] + [Counts(200, 0)] * 8 + [Counts(200, 100)]
    decided.step(now.look())
    [spared] = decided.step(now.look(*bad, after_ms=10_000))
    assert isinstance(spared, Spare)
    assert spared.member == now.members[9]
    assert spared.why.startswith("not ejected by success rate: 50.0 % < ")
    assert spared.why.endswith("(too many out)")
    [opened] = decided.step(now.look(*bad, after_ms=10_000))
    assert isinstance(opened, Open)


def test_who_is_spared_is_said_once(scene) -> None:
    decided, now = rules(Service(failure_policy="outlier", outlier=Outlier(enforcing_success_rate=0))), scene(10)
    bad = [Counts(200, 0)] * 9 + [Counts(200, 100)]
    decided.step(now.look())
    said = [len(decided.step(now.look(*bad, after_ms=10_000))) for _ in range(3)]
    decided.step(now.look(after_ms=10_000))
    assert [*said, len(decided.step(now.look(*bad, after_ms=10_000)))] == [1, 0, 0, 1]


def test_an_ejection_is_longer_after_earlier_ones_unless_they_are_long_ago(scene) -> None:
    bad = [Counts(200, 0)] * 9 + [Counts(200, 100)]
    for quiet_ms, seconds in ((0, 90), (10_000, 60), (60_000, 30)):
        decided, now = rules(EJECTING), scene(10)
        decided.step(now.look())
        word = now.word(now.members[9])
        word.state, word.times, word.until_ms = "open", 2, now.now_ms + 10_000 - quiet_ms
        [opened] = decided.step(now.look(*bad, after_ms=10_000))
        assert isinstance(opened, Open)
        assert opened.until_ms - now.now_ms == seconds * 1000


def test_a_service_breaker_adds_its_endpoints_up_and_judges_the_calls_that_try_it(scene) -> None:
    decided, now = rules(WHOLE), scene(2)
    word = now.word(now.whole)
    assert decided.step(now.look(Counts(6, 6), Counts(3, 0))) == []
    [opened] = decided.step(now.look(Counts(), Counts(1, 0)))
    assert opened == Open(now.whole, now.now_ms + 60_000, "failures 60 % ≥ 50 % of 10 calls")
    word.state = "open"
    assert decided.step(now.look(Counts(10, 10))) == []
    word.state = "half_open"
    assert decided.step(now.look(Counts(1, 0), Counts(1, 0))) == [
        Close(now.whole, "failures 0 % < 50 % of 2 calls that tried it")
    ]


def test_a_new_configuration_keeps_what_it_does_not_change(scene) -> None:
    decided, now = rules(UNIFIED), scene(1)
    decided.step(now.look(Counts(4, 4)))
    decided.use(Config(services={"payments": Service(breaker=UNIFIED.breaker, service_breaker=ServiceBreaker())}))
    assert len(decided.step(now.look(Counts(1, 1), after_ms=50))) == 1
    decided.use(Config(services={"*": Service(breaker=Breaker(success_rate=0.5))}))
    assert decided.step(now.look(Counts(1, 1), after_ms=50)) == []


def test_what_is_gone_is_forgotten(scene) -> None:
    decided, now = rules(UNIFIED), scene(1)
    decided.step(now.look(Counts(4, 4)))
    decided.forget({})
    assert decided.step(now.look(Counts(1, 1))) == []
