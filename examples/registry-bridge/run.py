"""Services in a ZooKeeper and services with a pilot call each other: the pilot is a bridge between the two.

    python examples/registry-bridge/run.py      # exit 0: every call was answered, by each instance of the other side

It starts a real ZooKeeper (Debian's `libzookeeper-java`), `pannier pilot --bridge zookeeper://...`, two instances of
`orders` that register in the ZooKeeper and two of `stock` that register with the pilot; nothing stays.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PANNIER = Path(sys.executable).parent / "pannier"
JAR = Path("/usr/share/java/zookeeper.jar")
PATIENCE_S = 60.0
STOP_S = 10.0
INSTANCES = 2


def main() -> int:
    """Runs it and returns the exit code; 69 without a ZooKeeper."""
    java = shutil.which("java")
    if java is None or not JAR.exists():
        print("no ZooKeeper: make peers, or apt-get install libzookeeper-java default-jre-headless")
        return 69
    with tempfile.TemporaryDirectory(prefix="bridge-") as name, ExitStack() as stack:
        folder = Path(name)
        port = stack.enter_context(zookeeper(java, folder))
        print(f"ZooKeeper serves on 127.0.0.1:{port}")
        pilot = stack.enter_context(running_pilot(folder, f"zookeeper://127.0.0.1:{port}/services"))
        print(f"the pilot serves on {pilot}, with a bridge to it")
        sides = {
            "orders": (["stock", "--zookeeper", f"127.0.0.1:{port}"], "in ZooKeeper"),
            "stock": (["orders", "--pilot", pilot], "with the pilot"),
        }
        places: dict[str, list[int]] = {}
        for service, (words, where) in sides.items():
            places[service] = [stack.enter_context(running_service(service, n + 1, words)) for n in range(INSTANCES)]
            print(f"{service}: {INSTANCES} instances register {where}")
        good = True
        for service, ports in places.items():
            other = sides[service][0][0]
            wanted = {f"{service}-{a + 1} called {other}-{b + 1}" for a in range(INSTANCES) for b in range(INSTANCES)}
            seen = call_until(ports, wanted)
            for line in sorted(seen):
                print(line)
            good = good and seen == wanted
        print("both sides call each other" if good else "not everybody was called")
        return 0 if good else 1


def call_until(ports: Sequence[int], wanted: set[str]) -> set[str]:
    """Has each instance call the other side until all that is wanted was answered; what was."""
    seen: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while not wanted <= seen and time.monotonic() < deadline:
        for port in ports:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/call", timeout=STOP_S) as answer:
                    seen.add(answer.read().decode())
            except urllib.error.HTTPError as error:  # nobody is known yet
                error.close()
                time.sleep(0.05)
    return seen


@contextmanager
def zookeeper(java: str, folder: Path) -> Iterator[int]:
    """The port of a ZooKeeper, once it serves."""
    port = free_port()
    configuration = folder / "zoo.cfg"
    configuration.write_text(
        f"dataDir={folder}/zookeeper\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
        "4lw.commands.whitelist=srvr\n"
    )
    words = [java, "-Xmx128m", "-cp", str(JAR), "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(configuration)]
    with (
        (folder / "zookeeper.log").open("wb") as log,
        ended(subprocess.Popen(words, stdout=log, stderr=log)) as process,
    ):
        deadline = time.monotonic() + PATIENCE_S
        while not serves(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "zookeeper.log").read_text())
            time.sleep(0.05)
        yield port


def serves(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as asking:
            asking.sendall(b"srvr")
            return b"Mode: standalone" in b"".join(iter(lambda: asking.recv(4096), b""))
    except OSError:
        return False


@contextmanager
def running_pilot(folder: Path, bridge: str) -> Iterator[str]:
    """The socket of a pilot with that bridge, once it is ready."""
    environment = {**os.environ, "PANNIER_RUNTIME_DIR": f"{folder}/r", "PANNIER_STATE_DIR": f"{folder}/s"}
    path = f"{folder}/pilot.sock"
    words = [PANNIER, "pilot", "--socket", path, "--bridge", bridge]
    started = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with ended(started) as process:
        said = first_line(process)
        if "is ready" not in said:
            raise SystemExit(said)
        yield path


@contextmanager
def running_service(service: str, number: int, words: Sequence[str]) -> Iterator[int]:
    """The port of an instance, once it is registered."""
    command = [sys.executable, HERE / "service.py", service, str(number), *words]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        said = first_line(process)
        if not said.strip().isdigit():
            raise SystemExit(f"{service}-{number} has not come up {said}")
        yield int(said)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Ends a process in the end, politely if it will."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
