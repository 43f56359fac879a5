"""What is said once, and what each time."""

from __future__ import annotations

import trio
from pannier.shared.messages import EVENTS, Happening
from pannier.sidecars.discovery.voice import Voice


async def said(broker, voice: Voice, expected: int) -> list[str]:
    """The messages that reach `events`, of which `expected` should come."""
    async with (
        broker.join("discovery", topics=[EVENTS]) as bus,
        broker.join() as cli,
        cli.subscribe(EVENTS, Happening) as events,
        trio.open_nursery() as nursery,
    ):
        voice.tell("end", "the end")
        nursery.start_soon(voice.run, bus)
        with trio.fail_after(5):
            heard = [(await anext(events)).message for _ in range(expected + 1)]
        nursery.cancel_scope.cancel()
    assert heard.pop() == "the end"
    return heard


async def test_what_happens_twice_is_said_twice(broker) -> None:
    voice = Voice()
    for _ in range(2):
        voice.tell("lease.expired", "not renewed in time: orders/a", severity="info")
    assert await said(broker, voice, 2) == ["not renewed in time: orders/a"] * 2


async def test_what_lasts_is_said_once_and_again_after_it_was_settled(broker) -> None:
    voice = Voice()
    for _ in range(3):
        voice.say("registry", "the disk is full")
    voice.settled("registry", "it can be used again")
    voice.say("registry", "the disk is full")
    assert await said(broker, voice, 2) == ["the disk is full"] * 2
