from __future__ import annotations

import json
from pathlib import Path

import pytest
from pannier.shared.errors import PannierError
from pannier.supervisor.cli import access_log
from pannier.supervisor.cli.access_log import lines, readable

REQUEST = {
    "time": "2026-11-23T10:07:02.891Z",
    "direction": "inbound",
    "service": "orders",
    "method": "GET",
    "path": "/orders/7",
    "status": 404,
    "flags": "NR",
    "duration_ms": 0.659,
}


def test_a_request_is_one_short_line() -> None:
    assert readable(json.dumps(REQUEST)) == "10:07:02.891 inbound  GET /orders/7 -> 404 NR in 0.659 ms  orders"
    assert readable(json.dumps({**REQUEST, "flags": "-"})).count(" NR") == 0
    for other in ("", "not json", "{}", "[1]", "7"):
        assert readable(other) == other


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    path = "/a\x1b[31m\x9b31m\r\n\u2028\u202eb\u00e4"
    shown = readable(json.dumps({**REQUEST, "path": path}))
    assert r"GET /a\x1b[31m\x9b31m\r\n\u2028\u202eb" in shown
    assert shown.isprintable() and "\u00e4 ->" in shown
    assert readable("no json\x1b[2J") == r"no json\x1b[2J"


def test_the_last_whole_lines_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("a\nb\nc\nhal")
    assert list(lines(log, tail=2, follow=False)) == ["b", "c"]
    with pytest.raises(PannierError, match="no access log"):
        list(lines(tmp_path / "none", tail=1, follow=False))


def test_it_is_followed_over_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "access.log"
    log.write_text("a\nb\nhal")

    def rotate() -> None:
        log.rename(tmp_path / "access.log.1")
        log.write_text("e\n")

    def append(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    steps = iter([lambda: append("f\nd"), lambda: append("d\n"), rotate])
    monkeypatch.setattr(access_log.time, "sleep", lambda _: next(steps)())
    followed = lines(log, tail=1, follow=True)
    assert [next(followed) for _ in range(4)] == ["b", "half", "dd", "e"]
