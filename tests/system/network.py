"""Hosts with networks of their own: network namespaces on one switch, which can be cut into parts. It takes root.

    with Network("one", "two", "three") as network:
        subprocess.Popen([*network.inside("one"), "etcd", ...])
        network.cut([["one"], ["two", "three"]])     # packets between the parts vanish, as if a cable were out
        network.heal()

The switch is a namespace as well, so that nothing is changed on this machine's own network. What is cut vanishes
without a word (no reset, no ICMP), and connections that were open go on when it is whole again, if their ends have
waited.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import count
from types import TracebackType
from typing import Self

_numbers = count()


def may_make() -> bool:
    """Whether this process may make networks."""
    return os.geteuid() == 0


class Network:
    """Its hosts have the addresses 10.77.0.1, .2 and so on, in their order."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._mark = f"pannier-{os.getpid()}-{next(_numbers)}"
        self._made: list[str] = []

    def __enter__(self) -> Self:
        switch = self._make("switch")
        bridges = [f"br{number}" for number in range(len(self.names))]
        lines = [line for name in bridges for line in (f"link add {name} type bridge", f"link set {name} up")]
        _ip(lines, switch)
        for number, name in enumerate(self.names):
            host = self._make(name)
            _ip([f"link add port{number} type veth peer name eth0 netns {host}"], switch)
            _ip([f"link set port{number} master br0", f"link set port{number} up"], switch)
            _ip(["link set lo up", f"addr add {self.address(name)}/24 dev eth0", "link set eth0 up"], host)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for namespace in reversed(self._made):
            subprocess.run(["ip", "netns", "del", namespace], check=False)

    def address(self, name: str) -> str:
        return f"10.77.0.{self.names.index(name) + 1}"

    def inside(self, name: str) -> Sequence[str]:
        """The words before a command that is to run on that host."""
        return ["nsenter", f"--net=/run/netns/{self._mark}-{name}"]

    def cut(self, parts: Sequence[Sequence[str]]) -> None:
        """Who is in one part reaches each other, and nobody else. Hosts that are in no part reach nobody."""
        whose = {name: number for number, part in enumerate(parts) for name in part}
        lines = []
        for number, name in enumerate(self.names):
            where = f"master br{whose[name]}" if name in whose else "nomaster"
            lines.append(f"link set port{number} {where}")
        _ip(lines, f"{self._mark}-switch")

    def heal(self) -> None:
        """Everybody reaches everybody."""
        self.cut([self.names])

    def _make(self, name: str) -> str:
        namespace = f"{self._mark}-{name}"
        _run(["ip", "netns", "add", namespace])
        self._made.append(namespace)
        return namespace


def _ip(lines: Sequence[str], namespace: str) -> None:
    _run(["ip", "-n", namespace, "-batch", "-"], "\n".join(lines) + "\n")


def _run(words: Sequence[str], said: str = "") -> None:
    done = subprocess.run(words, input=said, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}: {said}")
