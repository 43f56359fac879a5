"""Configurations that are wrong, oversized or malicious, at the start of a service and while it serves."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pannier.shared.messages import Nothing, ProfileInForce

from tests.faults.bed import ORDERS, SHOP, Bed
from tests.faults.killing import pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.victims import kill
from tests.faults.waiting import pause, wait_until
from tests.proxy.wire import Wire, request

EXTRA = "extra"
FILED = "filed"
REFUSED_S = 10.0
SEEN_S = 4.0
KIB = 1 << 10
EXPECTED = 256 * KIB
"""The size that a profile may have."""


@dataclass(frozen=True)
class Bad:
    """A profile by its text, and what must be said of it: the line, and the field or another word."""

    name: str
    text: str
    line: int
    word: str


BAD: tuple[Bad, ...] = (
    Bad("syntax", 'extends = "production"\n[proxy\nworkers = 1\n', 2, "PAN0101"),
    Bad("unknown field", 'extends = "production"\n[sidecars.observability]\nrouts = ["/a"]\n', 3, "routs"),
    Bad("wrong type", 'extends = "production"\n[proxy]\nworkers = "two"\n', 3, "proxy.workers"),
    Bad("out of range", 'extends = "production"\n[proxy]\nworkers = 65\n', 3, "proxy.workers"),
    Bad("no duration", 'extends = "production"\n\n[proxy.timeouts]\nidle = "soon"\n', 4, "proxy.timeouts.idle"),
    Bad("no such parent", 'description = "x"\nextends = "prod"\n', 2, "extends"),
    Bad("a parent elsewhere", 'extends = "../../secret"\n', 1, "extends"),
    Bad(
        "contradiction",
        'extends = "production"\n[sidecars.traffic.services.a]\nsubsets = {}\nx = 1\n',
        4,
        "services.a.x",
    ),
    Bad(
        "a rule of a rule",
        'extends = "production"\n[[sidecars.traffic.routes]]\nname = "a"\nto = { b = -1 }\n',
        4,
        "routes",
    ),
)


def told(bad: Bad, file: Path, code: int, said: str) -> str:
    """What is wrong with how a refusal ended; empty if nothing is."""
    if code <= 0 or "Traceback" in said:
        return f"{bad.name}: ended with {code}: {said[-300:]}"
    if f"{file.name}:{bad.line}" not in said or bad.word not in said:
        return f"{bad.name}: {file.name}:{bad.line} and {bad.word} are not named: {said[-300:]}"
    return ""


class InvalidFiles(Fault):
    """Each bad profile at a start and under a running service; then a bad file of endpoints, whose reader is killed."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        folder = bed.folder / "profiles"
        folder.mkdir(exist_ok=True)
        (bed.folder / "secret.toml").write_text('extends = "production"\n')
        before, in_force = pids(bed.processes(ORDERS)), governed(bed)
        for number, bad in enumerate(BAD):
            file = folder / f"bad-{number}.toml"
            file.write_text(bad.text)
            for words in (
                ("run", "--name", EXTRA, "--profile", file.stem, "--", "true"),
                ("profile", "use", file.stem, "-n", ORDERS),
            ):
                ended = bed.host.run(*words)
                if fault := told(bad, file, ended.returncode, ended.stderr):
                    trial.require(False, f"{words[0]}: {fault}")
                trial.add("refused", 1)
        set_ = bed.host.run("profile", "set", "proxy.workers=two", "-n", ORDERS)
        trial.require(set_.returncode > 0 and "proxy.workers" in set_.stderr, f"`profile set` said {set_.stderr!r}")
        trial.require(pids(bed.processes(ORDERS)) == before, "a refused change has touched somebody")
        trial.require(governed(bed) == in_force, f"in force is {governed(bed)}, was {in_force}")
        self._endpoints(bed, trial)

    def _endpoints(self, bed: Bed, trial: Trial) -> None:
        """The last good file of endpoints is kept while it is broken, by a reader that was killed too."""
        file = bed.folder / "endpoints.toml"
        file.write_text(f'services.{FILED} = [{{ address = "127.0.0.1:{bed.ports[ORDERS]}" }}]\n')
        done = bed.host.run("profile", "set", f"sidecars.discovery.file={file}", "-n", SHOP, "--confirm", "0s")
        trial.require(done.returncode == 0, f"`profile set` said {done.stderr!r}")
        wait_until(lambda: asked(bed, FILED) == 200, "the file's service is found", within=SEEN_S)
        for text in (
            'services = "none"\n',
            f'services.{FILED} = [{{ addres = "x" }}]\n',
            "\0\0",
            "services.a = [\n",
            "",
        ):
            file.write_text(text)
            pause(1.2)
            trial.require(asked(bed, FILED) == 200, f"{text!r} has taken the last good endpoints away")
        sidecars = bed.sidecars(SHOP)
        kill([sidecars["discovery"][0]])
        wait_until(
            lambda: (
                bed.sidecars(SHOP)["discovery"][1] and bed.sidecars(SHOP)["discovery"][0] != sidecars["discovery"][0]
            ),
            "discovery is back",
            within=SEEN_S,
        )
        trial.require(asked(bed, FILED) == 200, "the last good endpoints did not survive a restart")
        kill([bed.running[SHOP].pid])
        bed.running[SHOP].wait()
        bed.start(SHOP)
        bed.wait_ready(SHOP, within=REFUSED_S)
        trial.require(asked(bed, FILED) == 200, "the last good endpoints did not survive the supervisor")
        says = bed.log(SHOP).read_text() + bed.host.run("logs", "-n", SHOP, "--tail", "500").stdout
        trial.require(f"{file}:1" in says, f"{file}:1 is not named in what {SHOP} says")

    def heal(self, bed: Bed) -> None:
        done = bed.host.run("profile", "reset", "-n", SHOP, "--confirm", "0s")
        assert done.returncode == 0, done.stderr


def governed(bed: Bed) -> ProfileInForce:
    """What the service that is changed runs on."""
    return bed.host.ask(ORDERS, "profile.in_force", Nothing(), ProfileInForce)


def asked(bed: Bed, service: str) -> int:
    """What the app of the caller is answered when it calls a service."""
    host, _, port = bed.address(SHOP, "outbound").rpartition(":")
    with Wire(socket.create_connection((host, int(port)), SEEN_S)) as wire:
        wire.send(request("/probe", "x-attack: 1", host=service))
        return wire.read_answer().status


def services(count: int) -> str:
    return "[services]\n" + "".join(f's{number} = [{{ address = "a:1" }}]\n' for number in range(count))


def routes(count: int) -> str:
    return "".join(f'[[sidecars.traffic.routes]]\nname = "r{number}"\nto = {{ a = 1 }}\n' for number in range(count))


def bomb() -> str:
    """Ten aliases of ten aliases, ten deep: 10^10 scalars for a reader of YAML."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines) + "\n"


OVERSIZED: Mapping[str, Callable[[], str]] = {
    "twice the size": lambda: "#" * 79 + "\n" + ("# " + "x" * 77 + "\n") * (2 * EXPECTED // 80),
    "a thousand times the size": lambda: ("# " + "x" * 1021 + "\n") * (1000 * EXPECTED // KIB),
    "twice the services": lambda: services(2 * 1024),
    "twice the routes": lambda: routes(2 * 10_000),
    "33 levels": lambda: "x = " + "[" * 33 + "]" * 33 + "\n",
    "100 000 levels": lambda: "x = " + "[" * 100_000 + "]" * 100_000 + "\n",
    "a key of 100 000 parts": lambda: ".".join(["a"] * 100_000) + " = 1\n",
    "aliases of aliases in YAML": bomb,
}
NAMES = (
    "../secret",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/../secret",
    "%2e%2e/secret",
    "secret\n",
    "..\\secret",
    "x" * 300,
    "\u202esecret",
    "~/secret",
    "",
)


class OversizedFiles(Fault):
    """Far more than is expected, and names that point elsewhere: a rejection each time, at once, and nothing else."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        folder = bed.folder / "profiles"
        folder.mkdir(exist_ok=True)
        (bed.folder / "secret.toml").write_text('extends = "production"\n')
        before, in_force = pids(bed.processes(ORDERS)), governed(bed)
        for name, text in OVERSIZED.items():
            file = folder / ("bomb.yaml" if "YAML" in name else "big.toml")
            file.write_text(text())
            given = file.stem if file.suffix == ".toml" else f"profiles/{file.name}"
            self._refused(bed, trial, name, given)
            self._refused(bed, trial, f"{name}, validated", str(file), validated=True)
            file.unlink()
        for name in NAMES:
            self._refused(bed, trial, repr(name[:20]), name)
        trial.require(pids(bed.processes(ORDERS)) == before, "a refused change has touched somebody")
        trial.require(governed(bed) == in_force, f"in force is {governed(bed)}, was {in_force}")

    def _refused(self, bed: Bed, trial: Trial, what: str, given: str, *, validated: bool = False) -> None:
        ways: list[tuple[str, ...]] = [("profile", "validate", given)] if validated else []
        ways += (
            []
            if validated
            else [
                ("run", "--name", EXTRA, "--profile", given, "--", "true"),
                ("profile", "use", "-n", ORDERS, "--", given),
            ]
        )
        for words in ways:
            began = time.monotonic()
            ended = bed.host.run(*words)
            trial.within("refused_s", time.monotonic() - began, REFUSED_S)
            said = ended.stderr
            right = ended.returncode > 0 and "Traceback" not in said and "panicked" not in said and said.strip()
            trial.require(bool(right), f"{words[0]} with {what}: ended with {ended.returncode}: {said[-200:]!r}")
            trial.add("refused", 1)
