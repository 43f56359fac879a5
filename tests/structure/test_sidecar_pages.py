"""The pages about sidecars and stages: promises that are tested, settings that are accepted, commands that exist."""

from __future__ import annotations

import re
import shlex
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import click
import pytest
from msgspec import Struct
from pannier.shared.project import examine
from pannier.supervisor.cli.main import LazyGroup
from pannier.supervisor.contradictions import contradictions
from pannier.supervisor.sidecar_types import sidecar_types

from tests.structure import semantics
from tests.structure.semantics import BadMark, Promise, promises

ROOT = semantics.ROOT
WRITTEN = [
    *semantics.pages(),
    ROOT / "docs" / "stages.md",
    ROOT / "docs" / "custom-sidecars.md",
    ROOT / "examples" / "add-remove" / "README.md",
    ROOT / "examples" / "custom-sidecar" / "README.md",
]
HERE = Path("tests/some/test_some.py")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """What the page types: after a prompt, in a block of commands, or between the words."""
    typed = [line for block in blocks(page, "sh") for line in block.splitlines()]
    typed += [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    typed += re.findall(r"`(pannier [^`\n]+)`", page.read_text())
    return [line for line in typed if re.match(r"pannier [a-z]", line)]


@cache
def with_the_example() -> dict[str, type[Struct]]:
    """The sidecars of this installation, and the one of the example, which is not installed here."""
    found = spec_from_file_location("pannier_tenant", ROOT / "examples" / "custom-sidecar" / "pannier_tenant.py")
    assert found is not None and found.loader is not None
    found.loader.exec_module(module := module_from_spec(found))
    return {**sidecar_types(), "tenant": module.Config}


@cache
def rows_of_all_tests() -> list[Promise]:
    return promises(semantics.sources())


@cache
def names_of_all_tests() -> set[str]:
    return {name for _, source in semantics.sources() for name in re.findall(r"def (test_\w+)\(", source)}


def mark(*words: str, name: str = "test_it") -> str:
    return f"@pytest.mark.semantics({', '.join(map(repr, words))})\ndef {name}(): ...\n"


def rows(*functions: str) -> list[Promise]:
    return promises([(ROOT / HERE, "\n".join(functions))])


# --- the pages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", semantics.pages(), ids=named)
def test_a_pages_table_says_what_the_tests_say(page: Path) -> None:
    assert page.read_text() == semantics.renewed(page, rows_of_all_tests()), "stale: run `make docs`"


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= names_of_all_tests()


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_settings_that_a_page_shows_are_accepted(page: Path, tmp_path: Path) -> None:
    shown = blocks(page, "toml")
    assert shown or page.parent.name != "sidecars", "a page about a sidecar shows how to configure it"
    for number, block in enumerate(shown):
        path = tmp_path / f"shown-{number}.toml"
        path.write_text(block)
        assert [str(problem) for problem in examine(path, sidecars=with_the_example(), look=contradictions)[1]] == []


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_commands_that_a_page_shows_exist(page: Path) -> None:
    typed = commands(page)
    assert typed
    for line in typed:
        words = shlex.split(line, comments=True)[1:]
        command: click.Command = LazyGroup("pannier")
        while isinstance(command, click.Group):
            if not words and command.invoke_without_command:
                break
            assert words, f"{line}: which of them?"
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        command.make_context("pannier", words)


# --- the marks -----------------------------------------------------------------------------------------------------


def test_a_row_has_the_promise_the_default_and_the_test() -> None:
    found = rows(mark("resilience", "Failures in a row open it", "services.*.breaker.consecutive_failures"))
    assert semantics.table(found, semantics.PAGES / "resilience.md").splitlines()[2:] == [
        "| Failures in a row open it | `breaker.consecutive_failures` 7 | [`test_it`](../../tests/some/test_some.py) |"
    ]


def test_tests_of_one_promise_share_a_row() -> None:
    first = mark("traffic", "The same", "services.*.balance", name="test_a")
    second = mark("traffic", "The same", "services.*.locality", name="test_b")
    (row,) = rows(first, second)
    assert row.fields == ("services.*.balance", "services.*.locality")
    assert [name for _, name in row.tests] == ["test_a", "test_b"]


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("services.*.breaker.penalty_min", "`breaker.penalty_min` 1s"),
        ("services.*.retry.budget.percent", "`retry.budget.percent` 20"),
        ("services.*.retry.on", '`retry.on` ["gateway-error", "reset"]'),
        ("services.*.rate_limit", "`rate_limit` not set"),
        ("services.*.rate_limit.max", "`rate_limit.max` must be given where there is a `rate_limit`"),
        ("inbound.shedding.trust", "`inbound.shedding.trust` false where there is a `shedding`"),
    ],
)
def test_a_default_is_the_structs(field: str, shown: str) -> None:
    (row,) = rows(mark("resilience", "Something", field))
    assert f"| {shown} |" in semantics.table([row], semantics.PAGES / "resilience.md")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (mark("traffik", "Something"), "no sidecar"),
        (mark("traffic"), "no promise"),
        (mark("traffic", "Something", name="helper"), "helper is no test"),
        ("@pytest.mark.semantics('traffic', PROMISE)\ndef test_it(): ...", "texts alone"),
        ("@pytest.mark.semantics('traffic', text='Something')\ndef test_it(): ...", "texts alone"),
        ("@pytest.mark.semantics('traffic', 'Something')\nclass Test: ...", "is no test"),
    ],
)
def test_a_mark_that_cannot_be_a_row_is_said(source: str, complaint: str) -> None:
    with pytest.raises(BadMark, match=complaint):
        rows(source)


def test_a_field_that_is_not_there_is_said() -> None:
    with pytest.raises(BadMark, match=r"test_it: services.\*.breaker.penalty: there is no field"):
        semantics.table(rows(mark("resilience", "Something", "services.*.breaker.penalty")), semantics.PAGES / "x.md")


def test_a_page_without_a_place_for_its_table_is_said(tmp_path: Path) -> None:
    page = tmp_path / "traffic.md"
    page.write_text("# Traffic\n")
    with pytest.raises(BadMark, match="once each"):
        semantics.renewed(page, [])
