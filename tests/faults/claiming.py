"""At the door of a Central, and in its place: who comes through one already, who asks for everything, who is none."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.bed import SHOP, Bed
from tests.faults.central_wire import preface
from tests.faults.leant import Leant, leant
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.shifting import RESERVE_S, shift_and_return
from tests.faults.verdict import Trial
from tests.faults.waiting import pause
from tests.system.three_hosts import ORIGIN


class Looping(Fault):
    """Somebody sends a Central what came through a Central already; or what is no way to begin at all."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        found.three.shift()
        for role in b"oi":
            answer = say(found, preface(role, SHOP, "looping", hops=1) + b"GET / HTTP/1.1\r\nhost: origin\r\n\r\n")
            trial.require(answer.startswith(b"HTTP/1.1 508 "), f"a call of the second Central: {answer[:60]!r}")
            trial.add("asked", 1)
        for other in (
            b"GET / HTTP/1.1\r\nhost: origin\r\n\r\n",
            b"\x16\x03\x01" + bytes(60),
            b"\r\n\r\n\0\r\nQUIT\n" + b"\xff" * 90,
        ):
            answer = say(found, other)
            trial.require(not answer.startswith((b"HTTP/1.1 2", b"\x06")), f"somebody unknown: {answer[:60]!r}")
            trial.add("asked", 1)
        found.three.bring_back()


class TokenFlood(Fault):
    """Somebody else within the network asks for tokens as often as he can, under many names; he also says that he is
    the app's host."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        found.three.shift()
        until = time.monotonic() + (load.seconds - 2 * RESERVE_S) / 2
        program = Path(__file__).parent / "token_flooder.py"
        words = [sys.executable, "-m", "tests.faults.token_flooder", found.three.central, str(until - time.monotonic())]
        done = subprocess.run(
            [*found.three.network.inside(ORIGIN), *words],
            cwd=program.parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        trial.require(done.returncode == 0, f"the flooder: {done.stderr[-200:]!r}")
        with suppress(ValueError):
            trial.add("asked", int(done.stdout))
        state = found.three.state()
        trial.require(state.weight > 99, f"{state.weight:g} points are elsewhere, {state.reason}: {state.trouble}")
        found.three.bring_back()


@dataclass(frozen=True)
class FalseCentral(Fault):
    """Of two Centrals in the profile one is none: it takes connections, and says yes, no, nonsense or nothing."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = leant(bed)
        share = (load.seconds - 3 * RESERVE_S) / 5
        for word in ("nothing", "yes", "no", "nonsense", "grants"):
            program = Path(__file__).parent / "false_central.py"
            with subprocess.Popen(
                [*found.three.network.inside(ORIGIN), sys.executable, str(program), "10.77.0.3:15091", word]
            ) as liar:
                try:
                    pause(share / 2)
                    shift_and_return(found, trial)
                    states = {each.address: each for each in found.three.state().centrals}
                    seen = states.get("10.77.0.3:15091")
                    usable = seen is not None and seen.up and seen.granted_rps > 0 and not seen.trouble
                    trial.require(not usable, f"it says {word}, and is believed: {seen}")
                finally:
                    liar.kill()


def say(bed: Leant, data: bytes) -> bytes:
    """What the Central answers somebody on the origin's host who begins like this."""
    program = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); "
        "s.sendall(bytes.fromhex(sys.argv[3])); s.settimeout(5)\n"
        "try: sys.stdout.buffer.write(s.recv(4096))\nexcept OSError: pass"
    )
    host, _, port = bed.three.central.rpartition(":")
    words = [*bed.three.network.inside(ORIGIN), sys.executable, "-c", program, host, port, data.hex()]
    return subprocess.run(words, capture_output=True, check=False).stdout
