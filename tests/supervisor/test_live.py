from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from pannier.shared.errors import PannierError
from pannier.supervisor.difference import NOTHING
from pannier.supervisor.live import Setting, carried, changed, clear_live, live_path, read_live, write_live


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANNIER_STATE_DIR", str(tmp_path / "state"))


BELOW = {"sidecars": {"discovery": {}, "resilience": {"services": {"a": {}}}}, "proxy": {"workers": 2}}


def test_what_was_written_is_found_again_and_a_clean_stop_clears_it() -> None:
    assert read_live("orders") == {}
    write_live("orders", {"sidecars": {"discovery": False, "traffic": {}}})
    assert read_live("orders") == {"sidecars": {"discovery": False, "traffic": {}}}
    clear_live("orders")
    clear_live("orders")
    assert read_live("orders") == {}


@pytest.mark.parametrize(
    ("live", "settings", "after"),
    [
        ({}, [(("proxy", "workers"), 3)], {"proxy": {"workers": 3}}),
        ({"proxy": {"workers": 3, "balance": "x"}}, [(("proxy", "workers"), NOTHING)], {"proxy": {"balance": "x"}}),
        ({"proxy": {"workers": 3}}, [(("proxy", "workers"), NOTHING)], {}),
        ({"proxy": {"timeouts": {"idle": "1s"}}}, [(("proxy",), NOTHING)], {}),
        ({"proxy": 3}, [(("proxy", "timeouts", "idle"), NOTHING)], {"proxy": 3}),
        ({}, [(("a", "b", "c"), 1), (("a", "b"), {"d": 2})], {"a": {"b": {"d": 2}}}),
        ({}, [(("sidecars", "traffic"), True)], {"sidecars": {"traffic": True}}),
        ({"sidecars": {"traffic": {"x": 1}}}, [(("sidecars", "traffic"), True)], {"sidecars": {"traffic": {"x": 1}}}),
        ({"sidecars": {"traffic": {"x": 1}}}, [(("sidecars", "traffic"), False)], {"sidecars": {"traffic": False}}),
        ({"sidecars": {"discovery": False}}, [(("sidecars", "discovery"), True)], {"sidecars": {"discovery": True}}),
        # What makes it run stays, unless the layers below do so themselves.
        ({"sidecars": {"traffic": {"x": 1}}}, [(("sidecars", "traffic", "x"), NOTHING)], {"sidecars": {"traffic": {}}}),
        ({"sidecars": {"discovery": {"x": 1}}}, [(("sidecars", "discovery", "x"), NOTHING)], {}),
        ({"sidecars": {"traffic": {}}}, [(("sidecars", "traffic"), NOTHING)], {}),
        ({}, [(("routes",), [{"name": "x", "to": None}])], {"routes": [{"name": "x"}]}),
    ],
)
def test_settings_laid_over_the_layer(live: dict[str, Any], settings: list[Setting], after: dict[str, Any]) -> None:
    before = msgspec.json.encode(live)
    assert changed(live, settings, BELOW) == after
    assert msgspec.json.encode(live) == before
    write_live("orders", after)
    assert read_live("orders") == after


def test_another_stage_keeps_what_was_added_by_hand_and_drops_what_was_tuned_in_the_old_one() -> None:
    live = {
        "proxy": {"workers": 3},
        "sidecars": {"traffic": {"x": 1}, "resilience": {"y": 2}, "discovery": {"z": 3}, "spare": True, "other": False},
    }
    new = {"sidecars": {"discovery": {}}}
    assert carried(live, BELOW, new) == (
        {
            "proxy": {"workers": 3},
            "sidecars": {"traffic": {"x": 1}, "discovery": {"z": 3}, "spare": True, "other": False},
        },
        ("resilience",),
    )
    assert carried({"sidecars": {"resilience": {"y": 2}}}, BELOW, new) == ({}, ("resilience",))


def test_a_broken_layer_says_where_it_is() -> None:
    write_live("orders", {"a": 1})
    live_path("orders").write_text("= broken")
    with pytest.raises(PannierError) as caught:
        read_live("orders")
    assert str(live_path("orders")) in caught.value.hint


def test_no_other_file_is_left_behind() -> None:
    write_live("orders", {"a": 1})
    assert [path.name for path in live_path("orders").parent.iterdir()] == ["orders.toml"]


def test_a_layer_that_cannot_be_removed_is_an_error_of_the_host() -> None:
    live_path("orders").mkdir(parents=True)
    with pytest.raises(PannierError, match="cannot remove"):
        clear_live("orders")
