from __future__ import annotations

from pannier.sidecars.resilience.inventory import Member
from pannier.sidecars.resilience.pace import BUSY_SECONDS, IDLE_SECONDS, next_pause

ENDPOINT = Member("payments", "h:1", (0, 1))
WHOLE = Member("payments", "", (3584, 1))


def test_it_slows_down_while_nothing_ends_and_is_back_at_once() -> None:
    pause, pauses = BUSY_SECONDS, []
    for moved in (True, False, False, False, False, False, False, True):
        pause = next_pause(pause, moved=moved, out=[])
        pauses.append(pause)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.05]


def test_a_service_that_is_open_is_watched_as_if_it_were_busy_and_an_endpoint_is_not() -> None:
    assert next_pause(IDLE_SECONDS, moved=False, out=[ENDPOINT, WHOLE]) == BUSY_SECONDS
    assert next_pause(IDLE_SECONDS, moved=False, out=[ENDPOINT]) == IDLE_SECONDS
