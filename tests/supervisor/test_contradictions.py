"""What parts of a profile contradict together, with the real types of the sidecars."""

from __future__ import annotations

from pathlib import Path

import pytest
from pannier.shared.profile_files import builtin_profiles
from pannier.shared.project import resolve
from pannier.supervisor.contradictions import contradictions
from pannier.supervisor.sidecar_types import sidecar_types


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(text: str) -> list[str]:
    Path("own.toml").write_text(text)
    resolved = resolve("own.toml", sidecars=sidecar_types())
    problems = resolved.problems(contradictions(resolved.profile))
    assert all(problem.severity == "warning" for problem in problems)
    return [f"{p.place} {p.code} {p.path}" + (f" ~{p.near}" if p.near else "") for p in problems]


@pytest.mark.parametrize("name", builtin_profiles())
def test_no_stage_contradicts_itself(name: str) -> None:
    resolved = resolve(name, sidecars=sidecar_types())
    assert (list(resolved.warnings), contradictions(resolved.profile)) == ([], [])


def test_retries_need_somebody_who_retries() -> None:
    text = "[sidecars.discovery]\n[[sidecars.traffic.routes]]\nname = 'a'\nretries = 2\n"
    assert found(text) == ["own.toml:4:11 PAN0401 sidecars.traffic.routes[0].retries"]
    assert found(text.replace("2", "0")) == []
    assert found(f"{text}[sidecars.resilience]\n") == []


NAMES = """\
[[services.orders]]
address = "127.0.0.1:1"
[sidecars.traffic]
allow = ["mirror"]
[sidecars.traffic.services.order]
mirror = { to = "shadow" }
[sidecars.traffic.services.orders]
[[sidecars.traffic.routes]]
name = "a"
to = { orders = 50, payments = 50 }
mirror = { to = "shadow" }
[sidecars.resilience.services."*"]
[sidecars.resilience.services.stock]
"""


def test_without_discovery_somebody_must_have_said_where_a_service_is() -> None:
    assert found(NAMES) == [
        "own.toml:13:31 PAN0402 sidecars.resilience.services.stock",
        "own.toml:5:28 PAN0402 sidecars.traffic.services.order ~orders",
        "own.toml:6:17 PAN0402 sidecars.traffic.services.order.mirror.to",
        "own.toml:10:21 PAN0402 sidecars.traffic.routes[0].to.payments",
        "own.toml:11:17 PAN0402 sidecars.traffic.routes[0].mirror.to",
    ]
    assert found(f"{NAMES}[sidecars.discovery]\n") == []


def test_somebody_is_in_a_subset_if_only_the_profile_knows_who() -> None:
    text = "[[services.orders]]\naddress = 'a:1'\nmetadata = { version = 'v1', zone = 'b' }\n"
    text += "[sidecars.traffic.services.orders.subsets]\nv1 = { version = 'v1' }\nv2 = { version = 'v2' }\n"
    assert found(text) == ["own.toml:6:1 PAN0403 sidecars.traffic.services.orders.subsets.v2"]
    assert found(f"{text}[sidecars.discovery]\n") == []


def test_a_caller_waits_no_longer_than_a_callee_under_the_same_profile() -> None:
    def route(timeouts: str) -> list[str]:
        return found(f"[[sidecars.traffic.routes]]\nname = 'a'\ntimeouts = {{ {timeouts} }}\n")

    assert route("request = '16s'") == ["own.toml:3:24 PAN0404 sidecars.traffic.routes[0].timeouts.request"]
    assert route("backend_request = '16s', request = '0s'") == [
        "own.toml:3:32 PAN0404 sidecars.traffic.routes[0].timeouts.backend_request"
    ]
    assert route("request = '1m', backend_request = '15s'") == []
    assert route("request = '0s'") == []
    for whole in ("20s", "0s"):
        text = f"[proxy.timeouts]\nrequest = '{whole}'\n[[sidecars.traffic.routes]]\nname = 'a'\n"
        assert found(f"{text}timeouts = {{ request = '16s' }}\n") == []
