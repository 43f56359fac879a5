from __future__ import annotations

from pathlib import Path

import pytest
from pannier.shared.errors import PannierError
from pannier.supervisor.live import clear_live, live_path, read_live, switch_sidecar, write_live


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANNIER_STATE_DIR", str(tmp_path / "state"))


def test_what_was_switched_is_found_again_and_a_clean_stop_clears_it() -> None:
    assert read_live("orders") == {}
    switch_sidecar("orders", "discovery", on=False)
    switch_sidecar("orders", "traffic", on=True)
    assert read_live("orders") == {"sidecars": {"discovery": False, "traffic": True}}
    switch_sidecar("orders", "discovery", on=True)
    assert read_live("orders")["sidecars"]["discovery"] is True
    clear_live("orders")
    clear_live("orders")
    assert read_live("orders") == {}


def test_settings_that_were_changed_live_survive_an_add() -> None:
    write_live("orders", {"sidecars": {"traffic": {"seed": 3}}})
    switch_sidecar("orders", "traffic", on=True)
    assert read_live("orders") == {"sidecars": {"traffic": {"seed": 3}}}


def test_a_broken_layer_says_where_it_is() -> None:
    switch_sidecar("orders", "discovery", on=False)
    live_path("orders").write_text("= broken")
    with pytest.raises(PannierError) as caught:
        read_live("orders")
    assert str(live_path("orders")) in caught.value.hint


def test_no_other_file_is_left_behind() -> None:
    switch_sidecar("orders", "discovery", on=False)
    assert [path.name for path in live_path("orders").parent.iterdir()] == ["orders.toml"]


def test_a_layer_that_cannot_be_removed_is_an_error_of_the_host() -> None:
    live_path("orders").mkdir(parents=True)
    with pytest.raises(PannierError, match="cannot remove"):
        clear_live("orders")
