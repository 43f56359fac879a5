"""The bus as the supervisor sees it, for who looks for what is slow or silent: the verb `diagnostics.bus`."""

from __future__ import annotations

import msgspec
from pannier.shared.outbox import OutboxStatistics
from pannier.supervisor.broker import BrokerStatistics


class TopicState(msgspec.Struct, frozen=True):
    """`published` since this supervisor began; `retained_by` is None if there is no state; `subscribers` by role."""

    topic: str
    published: int
    retained_by: str | None
    retained_bytes: int
    subscribers: list[str]


class PeerState(msgspec.Struct, frozen=True):
    """`outbox` counts states and events on their way to this peer; `received` is what came from it, `rate` that a
    second since it connected; `pauses`: how often it was too fast to be read."""

    role: str
    pid: int
    seconds: float
    received: int
    rate: float
    pauses: int
    outbox: OutboxStatistics


class BusState(msgspec.Struct, frozen=True):
    """`welcomed` and `refused` are connections since this supervisor began, `open_calls` wait for their answer;
    `fan_out` counts the copies for all peers, here and gone."""

    topics: list[TopicState]
    peers: list[PeerState]
    fan_out: OutboxStatistics
    welcomed: int
    refused: int
    open_calls: int


def bus_state(found: BrokerStatistics) -> BusState:
    roles = {peer.number: peer.role for peer in found.peers}
    return BusState(
        [
            TopicState(
                each.topic,
                each.published,
                each.retained_by,
                each.retained_bytes,
                sorted(roles[number] for number in each.readers if number in roles),
            )
            for each in found.topics
        ],
        [
            PeerState(
                peer.role,
                peer.pid,
                round(peer.seconds, 1),
                peer.received,
                round(peer.received / peer.seconds, 1) if peer.seconds >= 1 else float(peer.received),
                peer.pauses,
                peer.outbox,
            )
            for peer in found.peers
        ],
        found.fan_out,
        found.welcomed,
        found.refused,
        found.open_calls,
    )
