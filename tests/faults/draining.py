"""SIGTERM: who is under way arrives, who still comes is served, who never ends has until the deadline."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

from tests.faults.bed import ORDERS, Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.waiting import wait_until
from tests.proxy.wire import Ended, Wire, request

DRAIN_S = 3.0
STREAM_S = 2.5  # what is left of the drain when the app has had its share, less the time to say DRAINING
ENDED_S = DRAIN_S + 2.0
GIVEN_UP_S = 10.0


class Terminate(Fault):
    """Of one of two instances. Its proxy drains a connection that idles, one that is new, and a stream without end."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        public = urlsplit(bed.host.urls(ORDERS)["inbound"])
        process = bed.running.pop(ORDERS)
        with ExitStack() as stack:

            def call(path: str = "/") -> Wire:
                wire = stack.enter_context(Wire(socket.create_connection((public.hostname, public.port), GIVEN_UP_S)))
                wire.send(request(path, host="orders"))
                return wire

            idle, stream = call(), call("/stream")
            trial.require(
                idle.read_answer().get("connection") is None, "an answer before the drain ends its connection"
            )
            trial.require(stream.read_head().status == 200, "the stream has not begun")
            stream.read_chunk()
            process.terminate()
            began = time.monotonic()
            trial.require(idle.has_ended(), "a connection that idled was not ended")
            late = call()
            trial.require(
                late.read_answer().get("connection") == "close", "an answer in the drain keeps its connection"
            )
            trial.require(late.has_ended(), "it said close and has not closed")
            lived = _until_cut(stream, began)
            trial.times["stream_lived_s"] = lived
            trial.require(lived >= STREAM_S, f"a stream was cut after {lived:.2f} s of {DRAIN_S:g}")
        wait_until(lambda: process.poll() is not None, f"{ORDERS} has ended", within=GIVEN_UP_S)
        trial.within("ended_s", time.monotonic() - began, ENDED_S)
        trial.require(process.returncode == 0, f"it ended with {process.returncode}")

    def heal(self, bed: Bed) -> None:
        bed.start(ORDERS)


def _until_cut(stream: Wire, began: float) -> float:
    """Seconds from `began` to the end of an answer that never ends by itself."""
    try:
        while stream.read_chunk():
            pass
    except (Ended, OSError, ValueError):
        pass
    return time.monotonic() - began
