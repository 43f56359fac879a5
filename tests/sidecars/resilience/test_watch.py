"""Who is out and why, from look to look; and how that is listed."""

from __future__ import annotations

from pannier.shared.messages import BreakerState, Ejection
from pannier.sidecars.resilience.config import Config, Outlier, Service, ServiceBreaker
from pannier.sidecars.resilience.listing import LISTED, breaker_states, ejections
from pannier.sidecars.resilience.watch import Standing, compare

EPOCH_MS = 1_700_000_000_000
BREAKER = Config(services={"*": Service(service_breaker=ServiceBreaker())})
OUTLIER = Config(services={"*": Service(failure_policy="outlier")})
NONE = Config(services={"*": Service(failure_policy="none")})


class Watched:
    """A scene that is compared look by look."""

    def __init__(self, scene, config: Config) -> None:
        self.scene = scene
        self.config = config
        self.standings: dict = {}
        self.look = None
        self.begin()

    def begin(self) -> None:
        self.look = self.scene.look()
        self.standings, turns = compare(None, self.look, self.config, {}, EPOCH_MS)
        assert turns == []

    def turns(self, said: dict | None = None, after_ms: int = 50) -> list[str]:
        self.look = self.scene.look(after_ms=after_ms)
        self.standings, turns = compare(self.standings, self.look, self.config, said or {}, EPOCH_MS)
        return [turn.text for turn in turns]

    def set(self, state: str, until_in_ms: int, *, failures: int = 0, times: int = 1, whole: bool = False):
        member = self.scene.whole if whole else self.scene.members[0]
        word = self.scene.word(member)
        word.state, word.until_ms = state, self.scene.now_ms + until_in_ms if state != "closed" else 0
        word.failures, word.times = failures, times
        return member

    def standing(self) -> Standing:
        [one] = self.standings.values()
        return one


def test_a_breaker_that_the_proxy_opened_probed_and_closed(scene) -> None:
    watched = Watched(scene(2), BREAKER)
    watched.set("open", 1050, failures=7)
    assert watched.turns() == ["payments at h:0 is out for 1.0 s: 7 failures in a row"]
    assert watched.standing().state == "open"
    assert watched.turns(after_ms=500) == []
    assert watched.turns(after_ms=500) == []
    assert watched.standing().state == "half_open", "its time has passed: the next request tries it"
    watched.set("half_open", 10_000, failures=7)
    assert watched.turns() == []
    assert watched.standing().reason == "7 failures in a row"
    watched.set("open", 2050, failures=8, times=2)
    assert watched.turns() == ["payments at h:0 is out for 2.0 s: the request that tried it failed"]
    watched.set("closed", 0, times=0)
    assert watched.turns(after_ms=2100) == ["payments at h:0 is back: the request that tried it succeeded"]
    assert watched.standings == {}


def test_a_row_that_ended_since_is_still_the_reason(scene) -> None:
    watched = Watched(scene(1), BREAKER)
    watched.set("open", 1050, failures=0)
    assert watched.turns() == ["payments at h:0 is out for 1.0 s: 7 failures in a row"]


def test_an_ejection_is_over_with_its_time(scene) -> None:
    watched = Watched(scene(1), OUTLIER)
    watched.set("open", 30_050)
    assert watched.turns() == ["payments at h:0 is out for 30.0 s: 5 failures in a row"]
    assert watched.turns(after_ms=29_999) == []
    assert watched.turns(after_ms=1) == ["payments at h:0 is back: the time of its ejection is over"]
    watched.set("open", 60_050, times=2)
    assert watched.turns() == ["payments at h:0 is out for 60.0 s: 5 failures in a row"]


def test_the_rows_that_eject_are_named_when_the_word_cannot_tell(scene) -> None:
    rule = Outlier(consecutive_5xx=9, enforcing_consecutive_gateway_failure=10, consecutive_local_origin_failure=0)
    watched = Watched(scene(1), Config(services={"*": Service("outlier", outlier=rule)}))
    watched.set("open", 30_050)
    assert watched.turns() == ["payments at h:0 is out for 30.0 s: 5 or 9 failures in a row"]


def test_who_acts_here_says_why(scene) -> None:
    watched = Watched(scene(1), BREAKER)
    member = watched.set("open", 1050, failures=7)
    assert watched.turns({member: "taken out by hand"}) == ["payments at h:0 is out for 1.0 s: taken out by hand"]
    watched.set("closed", 0)
    assert watched.turns({member: "taken in by hand"}) == ["payments at h:0 is back: taken in by hand"]
    whole = watched.set("open", 60_050, whole=True)
    assert watched.turns({whole: "failures 60 % ≥ 50 % of 100 calls"}) == [
        "payments is out for 60.0 s: failures 60 % ≥ 50 % of 100 calls"
    ]


def test_what_was_out_before_is_no_news_and_has_the_reason_that_its_word_gives(scene) -> None:
    now = scene(2)
    now.word(now.members[0]).state = now.word(now.members[1]).state = "open"
    now.word(now.members[0]).until_ms = now.word(now.members[1]).until_ms = now.now_ms + 100
    now.word(now.members[0]).failures = 9
    watched = Watched(now, BREAKER)
    assert [one.reason for one in watched.standings.values()] == [
        "9 failures in a row",
        "it was out before resilience was started",
    ]


def test_with_no_policy_nobody_is_out_and_a_change_of_policy_is_told(scene) -> None:
    watched = Watched(scene(1), BREAKER)
    watched.set("open", 9000, failures=7)
    watched.turns()
    watched.config = NONE
    assert watched.turns() == ["payments at h:0 is back: nobody is taken out by failure_policy none"]


def test_an_endpoint_that_is_gone_is_no_news(scene) -> None:
    watched = Watched(scene(1), BREAKER)
    watched.set("open", 9000, failures=7)
    watched.turns()
    watched.scene.hosts = 0
    assert watched.turns() == []
    assert watched.standings == {}


def test_they_are_listed_with_times_since_the_epoch(scene) -> None:
    watched = Watched(scene(3), BREAKER)
    watched.set("open", 1050, failures=7, times=2)
    watched.scene.word(watched.scene.members[1]).failures = 3
    watched.turns()
    until_ms = EPOCH_MS + watched.scene.now_ms + 1000
    assert ejections(watched.standings).endpoints == [
        Ejection("payments", "h:0", "open", "7 failures in a row", until_ms, 2)
    ]
    assert breaker_states(watched.standings, watched.look, watched.config).breakers == [
        BreakerState("payments", "h:0", "open", "7 failures in a row", until_ms, 2, 7),
        BreakerState("payments", "h:1", "closed", "3 failures in a row, opens at 7", 0, 0, 3),
    ]


def test_an_ejection_of_the_past_is_listed_while_it_counts(scene) -> None:
    watched = Watched(scene(4), OUTLIER)
    watched.set("open", 0, times=2)
    for member, failures in zip(watched.scene.members[1:], (1, 4, 5), strict=True):
        watched.scene.word(member).failures = failures
    watched.turns()
    assert [one.reason for one in breaker_states(watched.standings, watched.look, OUTLIER).breakers] == [
        "was out 2 times lately",
        "1 failure in a row, ejected at 5",
        "4 failures in a row, ejected at 5",
        "5 failures in a row, not ejected: max_ejected_percent is 10",
    ]


def test_no_more_are_listed_than_fit_into_a_message(scene) -> None:
    watched = Watched(scene(LISTED + 5), BREAKER)
    for member in watched.scene.members:
        word = watched.scene.word(member)
        word.state, word.until_ms, word.failures = "open", watched.scene.now_ms + 9000, 7
    watched.turns()
    assert len(ejections(watched.standings).endpoints) == LISTED
    assert len(breaker_states(watched.standings, watched.look, BREAKER).breakers) == LISTED
