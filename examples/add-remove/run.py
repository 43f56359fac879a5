"""Takes each sidecar away from a running service and puts it back, under load, and says what that did to anybody.

    python examples/add-remove/run.py        # exit 0: no request failed, no other process was touched

It uses the commands that a person would type, in a runtime folder of its own; nothing stays.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from load import Load

HERE = Path(__file__).resolve().parent
PANNIER = Path(sys.executable).parent / "pannier"
SIDECARS = ("traffic", "resilience", "observability", "discovery")
NAME = "hello"
PATIENCE_S = 30
BETWEEN = 100
"""Answers to wait for after each change: what a change breaks need not break at once."""

Pannier = Callable[..., str]


def main() -> int:
    """Runs it and returns the exit code."""
    app, public, outbound = (free_port() for _ in range(3))
    touched: list[str] = []
    with tempfile.TemporaryDirectory(prefix="add-remove-") as folder, ExitStack() as stack:
        environment = {**os.environ, "PANNIER_RUNTIME_DIR": f"{folder}/r", "PANNIER_STATE_DIR": f"{folder}/s"}

        def pannier(*words: str) -> str:
            done = subprocess.run(
                [PANNIER, *words],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            if done.returncode:
                raise SystemExit(f"pannier {' '.join(words)}: {done.stderr}")
            return done.stdout

        stack.enter_context(service(pannier, app, public, outbound))
        load = stack.enter_context(Load([(public, NAME), (outbound, "stock")]))
        load.wait_answers(BETWEEN)
        print(f"{'':24} {'answered':>8} {'failed':>6}  other processes")
        before = pids(pannier)
        for sidecar in SIDECARS:
            for verb in ("rm", "add"):
                answered = load.answered
                pannier("sidecar", verb, sidecar, "--name", NAME)
                load.wait_answers(BETWEEN)
                after = pids(pannier)
                if (sidecar in after) is (verb == "rm"):
                    touched.append(f"{verb} {sidecar} did nothing")
                others = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
                touched += [f"{verb} {sidecar} touched {name}" for name in others if name != sidecar]
                verdict = "untouched" if others == [sidecar] else ", ".join(others)
                asked = load.answered - answered
                print(f"sidecar {verb:3} {sidecar:13} {asked:8} {len(load.failures):6}  {verdict}", flush=True)
                before = after
    return judge(load, touched)


def judge(load: Load, touched: list[str]) -> int:
    """Prints what it came to; 0 if nothing failed and nothing else was touched."""
    for complaint in [*load.failures, *touched]:
        print(complaint)
    good = load.answered > 0 and not load.failures and not touched
    print(f"{'good' if good else 'BAD'}: {load.answered} answered, {len(load.failures)} failed", end=", ")
    print(f"{len(touched)} processes touched that should not have been")
    return 0 if good else 1


@contextmanager
def service(pannier: Pannier, app: int, public: int, outbound: int) -> Iterator[None]:
    """The service with all four sidecars; its app is also what it calls by the name `stock`."""
    ports = ["--app-port", str(app), "--port", str(public), "--outbound-port", str(outbound)]
    stock = f'services.stock=[{{ address = "127.0.0.1:{app}" }}]'
    command = [sys.executable, str(HERE / "app.py"), str(app)]
    pannier("up", "-p", "staging", "--name", NAME, *ports, "--set", stock, "--", *command)
    try:
        yield
    finally:
        pannier("down", "--name", NAME)


def pids(pannier: Pannier) -> dict[str, int]:
    """Name and PID of every process of the service."""
    return {one["name"]: one["pid"] for one in json.loads(pannier("ps", "-o", "json"))[0]["processes"]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


if __name__ == "__main__":
    raise SystemExit(main())
