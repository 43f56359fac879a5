"""What the bus says of itself: a real broker with real peers."""

from __future__ import annotations

from pannier.shared.messages import Nothing
from pannier.supervisor.bus_state import BusState, bus_state

from tests.conftest import RunningBroker


def state(broker: RunningBroker) -> BusState:
    return bus_state(broker.broker.statistics())


async def test_topics_say_who_keeps_and_who_listens(broker: RunningBroker) -> None:
    async with (
        broker.join("discovery", topics=["services"]) as discovery,
        broker.join("traffic") as traffic,
        traffic.subscribe("services", Nothing) as news,
        traffic.subscribe("nobody.says", Nothing),
    ):
        await discovery.publish("services", Nothing(), retain=True)
        await discovery.publish("events", Nothing())
        await anext(news)
        await broker.wait_until(lambda: len(state(broker).topics) == 3)
        topics = {each.topic: each for each in state(broker).topics}
        assert (topics["services"].retained_by, topics["services"].subscribers) == ("discovery", ["traffic"])
        assert topics["services"].retained_bytes > 0
        assert (topics["events"].retained_by, topics["events"].published, topics["events"].subscribers) == (None, 1, [])
        assert (topics["nobody.says"].published, topics["nobody.says"].subscribers) == (0, ["traffic"])
    await broker.wait_until(lambda: not state(broker).peers)
    assert {each.topic for each in state(broker).topics} == {"services", "events"}, "who left listens to nothing"


async def test_peers_say_what_they_got_and_missed(broker: RunningBroker) -> None:
    async with (
        broker.join("discovery", topics=["services"]) as discovery,
        broker.join() as cli,
        cli.subscribe("services", Nothing) as news,
    ):
        await discovery.publish("services", Nothing(), retain=True)
        await anext(news)
        await broker.wait_until(lambda: any(peer.outbox.delivered for peer in state(broker).peers))
        peers = {peer.role: peer for peer in state(broker).peers}
        assert (peers["cli"].outbox.delivered, peers["cli"].outbox.queued, peers["cli"].outbox.dropped) == (1, 0, 0)
        assert peers["discovery"].received >= 1
        assert peers["discovery"].pid > 0
        assert state(broker).welcomed == 2
