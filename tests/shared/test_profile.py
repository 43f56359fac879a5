from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from pannier.shared.duration import Duration
from pannier.shared.errors import UsageError
from pannier.shared.explain import ConfigError, Finding
from pannier.shared.layers import parse_value
from pannier.shared.profile import Endpoint, grace_milliseconds
from pannier.shared.profile_files import SIZE_LIMIT, profile_names
from pannier.shared.project import APPS_LIMIT, examine, load_project, resolve


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    most: int
    enforced: int = 100


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    wait: Duration = "1s"
    names: list[str] = []
    limit: Limit | None = None
    split: list[dict[str, int]] = []

    def contradictions(self) -> list[Finding]:
        found = [
            Finding(("split", number, "v2"), "PAN0999", "is 0")
            for number, weights in enumerate(self.split)
            if weights.get("v2") == 0
        ]
        if self.wait == "0s":
            found.append(Finding(("wait",), "PAN0998", "waits for nothing", severity="warning"))
        return found


class Discovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    limit: Limit | None = None


SIDECARS = {"traffic": Traffic, "discovery": Discovery}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    write("profiles/plain.toml", "")
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def errors(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [f"{p.place} {p.code} {p.path}" + (f" ~{p.near}" if p.near else "") for p in error.value.problems]


def test_an_empty_profile_has_the_defaults() -> None:
    profile = resolve("plain", sidecars=SIDECARS).profile
    assert (profile.orphan_grace, profile.ready_timeout, profile.outbound.port) == ("0s", "30s", 15001)
    assert (profile.proxy.workers, profile.proxy.timeouts.request) == (0, "15s")
    assert profile.sidecars == {}


def test_presence_of_its_name_makes_a_sidecar_run() -> None:
    write("profiles/own.toml", "[sidecars.traffic]\nratio = 1\n[sidecars.discovery]\n")
    profile = resolve("own", sidecars=SIDECARS).profile
    assert profile.sidecars == {"traffic": Traffic(ratio=1.0), "discovery": Discovery()}


def test_static_endpoints() -> None:
    text = '[[services.web]]\naddress = "127.0.0.1:80"\nweight = 3\nmetadata = { version = "v2" }\n'
    write("profiles/own.toml", text)
    services = {"web": [Endpoint("127.0.0.1:80", 3, metadata={"version": "v2"})]}
    assert resolve("own", sidecars=SIDECARS).profile.services == services


def test_a_static_endpoint_of_a_project_file_may_have_a_health_check() -> None:
    project = write("pannier.toml", '[[services.web]]\naddress = "127.0.0.1:80"\nhealth = "/healthz"\n')
    resolved = resolve("plain", sidecars=SIDECARS, project=load_project(project, sidecars=SIDECARS))
    assert resolved.profile.services == {"web": [Endpoint("127.0.0.1:80", health="/healthz")]}
    write("pannier.toml", '[[services.web]]\naddress = "127.0.0.1:80"\nhealth = "healthz"\n')
    with pytest.raises(ConfigError) as caught:
        load_project(project, sidecars=SIDECARS)
    assert errors(caught) == ["pannier.toml:3:10 PAN0104 services.web[0].health"]


def test_other_apps_are_endpoints_where_no_layer_has_any_not_even_the_profile() -> None:
    write("profiles/own.toml", '[[services.db]]\naddress = "127.0.0.1:81"\nmetadata = { version = "v1" }\n')
    project = load_project(write("pannier.toml", "[apps.web]\n[apps.db]\nport = 81\n"), sidecars=SIDECARS)

    services = resolve("own", sidecars=SIDECARS, project=project, app="web").profile.services
    assert services == {"db": [Endpoint("127.0.0.1:81", metadata={"version": "v1"})]}
    services = resolve("plain", sidecars=SIDECARS, project=project, app="web").profile.services
    assert services == {"db": [Endpoint("127.0.0.1:81")]}


def test_a_number_that_python_refuses_is_a_problem_of_the_file() -> None:
    write("profiles/own.toml", f"[proxy]\nworkers = {'1' * 5000}\n")
    with pytest.raises(ConfigError) as caught:
        resolve("own", sidecars=SIDECARS)
    assert [p.code for p in caught.value.problems] == ["PAN0101"]


def test_every_layer_lies_over_the_one_before_and_keeps_its_origin() -> None:
    write("profiles/parent.toml", 'ready_timeout = "1s"\norphan_grace = "1s"\n[sidecars.traffic]\nnames = ["a", "b"]\n')
    write(
        "profiles/child.toml",
        'extends = "parent"\norphan_grace = "2s"\n[proxy]\nworkers = 2\n[sidecars.traffic]\nwait = "2s"\n',
    )
    write(
        "pannier.toml",
        'profile = "child"\n[proxy]\nworkers = 3\nbalance = "round_robin"\n[outbound]\nport = 3\n'
        '[apps.web]\nport = 80\noutbound.port = 4\n[apps.web.inbound]\nhosts = ["web.example"]\n[apps.db]\nport = 81\n',
    )
    resolved = resolve(
        sidecars=SIDECARS,
        project=load_project("pannier.toml", sidecars=SIDECARS),
        app="web",
        environment={"PANNIER__OUTBOUND__PORT": "5", "PANNIER__TRAFFIC__RATIO": "0.25", "HOME": "/"},
        assignments=["outbound.port=6", 'sidecars.traffic.names=["c"]', "proxy.workers=7"],
        live={"proxy": {"workers": 8}},
    )
    profile = resolved.profile
    assert (profile.ready_timeout, profile.orphan_grace, profile.outbound.port) == ("1s", "2s", 6)
    assert (profile.proxy.workers, profile.proxy.balance) == (8, "round_robin")
    assert profile.inbound.hosts == ["web.example"]
    assert profile.services == {"db": [Endpoint("127.0.0.1:81")]}
    assert profile.sidecars == {"traffic": Traffic(ratio=0.25, wait="2s", names=["c"])}
    origins = {".".join(map(str, path)): (o.layer, str(o.place)) for path, o in resolved.origins.items()}
    assert origins == {
        "ready_timeout": ("profile parent", "profiles/parent.toml:1:17"),
        "orphan_grace": ("profile child", "profiles/child.toml:2:16"),
        "sidecars.traffic.wait": ("profile child", "profiles/child.toml:6:8"),
        "services.db": ("apps", "pannier.toml:13:8"),
        "proxy.balance": ("pannier.toml", "pannier.toml:4:11"),
        "inbound.hosts": ("apps.web", "pannier.toml:11:9"),
        "sidecars.traffic.ratio": ("environment", "PANNIER__TRAFFIC__RATIO"),
        "outbound.port": ("--set", "--set outbound.port"),
        "sidecars.traffic.names": ("--set", "--set sidecars.traffic.names"),
        "proxy.workers": ("live", "live layer"),
    }


def test_a_layer_may_say_a_part_of_what_only_makes_sense_whole() -> None:
    write("profiles/parent.toml", "[sidecars.traffic.limit]\nmost = 5\n")
    write("profiles/child.toml", 'extends = "parent"\n[sidecars.traffic.limit]\nenforced = 0\n')
    assert resolve("child", sidecars=SIDECARS).profile.sidecars["traffic"].limit == Limit(5, 0)
    write("profiles/child.toml", "[sidecars.traffic.limit]\nenforced = 0\n")
    with pytest.raises(ConfigError) as caught:
        resolve("child", sidecars=SIDECARS)
    assert errors(caught) == ["profiles/child.toml:1:19 PAN0106 sidecars.traffic.limit.most"]


def test_what_a_sidecar_finds_contradictory_is_refused_where_it_is_written() -> None:
    write("profiles/parent.toml", '[sidecars.traffic]\nwait = "0s"\n')
    write(
        "profiles/child.toml",
        'extends = "parent"\n[[sidecars.traffic.split]]\nv2 = 1\n[[sidecars.traffic.split]]\nv1 = 1\nv2 = 0\n',
    )
    with pytest.raises(ConfigError) as caught:
        resolve("child", sidecars=SIDECARS)
    assert errors(caught) == [
        "profiles/child.toml:6:6 PAN0999 sidecars.traffic.split[1].v2",
        "profiles/parent.toml:2:8 PAN0998 sidecars.traffic.wait",
    ]
    assert str(caught.value).endswith("1 error, 1 warning in 2 files (exit 65)")


def test_contradictions_are_looked_for_beside_what_is_missing_elsewhere() -> None:
    write("profiles/own.toml", "[sidecars.traffic]\nsplit = [{ v2 = 0 }]\n[sidecars.discovery.limit]\nenforced = 1\n")
    with pytest.raises(ConfigError) as caught:
        resolve("own", sidecars=SIDECARS)
    assert errors(caught) == [
        "profiles/own.toml:2:17 PAN0999 sidecars.traffic.split[0].v2",
        "profiles/own.toml:3:21 PAN0106 sidecars.discovery.limit.most",
    ]


def test_a_warning_lets_the_configuration_pass() -> None:
    resolved = resolve("plain", sidecars=SIDECARS, assignments=["traffic.wait=0s"])
    (warning,) = resolved.warnings
    assert (str(warning.place), warning.severity) == ("--set traffic.wait", "warning")
    across = [Finding(("sidecars", "traffic", "wait"), "PAN0997", ""), Finding(("proxy", "workers"), "PAN0997", "")]
    assert [str(one.place) for one in resolved.problems(across)] == ["--set traffic.wait", "profile plain"]


def test_what_is_wrong_for_every_app_is_said_once() -> None:
    write("pannier.toml", 'profile = "plain"\n[sidecars.traffic]\nsplit = [{ v2 = 0 }]\n[apps.a]\n[apps.b]\n')
    _, problems = examine("pannier.toml", sidecars=SIDECARS)
    assert [str(problem.place) for problem in problems] == ["pannier.toml:3:17"]


def test_a_sidecar_is_switched_by_a_boolean() -> None:
    write("profiles/own.toml", '[sidecars.traffic]\nwait = "9s"\n')
    for live, expected in [
        ({"traffic": False}, {}),
        ({"traffic": True}, {"traffic": Traffic(wait="9s")}),
        ({"discovery": True}, {"traffic": Traffic(wait="9s"), "discovery": Discovery()}),
    ]:
        assert resolve("own", sidecars=SIDECARS, live={"sidecars": live}).profile.sidecars == expected
    resolved = resolve("own", sidecars=SIDECARS, assignments=["traffic=false", "traffic.ratio=1"])
    assert resolved.profile.sidecars == {"traffic": Traffic(ratio=1.0, wait="9s")}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("0.5", 0.5), ("true", True), ("10s", "10s"), ('"3"', "3"), ("", ""), ("a b", "a b"),
        ('["a", 1]', ["a", 1]), ("{ x = 1 }", {"x": 1}), ("2020-01-01", "2020-01-01"), ("1\nb = 2", "1\nb = 2"),
        ("[" * 5000, "[" * 5000), ("0x10", 16), ("127.0.0.1:80", "127.0.0.1:80"),
    ],
)  # fmt: skip
def test_values_of_options_are_toml_or_else_text(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_all_errors_of_a_project_file_come_together() -> None:
    write(
        "pannier.toml",
        'profile = "plain"\norphan_grace = "5 s"\n[proxy]\nwokers = 2\ntimeouts = { header = "1s", connect = 5 }\n'
        "[sidecars.traffic]\nratio = 1.5\n[sidecars.trafic]\n[apps.web]\nport = 70000\ncommand = ['a', 3]\n"
        "[apps.web.outbound]\nunknown = 'passthru'\n[[apps.web.services.x]]\naddress = 'a:1'\n"
        "[[apps.web.services.x]]\nweight = 5\n[apps.Bad]\nprot = 1\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_project("pannier.toml", sidecars=SIDECARS)
    assert errors(caught) == [
        "pannier.toml:2:16 PAN0104 orphan_grace",
        "pannier.toml:4:1 PAN0102 proxy.wokers ~workers",
        "pannier.toml:5:39 PAN0103 proxy.timeouts.connect",
        "pannier.toml:7:9 PAN0104 sidecars.traffic.ratio",
        "pannier.toml:8:11 PAN0105 sidecars.trafic ~traffic",
        "pannier.toml:10:8 PAN0104 apps.web.port",
        "pannier.toml:11:17 PAN0103 apps.web.command[1]",
        "pannier.toml:13:11 PAN0104 apps.web.outbound.unknown ~passthrough",
        "pannier.toml:16:21 PAN0106 apps.web.services.x[1].address",
        "pannier.toml:18:7 PAN0104 apps.Bad",
        "pannier.toml:19:1 PAN0102 apps.Bad.prot ~port",
    ]
    assert str(caught.value).endswith("\n11 errors in 1 file (exit 65)")


def test_errors_outside_of_files_name_their_origin() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            "plain", sidecars=SIDECARS, environment={"PANNIER__PROXY__WROKERS": "1"}, assignments=["outbound.port=x"]
        )
    assert errors(caught) == [
        "--set outbound.port PAN0103 outbound.port",
        "PANNIER__PROXY__WROKERS PAN0102 proxy.wrokers ~workers",
    ]
    with pytest.raises(ConfigError, match="expected PATH=VALUE"):
        resolve("plain", sidecars=SIDECARS, assignments=["outbound.port"])
    with pytest.raises(ConfigError, match="no path"):
        resolve("plain", sidecars=SIDECARS, assignments=["outbound..port=1"])


def test_an_app_has_one_address() -> None:
    for port, socket in (("app_port", "app_socket"), ("port", "socket"), ("outbound_port", "outbound_socket")):
        write("pannier.toml", f"[apps.web]\n{port} = 1\n{socket} = '/x'\n")
        with pytest.raises(ConfigError, match="exclude one another"):
            load_project("pannier.toml", sidecars=SIDECARS)


def test_apps_are_what_the_file_says() -> None:
    write(
        "pannier.toml", "[apps.web]\ncommand = ['a', 'b']\napp_port = 8080\noutbound_port = 'auto'\nenv = { A = 'b' }\n"
    )
    project = load_project("pannier.toml", sidecars=SIDECARS)
    app = project.apps["web"]
    assert (project.profile, app.command, app.app_port, app.outbound_port) == ("dev", ["a", "b"], 8080, "auto")
    assert (app.env, app.port, app.cwd) == ({"A": "b"}, None, None)
    with pytest.raises(UsageError) as caught:
        resolve("plain", sidecars=SIDECARS, project=project, app="wbe")
    assert caught.value.hint == 'did you mean "web"?'


def test_a_profile_is_found_by_name_or_by_a_path(folder: Path) -> None:
    write("mine.toml", "[proxy]\nworkers = 5\n")
    assert resolve("mine.toml", sidecars=SIDECARS).profile.proxy.workers == 5
    assert resolve(str(folder / "mine.toml"), sidecars=SIDECARS).profile.proxy.workers == 5
    assert profile_names(folder)["plain"].endswith("profiles/plain.toml")
    with pytest.raises(ConfigError) as caught:
        resolve("plian", sidecars=SIDECARS)
    assert caught.value.problems[0].near == "plain"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "..", "a/b", "/etc/passwd", "x\x00", "A", "x" * 5000])
def test_a_profile_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="no profile name"):
        resolve(name, sidecars=SIDECARS)
    write("profiles/own.toml", f"extends = {msgspec.json.encode(name).decode()}\n")
    with pytest.raises(ConfigError, match="no profile name"):
        resolve("own", sidecars=SIDECARS)


def test_a_parent_is_named_never_a_path() -> None:
    write("profiles/own.toml", 'extends = "../x.toml"\n')
    with pytest.raises(ConfigError, match="no profile name"):
        resolve("own", sidecars=SIDECARS)


def test_profiles_that_extend_one_another_in_a_circle_are_refused() -> None:
    write("profiles/a.toml", 'extends = "b"\n')
    write("profiles/b.toml", 'extends = "a"\n')
    with pytest.raises(ConfigError, match="circle") as caught:
        resolve("a", sidecars=SIDECARS)
    assert str(caught.value.problems[0].place) == "profiles/b.toml:1:11"


def test_a_long_line_of_parents_is_refused() -> None:
    for number in range(20):
        write(f"profiles/p{number}.toml", f'extends = "p{number + 1}"\n')
    with pytest.raises(ConfigError, match="more than 8"):
        resolve("p0", sidecars=SIDECARS)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (b"a = \n", "x.toml:1:5", "Invalid value"),
        (b"a = 1\na = 2\n", "x.toml:2:6", "Cannot overwrite"),
        (b"a = [1,", "x.toml:1:8", ""),
        (b"a = 1\nb = '\xff'\n", "x.toml:2:6", "no UTF-8"),
        (b"x = " + b"[" * 100_000, "x.toml:1:36", "nested deeper"),
        (b"a." * 100_000, "x.toml:1:63", "nested deeper"),
        (b"#" * (1 << 20), "x.toml", f"larger than {SIZE_LIMIT // 1024} KiB"),
    ],
)
def test_hostile_and_broken_files_give_one_clear_error(text: bytes, place: str, message: str) -> None:
    Path("x.toml").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        resolve("x.toml", sidecars=SIDECARS)
    (problem,) = caught.value.problems
    assert str(problem.place) == place
    assert message in problem.message


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_project("absent.toml", sidecars=SIDECARS)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_project("profiles", sidecars=SIDECARS)


def test_a_file_is_examined_for_what_it_is() -> None:
    write("pannier.toml", 'profile = "plain"\n[apps.web]\nport = 1\n')
    assert examine("pannier.toml", sidecars=SIDECARS) == ("project", [])
    assert examine("profiles/plain.toml", sidecars=SIDECARS) == ("profile", [])
    write("profiles/plain.toml", "nonsense = 1\n")
    assert [problem.code for problem in examine("pannier.toml", sidecars=SIDECARS)[1]] == ["PAN0102"]
    assert [problem.code for problem in examine("absent.toml", sidecars=SIDECARS)[1]] == ["PAN0100"]


def test_whoever_examines_may_look_for_more() -> None:
    write("pannier.toml", 'profile = "plain"\n[apps.web]\nproxy.workers = 3\n[apps.db]\n')
    _, problems = examine(
        "pannier.toml",
        sidecars=SIDECARS,
        look=lambda profile: [Finding(("proxy", "workers"), "PAN0997", f"{profile.proxy.workers}")],
    )
    assert [f"{p.place} {p.message}" for p in problems] == ["pannier.toml:3:17 3", "profile plain 0"]


def test_a_project_has_so_many_apps_at_the_most() -> None:
    write("pannier.toml", "".join(f"[apps.a{number}]\nprot = 1\n" for number in range(APPS_LIMIT + 1)))
    with pytest.raises(ConfigError) as caught:
        load_project("pannier.toml", sidecars=SIDECARS)
    assert errors(caught) == ["pannier.toml:1:2 PAN0104 apps"]


def test_more_errors_than_anybody_reads_are_counted_as_more() -> None:
    write("profiles/own.toml", "".join(f"k{number} = 1\n" for number in range(1000)))
    with pytest.raises(ConfigError) as caught:
        resolve("own", sidecars=SIDECARS)
    assert errors(caught)[-1] == "profiles/own.toml:101:1 PAN0107 k100"
    assert len(caught.value.problems) == 101


def test_grace() -> None:
    assert (grace_milliseconds("never"), grace_milliseconds("10s")) == (-1, 10_000)
