from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio
from pannier.supervisor.notify import fields_of, hear, open_notify


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"READY=1\nWATCHDOG=1", {"READY": "1", "WATCHDOG": "1"}),
        (b"PANNIER_DRAINED=1\n", {"PANNIER_DRAINED": "1"}),
        (b"STATUS=a=b", {"STATUS": "a=b"}),
        (b"", {}),
        (b"noise\n\xff\xfe=1\n", {"\ufffd\ufffd": "1"}),
    ],
)
def test_fields(data: bytes, fields: dict[str, str]) -> None:
    assert fields_of(data) == fields


async def test_the_kernel_says_who_spoke(short_path: Path) -> None:
    path = short_path / "notify.sock"
    path.write_text("what an earlier run left")
    heard: list[tuple[int, dict[str, str]]] = []
    with open_notify(path) as listening:
        assert path.stat().st_mode & 0o777 == 0o600
        async with trio.open_nursery() as nursery:

            def told(pid: int, fields: dict[str, str]) -> None:
                heard.append((pid, fields))
                nursery.cancel_scope.cancel()

            nursery.start_soon(hear, listening, told)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                speaker.sendto(b"READY=1", os.fspath(path))
    assert heard == [(os.getpid(), {"READY": "1"})]
