"""What a proxy weighs: resident bytes before any load, and those of an idle connection.

Each peer is fresh, so that memory which a load left behind does not hide what connections take. A connection has
carried one request before it is idle. What the kernel holds for a socket is in nobody's resident bytes.
"""

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench import measure
from tests.bench.configurations import SERVICE
from tests.bench.peers import Peer
from tests.bench.processes import BenchmarkError
from tests.bench.session import Contender, Refused, Session


@dataclass(frozen=True)
class Weight:
    """Resident bytes of a peer's proxy: of all of it while nothing goes on, and of one idle connection."""

    peer: str
    features: str
    key: str
    idle_bytes: int
    connections: int
    bytes_per_connection: float


def weigh(session: Session, peers: Sequence[Peer], connections: int, failed: Callable[[str], None]) -> list[Weight]:
    """One after the other; whoever does not start or answer is told to `failed`."""
    weights = []
    for peer in peers:
        if peer.command is None:
            continue
        try:
            weights.append(_weigh(session.start(peer), session, connections))
        except Refused:
            continue  # said when it was to be timed
        except (BenchmarkError, OSError) as error:
            failed(f"{peer.key}: its memory was not measured: {error}")
    return weights


def _weigh(contender: Contender, session: Session, connections: int) -> Weight:
    proxies, peer = contender.proxies(), contender.peer
    idle = measure.read_resident(proxies)
    path = session.scenario.path
    request = f"GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n".encode()
    with contextlib.ExitStack() as held:
        for _ in range(connections):
            caller = held.enter_context(socket.create_connection(("127.0.0.1", contender.port), timeout=10))
            caller.sendall(request)
            _read_answer(caller, session.scenario.body)
        full = measure.read_resident(proxies)
    return Weight(peer.name, peer.features, peer.key, idle, connections, (full - idle) / connections)


def _read_answer(caller: socket.socket, body: bytes) -> None:
    received = b""
    while not received.endswith(body):
        piece = caller.recv(65536)
        if not piece:
            raise BenchmarkError("a connection was closed, or answered wrongly")
        received += piece
    if not received.startswith(b"HTTP/1.1 200 "):
        raise BenchmarkError(f"an answer was wrong: {received[:60]!r}")
