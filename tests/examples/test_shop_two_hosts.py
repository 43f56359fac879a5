"""The shop on two hosts, as somebody would run it: nothing fails when a pilot and a member of etcd are killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from mesh import HERE


def test_a_pilot_and_a_member_of_etcd_are_killed_and_nobody_notices(require_peer: Callable[[str], str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, which only root can make")
    require_peer("etcd")
    done = subprocess.run(
        [sys.executable, str(HERE / "two_hosts.py"), "--for", "8s"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kill -9") == 2
    (requests, unexplained) = re.findall(r"^(\d+) requests, .* (\d+) unexplained$", done.stdout, re.M)[0]
    assert int(requests) >= 700
    assert int(unexplained) == 0
