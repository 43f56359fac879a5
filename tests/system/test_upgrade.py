"""`pannier upgrade` and its parts, on a service that is under load: nobody may notice."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.proxy.wire import Wire, request
from tests.system.host import Host, free_port, until
from tests.system.load import Load
from tests.system.origin import Origin
from tests.system.test_under_load import SLOW_APP

REQUESTS = "http_server_request_duration_seconds_count"
SIDECARS = ("discovery", "observability")
MAJOR_AT = 12
"""Where a segment's header has its major version: the upper half of its second word."""


def upgrade(host: Host, *words: str) -> str:
    """What the command says; it must succeed."""
    done = host.run("upgrade", "--name", "orders", *words)
    assert done.returncode == 0, done.stderr
    return done.stderr


def without(pids: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    return {name: pid for name, pid in pids.items() if name not in names}


def test_everything_is_renewed_and_no_request_fails(host: Host, origin: Origin) -> None:
    origin.serve("orders")
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        said = upgrade(host)
    load.assert_all_answered()
    after = host.pids("orders")
    renewed = ("zygote", *SIDECARS, "proxy")
    assert without(after, renewed) == without(before, renewed)
    assert not {after[name] for name in renewed} & {before[name] for name in renewed}
    assert f"keeper: renewed, pid {before['keeper']} as before" in said
    assert f"proxy: pid {before['proxy']} → {after['proxy']}" in said
    until(lambda: host.ready("orders"))
    # The observability that counts now has read what both generations counted.
    until(lambda: host.metric("orders", REQUESTS) >= load.answered)
    assert host.metric("orders", REQUESTS) == load.answered


def test_the_proxy_three_times_in_a_row(host: Host, origin: Origin) -> None:
    origin.serve("orders")
    seen = {host.pids("orders")["proxy"]}
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        for _ in range(3):
            upgrade(host, "--only", "proxy")
            seen.add(host.pids("orders")["proxy"])
    load.assert_all_answered()
    assert len(seen) == 4
    assert without(host.pids("orders"), ["proxy"]) == without(before, ["proxy"])


def test_workers_come_and_go(host: Host, origin: Origin) -> None:
    origin.serve("orders", "--set", "proxy.workers=1")
    with Load(host.urls("orders")["inbound"], "orders") as load:
        for workers in (2, 1, 3, 2):
            before = host.pids("orders")
            changed = host.run("profile", "set", f"proxy.workers={workers}", "--name", "orders")
            assert changed.returncode == 0, changed.stderr
            assert f"→ {workers}" in changed.stderr
            after = host.pids("orders")
            assert without(after, ["proxy"]) == without(before, ["proxy"])
            assert threads(after["proxy"], "worker-") == workers
    load.assert_all_answered()


def threads(pid: int, prefix: str) -> int:
    names = [entry.read_text() for entry in Path(f"/proc/{pid}/task").glob("*/comm")]
    return sum(name.startswith(prefix) for name in names)


def test_an_answer_under_way_is_finished_by_who_began_it(host: Host) -> None:
    with slow_request(host) as wire:
        before = host.pids("orders")
        upgrading = host.start("upgrade", "--name", "orders", "--only", "proxy")
        until(lambda: host.pids("orders")["proxy"] != before["proxy"])
        with call(host) as other:
            other.send(request())
            assert other.read_answer().status == 200, "who comes serves already"
        assert upgrading.poll() is None, "the command waits for who goes"
        (host.folder / "gate").touch()
        answer = wire.read_answer()
    assert (answer.status, answer.body, answer.get("connection")) == (200, b"whole", "close")
    assert upgrading.wait(timeout=20) == 0
    assert not Path(f"/proc/{before['proxy']}").exists()


def test_the_next_change_does_not_wait_for_the_proxy_that_goes(host: Host) -> None:
    with slow_request(host) as wire:
        before = host.pids("orders")
        changing = host.start("profile", "set", "proxy.workers=3", "--name", "orders")
        until(lambda: host.pids("orders")["proxy"] != before["proxy"])
        done = host.run("profile", "set", "proxy.timeouts.idle=50s", "--name", "orders")
        assert done.returncode == 0, done.stderr
        assert changing.poll() is None, "the first one waits for who goes"
        (host.folder / "gate").touch()
        assert wire.read_answer().body == b"whole"
    assert changing.wait(timeout=20) == 0


def call(host: Host) -> Wire:
    inbound = urlsplit(host.urls("orders")["inbound"])
    return Wire(socket.create_connection((inbound.hostname, inbound.port), 10.0))


@contextmanager
def slow_request(host: Host) -> Iterator[Wire]:
    """A service, and a request to it that its app answers when the file `gate` is there."""
    app, port = host.folder / "slow.py", free_port()
    app.write_text(SLOW_APP)
    host.serve(
        "orders",
        port,
        *("--port", "0", "--outbound-port", "auto", "--set", "orphan_grace=30s"),
        command=(sys.executable, str(app), str(port), str(host.folder)),
    )
    with call(host) as wire:
        wire.send(request("/slow"))
        until(lambda: bool(list(host.folder.glob("slow-*"))))
        yield wire


def test_a_proxy_that_does_not_come_up_leaves_the_old_one(host: Host, origin: Origin) -> None:
    """Its memory is of another layout, as after a downgrade by a major version."""
    origin.serve("orders")
    before = host.pids("orders")
    with Load(host.urls("orders")["inbound"], "orders") as load, spoilt_counters(before["keeper"]):
        done = host.run("upgrade", "--name", "orders", "--only", "proxy")
    assert done.returncode != 0
    assert "proxy.2 ended" in done.stderr
    load.assert_all_answered()
    assert host.pids("orders") == before


@contextmanager
def spoilt_counters(keeper: int) -> Iterator[None]:
    """The major version of the segment `counters` is another one meanwhile."""
    memory = next(fd for fd in Path(f"/proc/{keeper}/fd").iterdir() if "memfd:counters" in os.readlink(fd))
    with memory.open("r+b", buffering=0) as file:
        major = os.pread(file.fileno(), 4, MAJOR_AT)
        os.pwrite(file.fileno(), (int.from_bytes(major, "little") + 1).to_bytes(4, "little"), MAJOR_AT)
        yield
        os.pwrite(file.fileno(), major, MAJOR_AT)


def test_a_supervisor_that_dies_while_one_proxy_replaces_the_other_has_it_finished(host: Host) -> None:
    with slow_request(host) as wire:
        before = host.pids("orders")
        host.start("upgrade", "--name", "orders", "--only", "proxy")
        until(lambda: host.pids("orders")["proxy"] != before["proxy"])
        after = host.pids("orders")
        os.kill(before["supervisor"], signal.SIGKILL)
        until(lambda: host.orphaned("orders"))
        host.start("run", "--name", "orders", "--", "another", "command")
        until(lambda: host.pids("orders").get("proxy") == after["proxy"])
        (host.folder / "gate").touch()
        answer = wire.read_answer()
        assert (answer.body, answer.get("connection")) == (b"whole", "close")
    until(lambda: host.ready("orders") and "proxy.2" not in host.pids("orders"))
    assert not Path(f"/proc/{before['proxy']}").exists()


def test_a_supervisor_that_could_not_start_again_is_not_ended(host: Host, origin: Origin, tmp_path: Path) -> None:
    project = tmp_path / "pannier.toml"
    project.write_text("[apps.orders]\n")
    origin.serve("orders", "-f", str(project), "--app", "orders")
    before = host.pids("orders")
    project.write_text("[proxy]\nworkers = 'none'\n")
    done = host.run("upgrade", "--name", "orders", "--only", "supervisor")
    assert done.returncode != 0
    assert "PAN0103" in done.stderr
    assert host.pids("orders") == before
    assert host.ready("orders")
