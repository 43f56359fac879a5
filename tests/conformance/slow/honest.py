"""A caller that means well, while others do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.proxy.process import Proxy
from tests.proxy.wire import Ended, request


@dataclass
class Tally:
    """How its requests went."""

    served: int = 0
    failed: int = 0


@contextmanager
def honest_caller(proxy: Proxy) -> Iterator[Tally]:
    """Sends one request after the other, each tenth on a new connection, until the end of the block."""
    tally, over = Tally(), threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                with proxy.call() as wire:
                    for _ in range(10):
                        wire.send(request("/honest", body=b"hello", method="POST"))
                        if wire.read_answer().status == 200:
                            tally.served += 1
                        else:
                            tally.failed += 1
            except (OSError, Ended):
                tally.failed += 1
            over.wait(0.01)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield tally
    finally:
        over.set()
        caller.join()
