"""What a fault of the keeper, or of the folder of state, may not cost: an end in order, and whoever runs."""

from __future__ import annotations

import os
import signal

from tests.system.host import PATIENCE, Host, alive


def test_a_stopped_keeper_keeps_nobody_from_ending(host: Host, port: int) -> None:
    process = host.serve("orders", port, code=6)
    before = host.pids("orders")
    os.kill(before["keeper"], signal.SIGSTOP)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 6
    assert host.nothing_left()
    assert not [pid for pid in before.values() if alive(pid)]


def test_a_second_run_of_a_degraded_service_is_refused(host: Host, port: int) -> None:
    host.serve("orders", port)
    before = host.pids("orders")
    os.kill(before["keeper"], signal.SIGKILL)
    done = host.run("run", "--name", "orders", "--", "true")
    assert done.returncode == 1
    assert "already running" in done.stderr
    assert {**host.pids("orders"), "keeper": 0, "zygote": 0} == {**before, "keeper": 0, "zygote": 0}


def test_a_live_layer_that_cannot_be_removed_costs_no_exit_code(host: Host, port: int) -> None:
    process = host.serve("orders", port, code=6)
    (host.folder / "s" / "live" / "orders.toml").mkdir(parents=True)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 6
    assert said.count("cannot remove the live layer") == 1
