"""`[central]`: what is refused and why, layer over layer, and the state that the data path writes."""

from __future__ import annotations

from pathlib import Path

import msgpack
import msgspec
import pytest
from pannier.shared.central import CentralSeen, CentralState, GatewayState, Inputs, newest, states_of
from pannier.shared.central_words import points, reason, saving
from pannier.shared.explain import ConfigError
from pannier.shared.profile_files import builtin_profiles
from pannier.shared.project import load_project, resolve
from pannier.supervisor.sidecar_types import sidecar_types

LOOPBACK = 'addresses = ["127.0.0.1:15090"]\n'
TLS = "tls = { certificate = '/c.pem', key = '/k.pem', authority = '/a.pem' }\n"
NAMED = "[sidecars.discovery]\npilot = { addresses = ['10.0.0.1:18800'], advertise = 'h.example' }"
DENY = 'outbound = { unknown = "deny" }\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(central: str, above: str = DENY, below: str = "") -> list[str]:
    """Place, code, path and reason of everything that is found."""
    Path("own.toml").write_text(f"{above}[central]\n{central}{below}")
    try:
        found = resolve("own.toml", sidecars=sidecar_types()).warnings
    except ConfigError as error:
        found = error.problems
    return [f"{p.place.line}:{p.place.column} {p.code} {p.severity} {p.path}: {p.message}" for p in found]


FLAPS = [
    ("leave = { share = 0.9 }", "leave.share: 0.9: work would come back"),
    ("leave = { share = 0.0 }", "leave.share: 0: work would come back"),
    ("leave = { calm = '1999ms' }", "leave.calm: 1999ms: work would come back faster than it leaves"),
    ("enter = { within = '1s' }", "enter.within: 1s: nothing holds for 2s within that"),
    ("enter = { holds = '100ms' }", "enter.holds: 100ms: one sample would be enough"),
    ("enter = { queue_wait = '0s' }", "enter.queue_wait: 0s: some work always waits"),
    ("dwell = '5s'", "dwell: 5s: less its jitter it would end before a whole shift can be seen"),
    ("dwell = '6s'", "dwell: 6s: less its jitter it would end before"),  # 4.8 s of 5.5
    ("step_up = 1.0\nstep_down = 4.0\ndwell = '30s'", "dwell: 30s: less its jitter"),  # 28 s of ramp, 24 of dwell
    ("jitter = 0.51", "jitter: 0.51: the dwell could end at once"),
    ("jitter = -0.1", "jitter: -0.1: the dwell could end at once"),
    ("step_up = 1.0\nstep_down = 5.0\ndwell = '60s'", "step_down: 5 points a second: work would come back faster"),
    ("step_down = 40.0", "step_down: 40 points a second: all work would be back before 3s"),
]


@pytest.mark.parametrize(("setting", "reason_"), FLAPS)
def test_thresholds_that_would_flap_are_refused_with_the_reason_and_the_place(setting: str, reason_: str) -> None:
    (found,) = problems(f"{LOOPBACK}{setting}\n")
    assert found.split(" ", 1)[1].startswith(f"PAN0501 error central.{reason_}")
    assert int(found.split(":")[0]) >= 4


@pytest.mark.parametrize(
    "setting",
    [
        "",
        "leave = { share = 0.8, calm = '2s' }",
        "dwell = '6875ms'",
        "jitter = 0.5\ndwell = '11s'",
        "step_down = 33.0",
        "enter = { holds = '250ms', within = '250ms' }",
        "step_up = 100",
    ],
)
def test_what_is_at_the_edge_holds(setting: str) -> None:
    assert problems(f"{LOOPBACK}{setting}\n") == []


OTHERS = [
    ("", LOOPBACK, "2:1 PAN0502 error central.outbound: best: the app's calls leave, and outbound.unknown is"),
    ("", f"{LOOPBACK}outbound = 'relay'", "3:12 PAN0502 error central.outbound: relay"),
    ("", f"{LOOPBACK}outbound = 'off'", ""),
    (DENY, "addresses = ['10.77.0.2:15090']", "3:14 PAN0503 error central.addresses[0]: 10.77.0.2:15090: addresses"),
    (DENY, "addresses = ['10.77.0.2:1']\nplain = ['10.78.0.0/24']", "3:14 PAN0503 error central.addresses[0]"),
    (DENY, "addresses = ['central.example:15090']", "3:14 PAN0104 error central.addresses[0]: bad value"),
    (DENY, "addresses = ['1.2.3:1']", "3:14 PAN0104 error central.addresses[0]: Expected 4 octets"),
    (DENY, "addresses = ['[10.0.0.1]:1']", "3:14 PAN0104 error central.addresses[0]"),
    (DENY, "addresses = ['0.0.0.0:1']", "3:14 PAN0104 error central.addresses[0]: 0.0.0.0:1 is nobody's address"),
    (
        DENY,
        "addresses = ['[::1]:1', '[0::1]:01']",
        "3:24 PAN0505 warning central.addresses[1]: [0::1]:01 is there twice",
    ),
    (DENY, "addresses = ['10.77.0.2:1']\nplain = ['10.77.0.0/24']", ""),
    (DENY, "addresses = ['[fd00::2]:1']\nplain = ['fd00::/8']", ""),
    (DENY, "addresses = ['[::1]:15090', '127.0.0.1:15090']", ""),
    (
        DENY,
        "addresses = ['10.77.0.2:1']\ntls = { certificate = '/c.pem', key = '/k.pem', authority = '/a.pem' }",
        "",
    ),
    (DENY, "tls = { certificate = '/c.pem', key = '/k.pem' }", "3:1 PAN0106 error central.tls.authority: missing"),
    (DENY, f"{LOOPBACK}tls = {{ certificate = 'c.pem' }}", "4:23 PAN0104 error central.tls.certificate: bad value"),
    (DENY, f"{LOOPBACK}plain = ['10.77.0.1/24']", "4:10 PAN0104 error central.plain[0]: no network: 10.77.0.1/24 has"),
    (DENY, f"{LOOPBACK}plain = ['everything']", "4:10 PAN0104 error central.plain[0]: no network"),
    (DENY, "addresses = ['127.0.0.1:70000']", "3:14 PAN0104 error central.addresses[0]"),
    (DENY, "addresses = ['unix:/x']", "3:14 PAN0104 error central.addresses[0]"),
    (DENY, f"{LOOPBACK}advertise = 'a:b:c'", "4:13 PAN0104 error central.advertise"),
    (DENY, f"{LOOPBACK}advertise = '0.0.0.0'", "4:13 PAN0104 error central.advertise: 0.0.0.0 is nobody's address"),
    (DENY, f"{LOOPBACK}advertise = '..'", "4:13 PAN0104 error central.advertise: .. is no IP address"),
    (DENY, f"{LOOPBACK}advertise = 'h.example'", "4:13 PAN0104 error central.advertise: bad value"),
    (DENY, f"{LOOPBACK}plain = ['0.0.0.0/0']", "4:10 PAN0505 warning central.plain[0]: 0.0.0.0/0: whoever"),
    (DENY, f"{LOOPBACK}outbound = 'off'\ninbound = false", "2:1 PAN0505 warning central: outbound is off and inbound"),
    (DENY, f"{LOOPBACK}outbound = 'redirect'\n{TLS}", "4:12 PAN0505 warning central.outbound: redirect: the app's"),
    (DENY, f"{LOOPBACK}outbound = 'redirect'\nplain = ['10.77.0.0/24']\n{TLS}", ""),
    (DENY, f"{LOOPBACK}service = 'Central'", "4:11 PAN0104 error central.service"),
    (DENY, f"{LOOPBACK}[central.gateway]", "3:13 PAN0504 error central.addresses: a Central leans on nobody"),
    (DENY, "gateway = { host = '1.2.3' }", "3:20 PAN0104 error central.gateway.host"),
    (DENY, "gateway = { host = '[10.0.0.1]' }", "3:20 PAN0104 error central.gateway.host: [10.0.0.1] is no IP"),
    (DENY, "gateway = { host = '[::]' }", ""),
    (DENY, "gateway = { hosts = 4001 }", "3:21 PAN0104 error central.gateway.hosts"),
    (DENY, "gateway = { hosts = 4000 }", ""),
    (DENY, "gateway = { capacity = 0 }", "3:24 PAN0104 error central.gateway.capacity"),
    ("", "[central.gateway]", "2:1 PAN0502 error central.gateway: it calls for others"),
    (DENY, "[central.gateway]", ""),
    (DENY, "", "2:1 PAN0505 warning central: no Central is named, and there is no discovery"),
    (DENY, "[sidecars.discovery]", ""),
    (
        DENY,
        "[sidecars.discovery]\npilot = { addresses = ['10.0.0.1:18800'] }",
        "2:1 PAN0505 warning central: without certificates and without a network",
    ),
    (DENY, f"gateway = {{}}\n{NAMED}", "6:52 PAN0104 error sidecars.discovery.pilot.advertise: h.example is no IP"),
    (DENY, f"gateway = {{}}\nadvertise = '10.77.0.2'\n{NAMED}", ""),
    (DENY, f"{LOOPBACK}{NAMED}", "6:52 PAN0505 warning sidecars.discovery.pilot.advertise: h.example is no IP"),
]


@pytest.mark.parametrize(("above", "central", "expected"), OTHERS)
def test_what_cannot_be_meant_is_refused(above: str, central: str, expected: str) -> None:
    found = problems(f"{central}\n", above)
    if not expected:
        assert found == []
        return
    first, *others = found
    assert others == [], found
    path = expected.split(" ", 1)[1]
    assert first.split(" ", 1)[1].startswith(path), first


def test_a_project_sets_a_single_key_over_a_profile() -> None:
    Path("own.toml").write_text(f"{DENY}[central]\n{LOOPBACK}dwell = '40s'\nenter = {{ throttled = 20 }}\n")
    Path("pannier.toml").write_text(
        "profile = 'own.toml'\n[central]\nstep_up = 20\n[central.enter]\nholds = '1s'\n"
        "[apps.orders.central]\ninbound = false\n"
    )
    project = load_project("pannier.toml", sidecars=sidecar_types())
    resolved = resolve(project=project, app="orders", assignments=["central.jitter=0.1"], sidecars=sidecar_types())
    central = resolved.profile.central
    assert central is not None
    assert (central.dwell, central.step_up, central.jitter, central.inbound) == ("40s", 20.0, 0.1, False)
    assert (central.enter.throttled, central.enter.holds, central.enter.host_pressure) == (20.0, "1s", 25.0)
    assert central.addresses == ["127.0.0.1:15090"]


@pytest.mark.parametrize("name", builtin_profiles())
def test_the_stages_are_right_and_one_of_them_is_a_central(name: str) -> None:
    central = resolve(name, sidecars=sidecar_types()).profile.central
    assert (central is not None and central.gateway is not None) is (name == "central")


BULLETIN = {
    "state": "shifted",
    "weight": 60,
    "limit": 100.0,
    "reason": "host-pressure",
    "forced": False,
    "way": "redirect",
    "inbound": True,
    "since_ms": 5,
    "inputs": {"host_pressure": 61.2, "cgroup_pressure": None, "idle": 0.02},
    "moved_rps": 420.0,
    "saved_cores": 0.8,
    "granted_rps": 1200.0,
    "centrals": [{"address": "10.77.0.2:15090", "up": True, "granted_rps": 1200.0, "rtt_ms": 0.4, "trouble": ""}],
    "reversals": 1,
    "shedding": False,
    "trouble": [],
    "gateway": None,
    "of a later release": 1,
}


def test_the_state_is_read_as_the_data_path_writes_it() -> None:
    (state,) = states_of([msgpack.packb(BULLETIN), b"\xc1", msgpack.packb({"weight": "much"})])
    assert state == CentralState(
        "shifted",
        60.0,
        100.0,
        "host-pressure",
        way="redirect",
        inbound=True,
        since_ms=5,
        inputs=Inputs(host_pressure=61.2, idle=0.02),
        moved_rps=420.0,
        saved_cores=0.8,
        granted_rps=1200.0,
        centrals=[CentralSeen("10.77.0.2:15090", True, 1200.0, 0.4)],
        reversals=1,
    )
    later = msgspec.structs.replace(state, since_ms=9, gateway=GatewayState(hosts=3))
    assert newest([later, state]) == later
    assert newest([]) is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (
            CentralState(reason="host-pressure", inputs=Inputs(host_pressure=61.2)),
            "CPU pressure of the host 61 % (work leaves above 25 %)",
        ),
        (CentralState(reason="queue-wait"), "queue wait in the proxy"),
        (CentralState(reason="calm"), "all is calm"),
        (
            CentralState(reason="central-down", centrals=[CentralSeen("10.0.0.1:1", True, trouble="it knows no a")]),
            "no Central takes work: 10.0.0.1:1: it knows no a",
        ),
        (
            CentralState(reason="central-down", centrals=[CentralSeen("10.0.0.1:1", True)]),
            "no Central takes work: none answers, or none did until a moment ago",
        ),
        (CentralState(reason="of a later release"), "of a later release"),
    ],
)
def test_a_reason_is_a_sentence(state: CentralState, expected: str) -> None:
    assert reason(state, {"host_pressure": 25.0}) == expected


def test_amounts_in_words() -> None:
    assert [points(weight) for weight in (0.0, 0.4, 39.6, 100.0)] == [
        "0 of 100 points",
        "0.4 of 100 points",
        "40 of 100 points",
        "100 of 100 points",
    ]
    assert saving(CentralState()) == ""
    moved = CentralState(weight=40.0, moved_rps=420.4, saved_cores=0.814)
    assert saving(moved) == "420 requests/s are served elsewhere, which saves 0.81 cores"
