"""A real service is changed while it is under load: stages, settings, what fails, and who dies in between."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from pannier.shared.errors import PannierError
from pannier.shared.messages import Changed, LiveReset, Nothing, ProfileInForce, SidecarName, Status

from tests.system.host import PATIENCE, Host, alive, free_port, until
from tests.system.load import Load
from tests.system.origin import Origin

CONNECTIONS = "pannier_proxy_connections_accepted_total"
STAGES = {
    "dev": {"discovery", "observability"},
    "test": {"discovery", "observability", "traffic"},
    "staging": {"discovery", "observability", "traffic", "resilience"},
    "canary": {"discovery", "observability", "traffic", "resilience"},
    "production": {"discovery", "observability", "traffic", "resilience"},
}
CORE = {"keeper", "zygote", "supervisor", "proxy", "app"}
THIRD_CONFIG = """
import msgspec
class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mood: str = "fine"
"""
THIRD = """
import trio
from pannier.shared.errors import PannierError
from pannier.shared.sidecar import main
from third.config import Config

async def take(config):
    if config.mood != "fine":
        raise PannierError(f"no {config.mood} while it runs")

async def serve(context):
    if context.config.mood == "bad":
        raise PannierError("in a bad mood", hint="cheer it up", exit_code=65)
    context.on_config(take)
    await context.bus.ready()
    await trio.sleep_forever()

main("third", Config, serve)
"""


@pytest.fixture
def orders(host: Host, origin: Origin) -> subprocess.Popen[str]:
    """A service of `dev` whose app calls `stock`, which is itself."""
    port = free_port()
    stock = f'services.stock=[{{ address = "127.0.0.1:{port}" }}]'
    return origin.serve("orders", "--set", stock, "--set", "orphan_grace=30s", port=port)


@pytest.fixture
def third(host: Host) -> None:
    """A sidecar that is installed by somebody else, and comes up only in the right mood."""
    package, about = host.folder / "site" / "third", host.folder / "site" / "third-1.0.dist-info"
    for folder in (package, about):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "config.py").write_text(THIRD_CONFIG)
    (package / "__main__.py").write_text(THIRD)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pannier.sidecars]\nthird = third.config:Config\n")
    host.environment["PYTHONPATH"] = str(host.folder / "site")


@contextmanager
def loaded(host: Host) -> Iterator[None]:
    """Requests from outside and calls of the app, all of them answered, on the connections that they began on."""
    urls = host.urls("orders")
    with Load(urls["inbound"], "orders", rate=300) as asked, Load(urls["outbound"], "stock", rate=300) as called:
        yield
    asked.assert_all_answered()
    called.assert_all_answered()
    if "metrics" in host.urls("orders"):
        assert host.metric("orders", CONNECTIONS) == asked.dialled + called.dialled


def use(host: Host, profile: str, *more: str) -> subprocess.CompletedProcess[str]:
    done = host.run("profile", "use", profile, "--name", "orders", *more)
    assert done.returncode == 0, done.stderr
    return done


def profile_of(host: Host) -> str:
    return host.ask("orders", "status", Nothing(), Status).profile


def sidecars(host: Host) -> set[str]:
    return host.pids("orders").keys() - CORE


def reaches(host: Host, caller: str, callee: str) -> bool:
    """Whether the app of `caller` would be answered by `callee`."""
    connection = http.client.HTTPConnection(urlsplit(host.urls(caller)["outbound"]).netloc, timeout=PATIENCE)
    try:
        connection.request("GET", "/", headers={"Host": callee})
        return connection.getresponse().status == 200
    finally:
        connection.close()


def test_stages_follow_one_another_under_load(host: Host, orders: subprocess.Popen[str]) -> None:
    with loaded(host):
        for profile in ("test", "staging", "production", "canary", "dev", "production", "dev"):
            before = host.pids("orders")
            use(host, profile, "--confirm", "0s")
            after = host.pids("orders")
            assert after.keys() - CORE == STAGES[profile]
            untouched = (before.keys() & after.keys()) - {"observability"}
            assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
            assert profile_of(host) == profile
            assert host.ready("orders")


def test_settings_are_told_to_processes_that_go_on(host: Host, orders: subprocess.Popen[str]) -> None:
    use(host, "staging")
    with loaded(host):
        before = host.pids("orders")
        done = host.run("profile", "set", "resilience.services.stock.breaker.consecutive_failures=5", "traffic.zone=b")
        assert done.returncode == 0, done.stderr
        assert host.pids("orders") == before
        lines = host.ask("orders", "live.diff", Nothing(), Changed).lines
        assert "~ change resilience: services.stock.breaker.consecutive_failures none → 5" in lines
        host.ask("orders", "live.reset", LiveReset(), Changed)
        assert host.ask("orders", "live.diff", Nothing(), Changed).lines == []
        assert host.pids("orders") == before


def test_a_sidecar_that_does_not_come_up_takes_everything_back(
    host: Host, third: None, orders: subprocess.Popen[str]
) -> None:
    with loaded(host):
        before = host.pids("orders")
        done = host.run("profile", "use", "production", "--set", "third.mood=bad")
        assert done.returncode == 1
        assert "not ready: third ended (code 65); everything is as it was" in done.stderr
        assert "third: in a bad mood" in done.stderr
        assert host.pids("orders") == before
        assert profile_of(host) == "dev"
        assert host.ask("orders", "live.diff", Nothing(), Changed).lines == []


def test_a_sidecar_that_refuses_takes_everything_back(host: Host, third: None, orders: subprocess.Popen[str]) -> None:
    use(host, "staging", "--set", "third.mood=fine")
    with loaded(host):
        before = host.pids("orders")
        done = host.run("profile", "set", "traffic.zone=b", "third.mood=grim", "outbound.unknown=deny")
        assert done.returncode == 1
        assert "third refuses its new configuration: no grim while it runs; everything is as it was" in done.stderr
        assert host.pids("orders") == before
        assert host.ask("orders", "live.diff", Nothing(), Changed).lines == []
        assert host.run("profile", "set", "traffic.zone=c").returncode == 0


def test_who_does_not_confirm_is_back_where_he_was(host: Host, orders: subprocess.Popen[str]) -> None:
    with loaded(host):
        before = host.pids("orders")
        done = use(host, "production", "--confirm", "2s")
        assert "pannier profile confirm" in done.stderr
        assert sidecars(host) == STAGES["production"]
        until(lambda: profile_of(host) == "dev" and sidecars(host) == STAGES["dev"])
        assert {**host.pids("orders"), "observability": 0} == {**before, "observability": 0}
        use(host, "production")
        assert host.run("profile", "confirm").returncode == 0
        assert host.ask("orders", "profile.in_force", Nothing(), ProfileInForce).confirm_s == 0


def test_a_supervisor_that_is_killed_leaves_the_promise_to_take_back(host: Host, orders: subprocess.Popen[str]) -> None:
    with loaded(host):
        before = host.pids("orders")
        use(host, "production", "--confirm", "5s")
        orders.kill()
        until(lambda: host.orphaned("orders"))
        host.start("run", "--name", "orders", "--", "another", "command")
        until(lambda: bool(host.processes("orders")))
        assert profile_of(host) == "production"
        until(lambda: profile_of(host) == "dev" and sidecars(host) == STAGES["dev"])
        untouched = {"keeper", "proxy", "app", "discovery"}
        assert {name: host.pids("orders")[name] for name in untouched} == {name: before[name] for name in untouched}


@pytest.mark.parametrize("sight", ["traffic", "observability"])
def test_a_supervisor_that_is_killed_in_the_middle_leaves_one_stage_or_the_other(
    host: Host, orders: subprocess.Popen[str], sight: str
) -> None:
    with loaded(host):
        before = host.pids("orders")
        command = host.start("profile", "use", "staging", "--name", "orders")
        until(lambda: host.pids("orders").get(sight, before.get(sight, 0)) != before.get(sight, 0))
        orders.kill()
        assert command.wait(PATIENCE) in {0, 69}
        until(lambda: host.orphaned("orders"))
        left = {pid for pid in host.survivors() if alive(pid)}
        host.start("run", "--name", "orders", "--", "another", "command")
        until(lambda: host.ready("orders"))
        after = host.pids("orders")
        assert after.keys() - CORE == STAGES[profile_of(host)]
        assert {name: after[name] for name in ("keeper", "proxy", "app", "discovery")} == {
            name: before[name] for name in ("keeper", "proxy", "app", "discovery")
        }
        until(lambda: set(host.survivors()) & left <= set(after.values()))
        use(host, "staging")


def test_callers_notice_nothing_when_who_announces_the_service_gets_a_new_process(host: Host, origin: Origin) -> None:
    host.start("run", "--name", "shop", "--outbound-port", "auto", "--", "sleep", "600")
    origin.serve("orders")
    until(lambda: host.ready("shop") and reaches(host, "shop", "orders"))
    with Load(host.urls("shop")["outbound"], "orders", method="POST") as load:
        for _ in range(2):
            done = host.run("profile", "set", "discovery.health.interval=7s", "--name", "orders")
            assert "~ restart discovery" in done.stderr
            host.ask("orders", "live.reset", LiveReset(), Changed)
    load.assert_all_answered()


def test_promotion_is_from_where_it_stands(host: Host, orders: subprocess.Popen[str]) -> None:
    refused = host.run("profile", "promote", "canary", "production")
    assert (refused.returncode, "orders runs dev, not canary" in refused.stderr) == (2, True)
    dry = host.run("profile", "promote", "dev", "production", "--dry-run")
    assert "+ start traffic" in dry.stdout.splitlines()
    assert profile_of(host) == "dev"
    done = host.run("profile", "promote", "dev", "production", "--confirm", "0s")
    assert done.returncode == 0
    assert done.stdout == dry.stdout
    assert profile_of(host) == "production"


def test_a_project_keeps_its_layers_and_what_was_added_by_hand(host: Host, origin: Origin) -> None:
    (host.folder / "profiles").mkdir()
    (host.folder / "profiles" / "bare.toml").write_text('extends = "dev"\nsidecars = { discovery = false }\n')
    (host.folder / "pannier.toml").write_text('profile = "bare"\n[sidecars]\nobservability = false\n')
    origin.serve("orders", "--set", "proxy.balance=round_robin")
    assert sidecars(host) == set()
    host.ask("orders", "sidecar.add", SidecarName("discovery"), Nothing)
    (host.folder / "profiles" / "bare.toml").write_text('extends = "dev"\nproxy = { timeouts = { request = "5s" } }\n')
    assert use(host, "bare", "--dry-run").stdout == "~ publish base: proxy.timeouts.request 15s → 5s\n"
    use(host, "bare")
    assert sidecars(host) == {"discovery"}
    host.ask("orders", "sidecar.rm", SidecarName("discovery"), Nothing)
    use(host, "staging")
    assert sidecars(host) == {"traffic", "resilience"}, "the live layer is over the project, and that over the profile"
    with pytest.raises(PannierError, match="no change waits"):
        host.ask("orders", "profile.confirm", Nothing(), Changed)
