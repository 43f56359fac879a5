"""The file of static endpoints: a broken one changes nothing and says where."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.explain import ConfigError
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.shared.statics import SIZE_LIMIT, Look, StaticSource, parse

GOOD = """
[[services.orders]]
address = "127.0.0.1:8001"
weight = 3

[[services.orders]]
address = "127.0.0.1:8002"
health = "/healthz"
metadata = { version = "v2" }
"""
PARSED = {
    "orders": (StaticEndpoint("127.0.0.1:8001", 3), StaticEndpoint("127.0.0.1:8002", 1, "/healthz", {"version": "v2"}))
}


def test_toml_and_json_have_the_same_shape() -> None:
    assert parse("a.toml", GOOD) == PARSED
    assert (
        parse(
            "a.json",
            '{"services": {"orders": [{"address": "127.0.0.1:8001", "weight": 3},'
            ' {"address": "127.0.0.1:8002", "health": "/healthz", "metadata": {"version": "v2"}}]}}',
        )
        == PARSED
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "[[services.orders]]\naddress = \n", "a.toml:2:11"),
        ("a.toml", '[[services.orders]]\nadress = "h:1"\n', "a.toml:2:1"),
        ("a.toml", '[[services.orders]]\naddress = "nonsense"\n', "a.toml:2:11"),
        ("a.toml", '[[services.Bad_Name]]\naddress = "h:1"\n', "a.toml:1:12"),
        ("a.toml", "services = 1", "a.toml:1:12"),
        ("a.toml", "x = " + "[" * 100, "nested deeper"),
        ("a.json", '{"services":\n {,}}', "a.json:2:3"),
        ("a.json", "[" * 100_000, "a.json:1"),
        ("a.json", "[]", "a.json:1"),
    ],
)
def test_an_error_says_file_and_line(name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        parse(name, text)


@given(st.text(max_size=200), st.sampled_from(["a.toml", "a.json"]))
def test_any_text_parses_or_is_explained(text: str, name: str) -> None:
    try:
        parse(name, text)
    except ConfigError as error:
        assert error.problems


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "services.toml"
    path.write_text(GOOD)
    return path


def rewrite(path: Path, text: str | bytes) -> None:
    replacement = path.with_suffix(".new")
    replacement.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(replacement, path)


def test_it_is_read_when_it_changes(file: Path) -> None:
    source = StaticSource(file)
    assert source.look() == Look(changed=True)
    assert source.services == PARSED
    assert source.look() == Look()
    rewrite(file, GOOD.replace("8001", "9001"))
    assert source.look() == Look(changed=True)
    assert source.services["orders"][0].address == "127.0.0.1:9001"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("nonsense", "services.toml:1:9"),
        ("", "services.toml:1:1"),
        ("services = {}", "no services in it any more"),
        (b"\n\xff", "services.toml:2:1"),
        (b"#" * (SIZE_LIMIT + 1), "longer than"),
    ],
)
def test_a_broken_version_is_said_once_and_changes_nothing(file: Path, broken: str | bytes, said: str) -> None:
    source = StaticSource(file)
    source.look()
    rewrite(file, broken)
    look = source.look()
    assert not look.changed
    assert said in look.complaint
    assert source.look() == Look()
    assert source.services == PARSED
    rewrite(file, GOOD.replace("8001", "9001"))
    assert source.look() == Look(changed=True)


def test_a_missing_file_is_said_once_and_may_come_back(file: Path) -> None:
    source = StaticSource(file)
    source.look()
    file.unlink()
    assert "No such file" in source.look().complaint
    assert source.look() == Look()
    assert source.services == PARSED
    file.write_text(GOOD)
    assert source.look() == Look()


def test_an_empty_list_empties_a_service_deliberately(file: Path) -> None:
    source = StaticSource(file)
    source.look()
    rewrite(file, "services.orders = []")
    assert source.look() == Look(changed=True)
    assert source.services == {"orders": ()}
