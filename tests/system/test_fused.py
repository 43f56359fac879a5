"""`fuse = true`: our sidecars in one process, each still added, removed, configured and restarted by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pannier import _native
from pannier.shared.messages import Nothing, Process, Sidecar, SidecarList, SidecarName
from pannier.sidecars.traffic.config import Config
from pannier.sidecars.traffic.table import routes_table

from tests.system.host import Host, alive, until
from tests.system.load import Load
from tests.system.origin import Origin

SIDECARS = ("discovery", "observability", "traffic", "resilience")
FUSED = ("--profile", "production", "--set", "fuse=true", "--set", "orphan_grace=30s")
REQUESTS = "http_server_request_duration_seconds_count"


@pytest.fixture
def orders(host: Host, origin: Origin) -> Host:
    """A service `orders` whose four sidecars share a process, on a host of its own."""
    origin.serve("orders", *FUSED)
    return host


def sidecars(host: Host) -> Mapping[str, Sidecar]:
    listed = host.ask("orders", "sidecar.list", Nothing(), SidecarList).sidecars
    return {sidecar.name: sidecar for sidecar in listed if sidecar.state}


def switch(host: Host, verb: str, name: str) -> None:
    host.ask("orders", verb, SidecarName(name), Nothing)


def fused(processes: Sequence[Process]) -> int:
    """The PID of the process that all four are in, and nobody else."""
    (pid,) = {process.pid for process in processes if process.name in SIDECARS}
    assert {process.name for process in processes if process.fused} == set(SIDECARS)
    assert not any(process.pid == pid for process in processes if process.name not in SIDECARS)
    return pid


def ended(host: Host) -> list[str]:
    return [line for line in host.run("logs", "--name", "orders").stdout.splitlines() if " ended (" in line]


def fence(host: Host) -> None:
    """Takes the table of traffic over, so that traffic gives up as soon as it has something to publish."""
    segments = Path(f"/proc/{host.pids('orders')['keeper']}/fd").iterdir()
    path = next(each for each in segments if os.readlink(each).startswith("/memfd:table.routes "))
    descriptor = os.open(path, os.O_RDWR)
    try:
        _native.TableWriter("routes", descriptor).publish(routes_table(Config(), {}))
    finally:
        os.close(descriptor)


def test_four_sidecars_are_one_process_that_is_shown_is_the_supervisors_alone_and_leaves_with_the_service(
    host: Host, origin: Origin
) -> None:
    service = origin.serve("orders", *FUSED)
    processes = host.processes("orders")
    pid = fused(processes)
    rows = [row.split() for row in host.run("ps", "--name", "orders").stdout.splitlines()]
    shown = {row[2]: row[-2] for row in rows if row[2] in {*SIDECARS, "supervisor"}}
    assert {name for name, pss in shown.items() if pss.startswith("~")} == set(SIDECARS), "that is an estimate"
    costs = [process.pss_bytes for process in processes if process.pid == pid]
    assert min(costs) == max(costs) > 0, "each has an equal part"
    done = host.run("call", "fused", "stop", '{"name": "traffic", "life": 0}', "--name", "orders")
    assert done.returncode != 0
    assert "`fused` is the supervisor's alone" in done.stderr
    service.terminate()
    said = service.communicate(timeout=20)
    assert service.returncode == 0, said
    assert not any(alive(process.pid) for process in processes)
    assert "Traceback" not in said[1]


def test_all_come_back_from_the_death_of_their_process_and_no_request_fails(orders: Host) -> None:
    before = orders.processes("orders")
    with Load(orders.urls("orders")["inbound"], "orders") as load:
        os.kill(fused(before), signal.SIGKILL)
        until(lambda: {s.restarts for s in sidecars(orders).values()} == {1} and orders.ready("orders"))
    load.assert_all_answered()
    after = orders.processes("orders")
    assert fused(after) != fused(before)
    others = {"keeper", "supervisor", "zygote", "proxy", "app"}
    assert {p.name: p.pid for p in after if p.name in others} == {p.name: p.pid for p in before if p.name in others}


def test_each_goes_and_comes_back_and_the_others_do_not_notice(orders: Host) -> None:
    before = sidecars(orders)
    with Load(orders.urls("orders")["inbound"], "orders") as load:
        for name in SIDECARS:
            switch(orders, "sidecar.rm", name)
            assert sidecars(orders) == {key: value for key, value in before.items() if key != name}
            switch(orders, "sidecar.add", name)
    load.assert_all_answered()
    assert sidecars(orders) == before
    assert ended(orders) == []
    until(lambda: orders.metric("orders", REQUESTS) >= load.answered)  # asked at a listener that is new, too


def test_each_is_restarted_and_told_by_itself_and_stays_in_that_process(orders: Host) -> None:
    before = sidecars(orders)
    switch(orders, "sidecar.restart", "traffic")
    after = sidecars(orders)
    assert [name for name in SIDECARS if after[name] != before[name]] == ["traffic"]
    assert after["traffic"].restarts == 1 and after["traffic"].ready
    settings = ("traffic.zone=c", "observability.max_series=500", "fuse=false")
    done = orders.run("profile", "set", *settings, "--confirm", "0s", "--name", "orders")
    assert done.returncode == 0, done.stderr
    assert "~ tell traffic" in done.stderr and "~ restart observability" in done.stderr, "as in processes of their own"
    assert "= at the next start: fuse true → false" in done.stderr
    told = sidecars(orders)
    assert [name for name in SIDECARS if told[name] != after[name]] == ["observability"]
    switch(orders, "sidecar.restart", "resilience")
    assert {sidecar.pid for sidecar in sidecars(orders).values()} == {before["traffic"].pid}


def test_who_fails_with_an_error_ends_alone_and_is_started_again(orders: Host) -> None:
    before = sidecars(orders)
    fence(orders)
    refused = orders.run("profile", "set", "traffic.zone=c", "--confirm", "0s", "--name", "orders")
    assert "another traffic writes the table of routes" in refused.stderr
    until(lambda: sidecars(orders)["traffic"].restarts == 1 and orders.ready("orders"))
    after = sidecars(orders)
    assert {k: v for k, v in after.items() if k != "traffic"} == {k: v for k, v in before.items() if k != "traffic"}
    assert len(ended(orders)) == 1


def test_a_supervisor_takes_them_over_and_hears_of_their_end(orders: Host, origin: Origin) -> None:
    before = orders.processes("orders")
    pid = fused(before)
    os.kill(next(p.pid for p in before if p.name == "supervisor"), signal.SIGKILL)
    until(lambda: orders.orphaned("orders"))
    origin.serve("orders", *FUSED)
    assert fused(orders.processes("orders")) == pid
    assert {s.restarts for s in sidecars(orders).values()} == {0}
    switch(orders, "sidecar.rm", "traffic")
    assert set(sidecars(orders)) == {*SIDECARS} - {"traffic"}
    os.kill(pid, signal.SIGKILL)
    until(lambda: {s.restarts for s in sidecars(orders).values()} == {1} and orders.ready("orders"))


def test_process_and_supervisor_die_together(orders: Host, origin: Origin) -> None:
    before = orders.processes("orders")
    os.kill(next(p.pid for p in before if p.name == "supervisor"), signal.SIGKILL)
    os.kill(fused(before), signal.SIGKILL)
    until(lambda: orders.orphaned("orders"))
    origin.serve("orders", *FUSED)
    assert fused(orders.processes("orders")) != fused(before)
    assert {s.restarts for s in sidecars(orders).values()} == {1}


def test_an_upgrade_gives_all_of_them_a_new_process(orders: Host) -> None:
    before = fused(orders.processes("orders"))
    with Load(orders.urls("orders")["inbound"], "orders") as load:
        done = orders.run("upgrade", "--name", "orders")
        assert done.returncode == 0, done.stderr
    load.assert_all_answered()
    after = fused(orders.processes("orders"))
    assert f"traffic: pid {before} → {after}" in done.stderr and after != before
    assert {s.restarts for s in sidecars(orders).values()} == {1}
    assert ended(orders) == [], "it was asked for"
