from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
from pannier.shared.profile import Profile
from pannier.supervisor import status
from pannier.supervisor.child import Child
from pannier.supervisor.compose import compose
from pannier.supervisor.plan import Arguments, Place, Plan, ProcessPlan
from pannier.supervisor.status import Meter, Usage, cpu_times, processes, pss_bytes, seconds_since_boot, urls
from pannier.supervisor.watchdog import Watchdog

PORTS = {"inbound": 18080, "outbound": 15001}


def planned(**ports: int) -> Plan:
    place = Place("/run/orders", {}, "/pannierd", 2, PORTS | ports)
    return compose(Profile(), Arguments(name="orders", command=("x",)), place, {})


def gone() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_numbers_of_this_process() -> None:
    assert pss_bytes(os.getpid()) > 1_000_000
    used = cpu_times(os.getpid())
    assert used is not None
    assert 0 < used[1] < seconds_since_boot()


def test_what_is_measured_is_what_runs() -> None:
    found = Meter().measure([0, os.getpid(), gone()])
    assert found[os.getpid()].pss_bytes > 1_000_000
    assert 0 not in found
    assert sum(used == Usage() for used in found.values()) == 1


def test_who_asks_again_at_once_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(status, "seconds_since_boot", lambda: now[0])
    meter = Meter()
    first = meter.measure([os.getpid()])
    assert meter.measure([os.getpid()]) is first
    assert meter.measure([os.getpid(), os.getppid()]).keys() == {os.getpid(), os.getppid()}, "a new process is measured"
    again = meter.measure([os.getpid(), os.getppid()])
    now[0] += status.FRESH_SECONDS
    assert meter.measure([os.getpid(), os.getppid()]) is not again


def test_who_is_gone_shows_as_zero() -> None:
    pid = gone()
    assert pss_bytes(pid) == 0
    assert cpu_times(pid) is None
    assert Meter().cpu_percent(pid, 1.0) == 0.0


def test_cpu_is_measured_between_two_calls() -> None:
    meter, pid = Meter(), os.getpid()
    now = seconds_since_boot()
    meter.cpu_percent(pid, now)
    before = cpu_times(pid)
    assert before is not None
    while True:
        used = cpu_times(pid)
        assert used is not None
        if used[0] - before[0] >= 0.05:
            break
    assert 2.5 <= meter.cpu_percent(pid, now + 2.0) <= 20.0
    assert meter.measure([]) == {}
    assert meter.cpu_percent(pid, used[1] + 1e9) < 1.0, "a forgotten process is measured over its whole life"


class Nobody:
    async def spawn(self, plan: ProcessPlan) -> int:
        raise AssertionError

    async def signal(self, name: str, pid: int, number: int, *, group: bool) -> None:
        raise AssertionError


def rows(*, keeper_lost: bool) -> list[tuple[str, str, str, bool]]:
    plan = planned()
    assert plan.app is not None
    children = [Child(each, Nobody(), Watchdog(0.0)) for each in (plan.proxy, plan.app)]
    found = processes(
        children,
        {os.getpid(): Usage(4096, 1.5)},
        supervisor_state="degraded" if keeper_lost else "ready",
        keeper_pid=os.getpid(),
        keeper_lost=keeper_lost,
    )
    return [(row.name, row.kind, row.state, row.ready) for row in found]


def test_the_rows_of_ps() -> None:
    assert rows(keeper_lost=False) == [
        ("keeper", "keeper", "ready", True),
        ("supervisor", "supervisor", "ready", True),
        ("proxy", "proxy", "pending", False),
        ("app", "app", "pending", False),
    ]
    assert rows(keeper_lost=True)[:2] == [
        ("keeper", "keeper", "failed", False),
        ("supervisor", "supervisor", "degraded", False),
    ]


def test_the_keys_of_ps_are_pinned() -> None:
    found = processes([], {}, supervisor_state="ready", keeper_pid=0, keeper_lost=True)
    expected = {"name", "kind", "pid", "state", "restarts", "pss_bytes", "cpu_percent", "ready"}
    assert {frozenset(msgspec.to_builtins(row)) for row in found} == {frozenset(expected)}


def test_who_shares_a_process_is_shown_with_an_equal_part_of_it() -> None:
    children = []
    for name, pid, fused in (("traffic", 7, True), ("tenant", 8, False), ("resilience", 7, True)):
        plan = msgspec.structs.replace(planned().proxy, name=name, fused=fused)
        children.append(Child(plan, Nobody(), Watchdog(0.0)))
        children[-1].pid = pid
    usage = {7: Usage(3_000_000, 1.0), 8: Usage(4_000_000, 2.0)}
    found = processes(children, usage, supervisor_state="ready", keeper_pid=0, keeper_lost=True)[2:]
    assert [(row.name, row.pss_bytes, row.cpu_percent, row.fused) for row in found] == [
        ("traffic", 1_500_000, 0.5, True),
        ("tenant", 4_000_000, 2.0, False),
        ("resilience", 1_500_000, 0.5, True),
    ]


def test_a_socket_is_a_url_of_the_form_that_clients_take() -> None:
    plan = planned(metrics=9000)
    place = msgspec.structs.replace(
        plan.place, ports={"metrics": 9000}, sockets={"inbound": "/a b/%", "outbound": "/c"}
    )
    found = urls(msgspec.structs.replace(plan, place=place))
    assert (found["inbound"], found["outbound"]) == ("http+unix://%2Fa%20b%2F%25", "http+unix://%2Fc")


def test_urls() -> None:
    assert urls(planned(metrics=9000)) == {
        "inbound": "http://127.0.0.1:18080",
        "outbound": "http://127.0.0.1:15001",
        "bus": "unix:/run/orders/bus.sock",
        "metrics": "http://127.0.0.1:9000/metrics",
        "livez": "http://127.0.0.1:9000/livez",
        "readyz": "http://127.0.0.1:9000/readyz",
        "startupz": "http://127.0.0.1:9000/startupz",
    }


def test_the_api_is_there_while_discovery_is() -> None:
    plan = planned()
    assert "api" not in urls(plan)
    assert urls(msgspec.structs.replace(plan, enabled=("discovery",)))["api"] == "unix:/run/orders/api.sock"
