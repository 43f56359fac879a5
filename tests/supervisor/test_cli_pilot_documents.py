"""`pannier pilot config` and `pannier pilot policy` over a real pilot, on its socket and over TCP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from pannier.sidecars.pilot.service import Settings, serve
from pannier.sidecars.resilience.config import Config as Resilience
from pannier.sidecars.resilience.config import Outlier, Retry, Service
from pannier.supervisor.cli import main as cli
from pannier.supervisor.cli.pilot_policy import said

Run = Callable[..., Awaitable[tuple[int, str, str]]]

PROFILE = """
extends = "staging"

[proxy.timeouts]
request = "3s"

[sidecars.traffic.services.orders]
subsets = { v1 = { version = "1" }, v2 = { version = "2" } }
split = { v1 = 90, v2 = 10 }
balance = "maglev"

[sidecars.resilience.services.orders]
retry = { attempts = 2 }
"""


@pytest.fixture
async def pannier(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nursery: trio.Nursery
) -> AsyncIterator[Run]:
    """Runs a command where a pilot runs; its exit code and what it printed."""
    (runtime := short_path / "run").mkdir(mode=0o700)
    (state := short_path / "state" / "pilot").mkdir(mode=0o700, parents=True)
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PANNIER_STATE_DIR", str(state.parent))
    monkeypatch.chdir(short_path)
    ready = trio.Event()
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        ready.set()

    place = ("127.0.0.1", 0)
    settings = Settings(runtime / "pilot.sock", state / "store.sqlite", state / "token", [place])
    nursery.start_soon(serve, settings, tell)
    await ready.wait()
    (tcp,) = [word.rstrip(",;") for word in said[0].split() if word.startswith("http://")]
    monkeypatch.setenv("OVER_TCP", tcp)

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        return int(caught.value.code or 0)

    async def call(*arguments: str) -> tuple[int, str, str]:
        with trio.fail_after(20):
            code = await trio.to_thread.run_sync(partial(run, "pilot", *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    nursery.cancel_scope.cancel()


async def test_a_configuration_is_set_shown_and_taken_back(pannier: Run) -> None:
    assert (await pannier("config", "get", "staging", "orders"))[0] != 0
    code, _, err = await pannier("config", "set", "staging", "orders", "limit=5", "mode=a=b", "--comment", "begun")
    assert (code, err) == (0, "orders has version 1 in staging\n")
    assert (await pannier("config", "set", "staging", "orders", "limit=6", "--unset", "mode"))[0] == 0
    code, out, err = await pannier("config", "get", "staging", "orders")
    assert (code, out) == (0, "KEY    VALUE\nlimit  6\n")
    assert err.startswith("version 2, of ")
    code, _, err = await pannier("config", "set", "staging", "orders", "limit=7", "--version", "1")
    assert code != 0
    assert "version 2 is in force, not version 1" in err
    _, out, _ = await pannier("config", "history", "staging", "orders")
    assert [line.split()[0] for line in out.splitlines()] == ["VERSION", "2", "1"]
    assert out.splitlines()[2].endswith("begun")
    code, _, err = await pannier("config", "rollback", "staging", "orders", "1")
    assert (code, err) == (0, "orders has version 3 in staging, as version 1 was\n")
    _, out, _ = await pannier("config", "get", "staging", "orders", "-o", "json")
    assert json.loads(out)["values"] == {"limit": "5", "mode": "a=b"}
    _, out, _ = await pannier("config", "list")
    assert out.splitlines()[1].split()[:3] == ["staging", "orders", "3"]
    assert (await pannier("config", "set", "staging", "orders"))[0] != 0
    assert (await pannier("config", "set", "staging", "orders", "limit"))[0] != 0


async def test_a_profile_is_applied_and_reported(pannier: Run, short_path: Path) -> None:
    (short_path / "mine.toml").write_text(PROFILE)
    code, _, err = await pannier("policy", "apply", "staging", "./mine.toml")
    assert code == 0, err
    assert "traffic.services.orders.balance" in err
    assert "staging has version 1" in err
    code, out, _ = await pannier("policy", "show", "staging")
    shown = json.loads(out)
    assert shown["traffic"]["services"]["orders"]["split"] == {"v1": 90, "v2": 10}
    assert shown["resilience"]["services"]["orders"] == {"retry": {"attempts": 2}}
    assert shown["proxy"]["timeouts"]["request"] == "3s"
    (short_path / "mine.json").write_text(out)
    assert (await pannier("policy", "apply", "staging", "mine.json", "--version", "1"))[0] == 0
    _, out, _ = await pannier("policy", "report", "staging")
    assert "traffic.services.orders.balance" in out
    _, out, _ = await pannier("policy", "history", "staging")
    assert [line.split()[0] for line in out.splitlines()] == ["VERSION", "2", "1"]
    assert (await pannier("policy", "rollback", "staging", "1"))[0] == 0
    (short_path / "bad.json").write_text('{"traffic": {"services": {"orders": {"split": {"v9": 1}}}}}')
    code, _, err = await pannier("policy", "apply", "staging", "bad.json")
    assert code != 0
    assert "traffic.services.orders.split.v9: orders has no subset v9" in err


async def test_what_is_shown_as_json_can_be_applied(pannier: Run, short_path: Path) -> None:
    """What an answer says besides is left out: the version is another one."""
    (short_path / "mine.toml").write_text(PROFILE)
    await pannier("policy", "apply", "staging", "./mine.toml")
    _, shown, _ = await pannier("policy", "show", "staging", "-o", "json")
    (short_path / "shown.json").write_text(shown)
    code, _, err = await pannier("policy", "apply", "production", "shown.json")
    assert (code, "production has version 1" in err) == (0, True), err
    _, again, _ = await pannier("policy", "show", "production")
    assert json.loads(again) == (await shown_parts(pannier, "staging"))


async def shown_parts(pannier: Run, stage: str) -> object:
    return json.loads((await pannier("policy", "show", stage))[1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot read some.json"),
        ("[]", "cannot read some.json"),
        ("{}", "some.json has no part of a policy"),
        ('{"version": 3}', "some.json has no part of a policy"),
        ('{"trafic": {}, "proxy": {}}', "some.json has 'trafic', which is no part of a policy"),
    ],
)
async def test_a_file_that_is_no_policy_is_refused_with_the_next_step(
    pannier: Run, short_path: Path, content: str, said: str
) -> None:
    (short_path / "some.json").write_text(content)
    code, _, err = await pannier("policy", "apply", "staging", "some.json")
    assert code != 0
    assert said in err
    assert "pannier pilot policy show STAGE" in err


async def test_what_is_deleted_can_be_brought_back(pannier: Run, short_path: Path) -> None:
    await pannier("config", "set", "staging", "orders", "limit=5")
    code, _, err = await pannier("config", "delete", "staging", "orders", "--version", "1", "--comment", "no use")
    assert (code, err) == (0, "orders has version 2 in staging: it is deleted\n")
    code, _, err = await pannier("config", "get", "staging", "orders")
    assert code != 0
    assert "pannier pilot config set staging orders KEY=TEXT" in err
    _, out, _ = await pannier("config", "history", "staging", "orders")
    assert out.splitlines()[1].split()[-3:] == ["deleted", "no", "use"]
    assert (await pannier("config", "rollback", "staging", "orders", "1"))[0] == 0
    (short_path / "mine.json").write_text('{"proxy": {}}')
    await pannier("policy", "apply", "staging", "mine.json")
    assert (await pannier("policy", "delete", "staging"))[2] == "staging has version 2: it is deleted\n"
    code, _, err = await pannier("policy", "show", "staging")
    assert code != 0
    assert "pannier pilot policy apply staging PROFILE" in err


@pytest.mark.parametrize(
    "arguments", [("set", "staging", "orders", b"a=\xff"), ("get", "staging", b"\xff"), ("get", b"stag\xffing", "a")]
)
async def test_what_is_no_utf_8_is_refused(arguments: tuple[str | bytes, ...]) -> None:
    command = [Path(sys.executable).with_name("pannier"), "pilot", "config", *arguments]
    ended = await trio.run_process(command, check=False, capture_stderr=True)
    assert ended.returncode == 2
    assert b"is no UTF-8" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("store", ["http://10.0.0.1:2379", "sqlite:///tmp/store", "etcds://10.0.0.1:2379"])
def test_a_store_of_an_unknown_kind_is_no_file(
    store: str, short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PANNIER_STATE_DIR", str(short_path))
    with pytest.raises(SystemExit) as caught:
        cli.main(["pilot", "--store", store])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert f"there is no store of the kind {store.partition('://')[0]}://" in said
    assert "etcd://HOST:PORT,... or zookeeper://HOST:PORT,..." in said


def test_the_token_of_several_pilots_is_in_a_file_that_is_named(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is looked at as the one in the state folder is."""
    monkeypatch.setenv("PANNIER_STATE_DIR", str(short_path))
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(short_path))
    (file := short_path / "shared").write_text("everybody may read this one, as long as it is")
    file.chmod(0o644)
    with pytest.raises(SystemExit) as caught:
        cli.main(["pilot", "--listen", "127.0.0.1:0", "--token-file", str(file)])
    assert caught.value.code != 0
    said = capsys.readouterr().err
    assert f"the token is in {file}" in said
    assert f"{file} is no secret" in said


async def test_over_tcp_changes_and_configurations_need_the_token(pannier: Run, short_path: Path) -> None:
    there = ("--pilot", os.environ["OVER_TCP"])
    assert (await pannier("config", "set", "staging", "orders", "a=1", *there))[0] == 0
    (short_path / "token").write_text("another")
    wrong = ("--token-file", str(short_path / "token"))
    code, _, err = await pannier("config", "set", "staging", "orders", "a=2", *there, *wrong)
    assert code != 0
    assert "token" in err
    code, _, err = await pannier("config", "get", "staging", "orders", *there, *wrong)
    assert code != 0
    assert "token" in err
    _, out, _ = await pannier("config", "get", "staging", "orders", *there, "-o", "json")
    assert json.loads(out)["values"] == {"a": "1"}


def test_what_is_said_is_what_differs_from_the_defaults() -> None:
    config = Resilience(services={"a": Service(retry=Retry(on=["5xx"], budget=None)), "b": Service(outlier=Outlier())})
    assert said(config) == {"services": {"a": {"retry": {"on": ["5xx"], "budget": None}}, "b": {}}}
