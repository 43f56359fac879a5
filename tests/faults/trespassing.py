"""Who has no business on the bus, and paths on which somebody else got there first: refused, with a word that helps.

The memory between processes has no name that could be taken first: it is anonymous, and its descriptors travel with a
welcome or by inheritance. So "nothing mapped" is that no refused peer is given a descriptor, and that a start which is
refused leaves no process behind.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pannier.shared import envelope
from pannier.shared.envelope import CLI, Beat, Envelope, Event, Hello, Publish, Ready, Reply
from pannier.shared.framing import frame

from tests.faults.bed import Bed
from tests.faults.bus_peer import Peer
from tests.faults.killing import alternating, pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.starting import (
    EXTRA,
    Case,
    clear,
    given_up,
    open_to_all,
    put_file,
    put_folder,
    put_link_to_file,
    put_link_to_folder,
    remove,
    run,
    written_through,
)
from tests.faults.verdict import Trial
from tests.faults.waiting import wait_until
from tests.system.host import free_port

NOBODY = 65534
OVER_S = 5.0
PATIENCE_S = 10.0

STRANGER = """
import json, os, socket, sys
path, kind, data = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
found = {{"data": "", "descriptors": 0, "refused": ""}}
with socket.socket(socket.AF_UNIX, kind) as sock:
    sock.settimeout({patience})
    try:
        sock.connect(path)
        try:
            sock.sendall(data)
        except BrokenPipeError:
            pass  # refused at sight; the reason may be read all the same
        while True:
            more, ancillary, _, _ = sock.recvmsg(65536, 4096)
            found["data"] += more.decode("latin-1")
            found["descriptors"] += len(ancillary)
            if not more:
                break
    except OSError as error:
        found["refused"] = type(error).__name__
print(json.dumps(found))
"""
"""Another user, who says something to a socket and prints what that came to."""

IMPOSTOR = """
import os, socket, sys
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777); listener.listen(8)
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    connection.settimeout({patience})
    try:
        print("heard", len(connection.recv(65536)), flush=True)
    except OSError:
        print("heard 0", flush=True)
    connection.close()
"""
"""Another user, who listens where a supervisor should, and prints how many bytes he was told."""

ROLES: Mapping[str, tuple[Hello, str]] = {
    "a role without a token": (Hello(envelope.VERSION, "", 1, "traffic"), "role"),
    "the supervisor's name": (Hello(envelope.VERSION, "", 1, "supervisor"), "role"),
    "a token of nobody": (Hello(envelope.VERSION, "ff" * 32, 1, "traffic"), "token"),
    "another version": (Hello(envelope.VERSION + 1, "", 1, CLI), "version"),
}
RIGHTS: Mapping[str, tuple[Envelope, str]] = {
    "a topic of another": (Publish("services", b"\x80", retain=True), "rights"),
    "an event": (Publish("events", b"\x80", retain=False), "rights"),
    "ready": (Ready(), "rights"),
    "a beat": (Beat(), "rights"),
    "an answer": (Reply(1, b"\x80"), "rights"),
    "a broker's word": (Event("lifecycle", "supervisor", 1, True, b"\x80"), "protocol"),
}
SPOILT = (
    Case("a link for", put_link_to_folder),
    Case("a file for", put_file),
    Case("open to all:", open_to_all),
    *(
        Case(what, spoil, name)
        for name in ("bus.sock", "keeper.sock")
        for what, spoil in (("a file for", put_file), ("a folder for", put_folder), ("a link for", put_link_to_file))
    ),
)


@dataclass(frozen=True)
class Trespass(Fault):
    """Strangers at the door, roles that are not theirs, and paths that were taken before a service began."""

    def clean(self, bed: Bed) -> str:
        return "" if os.geteuid() == 0 else "only root can be another user, too"

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = alternating(trial)
        before = bed.processes(service)
        self._strangers(bed, trial, service)
        self._roles(bed.host.runtime / service / "bus.sock", trial)
        self._impostor(bed, trial)
        for case in SPOILT:
            self._spoilt(bed, trial, case)
        after = bed.processes(service)
        trial.require(pids(after) == pids(before), f"somebody was started anew: {pids(before)} became {pids(after)}")

    def _strangers(self, bed: Bed, trial: Trial, service: str) -> None:
        folder = bed.host.runtime / service
        hello = frame(Hello(envelope.VERSION, "", 1, CLI))
        for name, kind, data in (
            ("bus.sock", socket.SOCK_STREAM, hello),
            ("keeper.sock", socket.SOCK_SEQPACKET, b"\x01\x00\x00\x00" * 4),
        ):
            told = stranger(folder / name, kind, data)
            trial.require(told["refused"] == "PermissionError", f"{name}: a stranger comes as far as {told}")
            with doors_open(bed, folder / name):
                told = stranger(folder / name, kind, data)
            let_in = "welcome" in told["data"] or told["descriptors"]
            trial.require(not let_in, f"{name}: with all doors open a stranger was told {told}")
            if name == "bus.sock":
                trial.require("belongs to uid" in told["data"], f"a stranger was told {told}")
            trial.add("refused", 2)

    def _roles(self, path: Path, trial: Trial) -> None:
        for what, (message, code) in {**ROLES, **RIGHTS}.items():
            with Peer(path) as peer:
                if not isinstance(message, Hello):
                    peer.enter()
                peer.say(message)
                peer.hear_end()
            trial.require(peer.code == code and bool(peer.message), f"{what}: told {peer.code!r}, {peer.message!r}")
            trial.require(peer.descriptors == 0, f"{what}: was given {peer.descriptors} descriptors")
            trial.add("refused", 1)

    def _impostor(self, bed: Bed, trial: Trial) -> None:
        """Another user where a supervisor should be: a command says who it is, and tells him nothing."""
        folder = bed.host.runtime / EXTRA
        folder.mkdir(mode=0o700)
        try:
            with doors_open(bed, folder):
                folder.chmod(0o777)
                words = [sys.executable, "-I", "-S", "-c", _filled(IMPOSTOR), str(folder / "bus.sock")]
                with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
                    assert process.stdout is not None
                    process.stdout.readline()
                    folder.chmod(0o700)
                    ended = bed.host.run("ps", "--name", EXTRA)
                    process.kill()
                    heard = process.stdout.read()
            trial.require(
                ended.returncode > 0 and f"uid {NOBODY}" in ended.stderr,
                f"ps at a stranger's socket ended with {ended.returncode}: {ended.stderr[-200:]!r}",
            )
            trial.require("heard 0" in heard or not heard, f"the stranger was told something: {heard!r}")
            trial.add("refused", 1)
        finally:
            remove(folder)

    def _spoilt(self, bed: Bed, trial: Trial, case: Case) -> None:
        folder = bed.host.runtime / EXTRA
        folder.mkdir(mode=0o700)
        case.spoil(folder / case.name if case.name else folder)
        bed.log(EXTRA).write_text("")
        others = set(bed.host.survivors())
        public = free_port()
        process = run(bed, public)
        try:
            took = wait_until(lambda: process.poll() is not None, "it is over", within=OVER_S)
            trial.within("over_s", took, OVER_S)
            for fault in [*given_up(bed, case, public, process.returncode), *written_through(bed)]:
                trial.require(False, f"{case}: {fault}")
            left = set(bed.host.survivors()) - others
            trial.require(not left, f"{case}: left behind: {left}")
            trial.add("refused", 1)
        except AssertionError as error:
            trial.require(False, f"{case}: {error}")
        finally:
            clear(bed)


def stranger(path: Path, kind: socket.SocketKind, data: bytes) -> Mapping[str, Any]:
    """What another user is told who says that to a socket."""
    words = [sys.executable, "-I", "-S", "-c", _filled(STRANGER), str(path), str(int(kind)), data.hex()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    found: dict[str, Any] = json.loads(done.stdout or '{"data": "", "descriptors": 0, "refused": "?"}')
    return found


def _filled(program: str) -> str:
    return program.format(nobody=NOBODY, patience=PATIENCE_S)


@contextmanager
def doors_open(bed: Bed, path: Path) -> Iterator[None]:
    """Everybody may use the path and pass through the folders above it, while the block lasts."""
    above = [bed.folder, bed.host.runtime, *([path.parent] if path.parent != bed.host.runtime else [])]
    modes = {each: each.stat().st_mode for each in (*above, path)}
    try:
        for each in above:
            each.chmod(0o755)
        path.chmod(0o777)
        yield
    finally:
        for each, mode in modes.items():
            each.chmod(mode)
