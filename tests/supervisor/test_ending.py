from __future__ import annotations

import signal

import pytest
import trio
from pannier.supervisor.ending import Cause, Deadline, Ending, exit_code
from pannier.supervisor.restart import Exit
from trio.testing import MockClock

FINE, BAD, TERMINATED = Exit(0), Exit(3), Exit.by_signal(15)


@pytest.mark.parametrize(
    ("cause", "number", "app", "code"),
    [
        (Cause.APP, signal.SIGTERM, FINE, 0),
        (Cause.APP, signal.SIGTERM, BAD, 3),
        (Cause.SIGNAL, signal.SIGTERM, FINE, 0),
        (Cause.SIGNAL, signal.SIGTERM, TERMINATED, 143),
        (Cause.SIGNAL, signal.SIGINT, Exit.by_signal(2), 130),
        (Cause.SIGNAL, signal.SIGINT, None, 130),
        (Cause.SIGNAL, signal.SIGTERM, None, 0),
        (Cause.ORDER, signal.SIGTERM, TERMINATED, 143),
        (Cause.ORDER, signal.SIGTERM, None, 0),
        (Cause.LIFELINE, signal.SIGTERM, FINE, 0),
        (Cause.TIME, signal.SIGTERM, TERMINATED, 0),
        (Cause.TIME, signal.SIGTERM, None, 0),
        (Cause.NOT_READY, signal.SIGTERM, TERMINATED, 75),
        (Cause.NOT_READY, signal.SIGTERM, None, 75),
    ],
)
def test_the_code_that_run_ends_with(cause: Cause, number: int, app: Exit | None, code: int) -> None:
    assert exit_code(Ending(cause, number), app) == code


async def test_a_block_ends_at_the_deadline(autojump_clock: MockClock) -> None:
    deadline = Deadline(trio.current_time() + 10)
    with deadline.scope():
        await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(10)


async def test_a_share_of_the_time_is_left_for_who_comes_next(autojump_clock: MockClock) -> None:
    deadline = Deadline(trio.current_time() + 10)
    with deadline.scope(share_left=0.1):
        await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(9)
    with deadline.scope(within=0.5):
        await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(9.5)
    with deadline.scope(within=5):
        await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(10)


async def test_a_second_signal_ends_every_wait_at_once(autojump_clock: MockClock) -> None:
    deadline = Deadline(trio.current_time() + 10)

    async def hurry() -> None:
        await trio.sleep(2)
        deadline.now()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hurry)
        with deadline.scope(share_left=0.1):
            await trio.sleep_forever()
        with deadline.scope():
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(2)
