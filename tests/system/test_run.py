"""`pannier run` with real processes: how it starts, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.system.host import PATIENCE, Host, alive, free_port, until


def test_the_exit_code_is_the_apps(host: Host) -> None:
    commands = {
        7: ("sh", "-c", "exit 7"),
        137: ("sh", "-c", "kill -9 $$"),
        0: ("true",),
        127: ("/nowhere/to/be/found",),
        126: ("/etc/hostname",),
    }
    started = {code: host.start("run", "--name", f"code-{code}", "--", *words) for code, words in commands.items()}
    assert {code: process.wait(PATIENCE) for code, process in started.items()} == {code: code for code in commands}
    assert host.nothing_left()


def test_stdout_is_the_apps_alone_and_its_environment_is_ours(host: Host) -> None:
    done = host.run("run", "--name", "orders", "--", "sh", "-c", "echo $PANNIER_NAME; echo $HTTP_PROXY; echo oh >&2")
    name, proxy = done.stdout.splitlines()
    assert name == "orders"
    assert proxy.startswith("http://127.0.0.1:")
    assert "oh" in done.stderr.splitlines()


def test_an_app_that_never_listens_is_a_timeout(host: Host, port: int) -> None:
    done = host.run("run", "--name", "deaf", "--app-port", str(port), "--ready-timeout", "1s", "--", "sleep", "60")
    assert done.returncode == 75
    assert str(port) in done.stderr
    assert "--ready-timeout" in done.stderr
    assert host.nothing_left()


def test_a_port_that_is_taken_is_named(host: Host) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        taken = str(other.getsockname()[1])
        for options in (
            ("--port", taken),
            ("--outbound-port", taken),
            ("--metrics-port", taken),
            ("--app-port", taken),
        ):
            done = host.run("run", "--name", "late", *options, "--", "sleep", "60")
            assert done.returncode == 1, done.stderr
            assert f"port {taken}" in done.stderr
            assert options[0] in done.stderr
            assert host.nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_app_gets_the_signal_and_nothing_is_left(host: Host, port: int, number: int) -> None:
    process = host.serve("orders", port, code=5)
    pids = host.pids("orders")
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 5
    assert f"told {number}" in out
    assert host.nothing_left()
    assert not [pid for pid in pids.values() if alive(pid)]


def test_ctrl_c_on_a_terminal_reaches_the_app_once(host: Host, port: int) -> None:
    leader, follower = pty.openpty()
    process = host.start(
        *("run", "--name", "tty", "--app-port", str(port), "--", sys.executable, str(host.app), str(port), "3"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(follower)
    until(lambda: host.ready("tty"))
    os.write(leader, b"\x03")
    assert process.wait(PATIENCE) == 3
    seen = b""
    while chunk := _read(leader):
        seen += chunk
    os.close(leader)
    assert seen.count(b"told 2") == 1
    assert b"told 15" not in seen
    assert host.nothing_left()


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_other_signals_are_the_apps(host: Host, port: int) -> None:
    process = host.serve("orders", port)
    process.send_signal(signal.SIGHUP)
    until(lambda: "hung up" in host.run("logs", "--name", "orders").stdout)
    assert process.poll() is None


def test_an_app_of_somebody_else_is_governed_and_left_alone(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as app:
        process = host.start("run", "--name", "outside", "--app-port", str(app.getsockname()[1]))
        until(lambda: host.ready("outside"))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    assert host.nothing_left()


def test_for_ends_by_itself(host: Host, port: int) -> None:
    done = host.run(
        *("run", "--name", "short", "--app-port", str(port), "--for", "1s"),
        *("--", sys.executable, str(host.app), str(port), "9"),
    )
    assert done.returncode == 0
    assert host.nothing_left()


def test_the_supervisor_killed_under_dev_ends_everything(host: Host, port: int) -> None:
    process = host.serve("orders", port)
    pids = host.pids("orders")
    process.kill()
    until(lambda: host.nothing_left() and not any(alive(pid) for pid in pids.values()), within=2.0)


def test_the_supervisor_killed_with_a_grace_is_followed_by_one_that_adopts(host: Host, port: int) -> None:
    host.serve("orders", port, "--set", "orphan_grace=30s", code=4).kill()
    before: dict[str, int] = {}
    until(lambda: host.orphaned("orders"))
    assert "supervisor is gone" in host.run("ps").stderr
    successor = host.start("run", "--name", "orders", "--app-port", str(port), "--", "another", "command")
    until(lambda: host.ready("orders"))
    before = host.pids("orders")
    successor.kill()
    until(lambda: host.orphaned("orders"))
    third = host.start("run", "--name", "orders", "--app-port", str(port), "--", "another", "command")
    until(lambda: host.ready("orders"))
    after = host.pids("orders")
    assert {**after, "supervisor": 0} == {**before, "supervisor": 0}
    third.terminate()
    _, said = third.communicate(timeout=PATIENCE)
    assert third.returncode == 4
    assert "command is" in said
    assert host.nothing_left()


def test_a_second_supervisor_of_a_name_is_refused(host: Host, port: int) -> None:
    host.serve("orders", port)
    done = host.run("run", "--name", "orders", "--", "true")
    assert done.returncode == 1
    assert "pannier down --name orders" in done.stderr


def test_sidecars_come_and_go_and_nothing_else_changes(host: Host, port: int) -> None:
    host.serve("orders", port)
    before = host.pids("orders")
    assert host.run("sidecar", "rm", "discovery").returncode == 0
    without = host.pids("orders")
    assert without == {name: pid for name, pid in before.items() if name != "discovery"}
    assert "table endpoints: absent" in host.run("check").stdout
    assert host.run("sidecar", "add", "discovery").returncode == 0
    after = host.pids("orders")
    assert after.pop("discovery") != before.pop("discovery")
    assert after == before
    assert "table endpoints: generation" in host.run("check").stdout
    assert host.run("sidecar", "rm", "nobody").returncode == 4


def test_governance_that_is_killed_comes_back_at_once(host: Host, port: int) -> None:
    host.serve("orders", port)
    for victim in ("discovery", "observability", "proxy"):
        before = host.pids("orders")
        os.kill(before[victim], signal.SIGKILL)
        until(lambda: host.pids("orders")[victim] not in {0, before[victim]} and host.ready("orders"), within=5.0)  # noqa: B023
        after = host.pids("orders")
        assert {**after, victim: 0} == {**before, victim: 0}


def test_without_its_keeper_a_service_is_degraded_and_still_stops(host: Host, port: int) -> None:
    process = host.serve("orders", port, code=6)
    before = host.pids("orders")
    os.kill(before["keeper"], signal.SIGKILL)
    until(lambda: any(p.state == "degraded" for p in host.processes("orders")))
    assert {**host.pids("orders"), "keeper": 0, "zygote": 0} == {**before, "keeper": 0, "zygote": 0}
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 6
    assert host.nothing_left()
    assert not [pid for pid in before.values() if alive(pid)]


def test_up_ps_and_down(host: Host, port: int) -> None:
    up = host.run("up", "--name", "orders", "--app-port", str(port), "--", sys.executable, str(host.app), str(port))
    assert up.returncode == 0, up.stderr
    assert "inbound http://127.0.0.1:" in up.stdout
    (service,) = json.loads(host.run("ps", "-o", "json").stdout)
    assert service.keys() >= {"name", "profile", "supervisor_pid", "processes"}
    kinds = {process["kind"] for process in service["processes"]}
    assert kinds == {"keeper", "supervisor", "proxy", "sidecar", "app"}
    assert host.run("check").returncode == 0
    assert host.run("down").returncode == 0
    assert host.nothing_left()
    assert host.run("down").returncode == 3


def test_up_says_why_it_failed(host: Host) -> None:
    done = host.run("up", "--name", "orders", "--", "/nowhere/to/be/found")
    assert done.returncode == 127
    assert "not found" in done.stderr


def test_a_command_without_a_name_lists_the_choices(host: Host) -> None:
    for name in ("one", "two"):
        host.start("run", "--name", name, "--", "sleep", "60")
    until(lambda: host.ready("one") and host.ready("two"))
    done = host.run("sidecar", "list")
    assert done.returncode == 2
    assert "one, two" in done.stderr


def project(host: Host, ports: dict[str, int]) -> None:
    lines = [
        f'[apps.{name}]\ncommand = ["{sys.executable}", "{host.app}", "{port}", "0"]\napp_port = {port}\n'
        for name, port in ports.items()
    ]
    (host.folder / "pannier.toml").write_text("\n".join(lines))


def test_a_project_runs_all_its_apps_in_one_command(host: Host) -> None:
    project(host, {"one": free_port(), "two": free_port()})
    process = host.start("run", "-f", "pannier.toml")
    until(lambda: host.ready("one") and host.ready("two"))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert {"one | up", "one | told 2", "two | up", "two | told 2"} <= set(out.splitlines())
    assert host.nothing_left()


def test_a_project_whose_command_is_killed_ends(host: Host) -> None:
    project(host, {"one": free_port(), "two": free_port()})
    process = host.start("run", "-f", "pannier.toml")
    until(lambda: host.ready("one") and host.ready("two"))
    process.kill()
    until(host.nothing_left)


def test_a_second_signal_ends_it_now(host: Host) -> None:
    """The app hangs on TERM; the drain has 10 s."""
    process = host.start("run", "--name", "stuck", "--", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    until(lambda: host.ready("stuck"))
    process.send_signal(signal.SIGTERM)
    until(lambda: any(p.state in {"draining", "stopping"} for p in host.processes("stuck")))
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 137
    assert time.monotonic() - began < 5
    assert host.nothing_left()


@pytest.mark.parametrize("what", ["file", "socket"])
def test_what_an_earlier_run_left_is_no_obstacle_or_is_named(host: Host, what: str) -> None:
    folder = host.runtime / "orders"
    folder.mkdir(mode=0o700, parents=True)
    host.runtime.chmod(0o700)
    for name in ("bus.sock", "notify.sock", "api.sock"):
        if what == "file":
            (folder / name).write_text("foreign")
        else:
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(os.path.relpath(folder / name))
    done = host.run("run", "--name", "orders", "--", "true")
    if what == "socket":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert str(folder / "bus.sock") in done.stderr
    assert host.nothing_left()


def test_a_flood_of_output_reaches_a_slow_reader_whole(host: Host) -> None:
    process = host.start("run", "--name", "flood", "--", "seq", "1", "400000", stderr=subprocess.DEVNULL)
    until(lambda: process.poll() is not None or host.pids("flood").get("app", 0) == 0, within=5)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert out.split() == [str(number) for number in range(1, 400_001)]


def test_logs_follow_what_is_written(host: Host, port: int) -> None:
    process = host.serve("orders", port)
    follower = host.start("logs", "-f")
    assert follower.stdout is not None
    begin = [follower.stdout.readline()]
    while "app | up\n" not in begin:
        begin.append(follower.stdout.readline())
    process.send_signal(signal.SIGHUP)
    assert follower.stdout.readline() == "app | hung up\n"
    process.terminate()
    follower.communicate(timeout=PATIENCE)
    assert follower.returncode == 0


def test_a_project_ends_with_the_first_code_that_is_not_zero(host: Host) -> None:
    (host.folder / "pannier.toml").write_text(
        '[apps.fine]\ncommand = ["true"]\n[apps.bad]\ncommand = ["sh", "-c", "exit 9"]\n'
    )
    done = host.run("run")
    assert done.returncode == 9, done.stderr
    assert host.nothing_left()
