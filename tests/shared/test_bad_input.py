"""Configurations that somebody broke, or made to break us: refused with place and reason, in bounded time and memory.

What is mutated are the stages as they come with Pannier and the shop's project file. `PANNIER_FAULTS=1` tries 10,000 of
them, an ordinary run a small selection. TOML has no aliases and no entities, so no small file unfolds to a big one; its
depth and its size are limited before the parser sees it.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pannier.shared.codes import CODES
from pannier.shared.explain import ConfigError
from pannier.shared.profile_files import SIZE_LIMIT, builtin_profiles
from pannier.shared.project import examine, load_project, resolve
from pannier.supervisor.contradictions import contradictions
from pannier.supervisor.sidecar_types import sidecar_types

ROOT = Path(__file__).resolve().parents[2]
SEEDS = [(ROOT / "profiles" / f"{name}.toml").read_text() for name in builtin_profiles()]
SEEDS.append((ROOT / "examples/shop/pannier.toml").read_text())
TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z0-9_.-]+|#[^\n]*|\s+|.', re.DOTALL)
POOL = [
    *sorted({token for seed in SEEDS for token in TOKEN.findall(seed) if not token.startswith("#")}),
    *[
        "[[",
        "]]",
        '"""',
        "'''",
        "'",
        "\\",
        "\x00",
        "\r",
        "\ufeff",
        "\u202e",
        "nan",
        "-inf",
        "1e999",
        "-0",
        "0x" + "f" * 400,
    ],
    *[
        "9" * 5000,
        "[" * 40,
        "{a=" * 40,
        "a." * 40,
        "2020-01-01",
        "00:00:00",
        "true",
        "false",
        '""',
        '"\\u0000"',
        '"10 s"',
    ],
    *[
        '"../../etc/passwd"',
        '"/dev/zero.toml"',
        '"own.toml"',
        '"(a+)+$"',
        '"never"',
        '"orders/v2"',
        '"*"',
        "extends",
        "apps",
    ],
    *["[sidecars.traffic.services.orders.fault]", "[[sidecars.traffic.routes]]", "[sidecars.resilience.services.x]"],
    *["abort = 503", 'name = "a"', "to = { orders = 0 }", 'matches = [{ regex = "(" }]', 'failure_policy = "outlier"'],
]
MANY = 10_000 if os.environ.get("PANNIER_FAULTS") == "1" else 300


def token_level(draw: st.DrawFn, text: str) -> bytes:
    tokens = TOKEN.findall(text)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(tokens)))
        match draw(st.sampled_from(["insert", "replace", "delete", "repeat", "swap"])):
            case "insert":
                tokens.insert(at, draw(st.sampled_from(POOL)))
            case "replace":
                tokens[at : at + 1] = [draw(st.sampled_from(POOL))]
            case "delete":
                del tokens[at : at + draw(st.integers(1, 12))]
            case "repeat":
                tokens[at:at] = tokens[at : at + draw(st.integers(1, 12))] * draw(st.integers(1, 3))
            case "swap":
                other = draw(st.integers(0, len(tokens)))
                tokens[at : at + 1], tokens[other : other + 1] = tokens[other : other + 1], tokens[at : at + 1]
    return "".join(tokens).encode()


def byte_level(draw: st.DrawFn, text: str) -> bytes:
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    change: Callable[[st.DrawFn, str], bytes] = draw(st.sampled_from([token_level, token_level, byte_level]))
    return change(draw, draw(st.sampled_from(SEEDS)))


@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated(), st.sampled_from(["own.toml", "pannier.toml"]))
def test_a_mutated_file_is_refused_with_reasons_or_comes_to_something(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    file = folder / name
    file.write_bytes(data)
    kind, problems = examine(file, sidecars=sidecar_types(), look=contradictions)
    for problem in problems:
        assert problem.code in CODES
        assert problem.message
        assert all(character.isprintable() or character == "\n" for character in str(problem))
    if any(problem.severity == "error" for problem in problems):
        return
    if kind == "profile":
        assert resolve(str(file), sidecars=sidecar_types()).profile
    else:
        project = load_project(file, sidecars=sidecar_types())
        assert all(resolve(sidecars=sidecar_types(), project=project, app=app).profile for app in project.apps)


@settings(max_examples=MANY, deadline=None)
@given(
    st.dictionaries(st.text(max_size=12).map(lambda name: f"PANNIER__{name}"), st.sampled_from(POOL), max_size=3),
    st.lists(st.tuples(st.sampled_from(POOL), st.sampled_from(POOL)).map("=".join), max_size=3),
)
def test_any_option_is_refused_with_reasons_or_comes_to_something(
    environment: dict[str, str], assignments: list[str]
) -> None:
    try:
        resolve("dev", sidecars=sidecar_types(), environment=environment, assignments=assignments)
    except ConfigError as error:
        assert error.problems


def filled(piece: Callable[[int], str], head: str = "") -> str:
    """As many pieces as a file may have."""
    text = [head]
    left = SIZE_LIMIT - len(head)
    number = 0
    while len(line := piece(number)) <= left:
        text.append(line)
        left -= len(line)
        number += 1
    return "".join(text)


HUGE = {
    "a thousand times the shop": (SEEDS[-1] * 1000, "PAN0100"),
    "unknown fields": (filled(lambda n: f"proxi{n}=1\n"), "PAN0107"),
    "many tables": (filled(lambda n: f"[a.b.c.d.e.f.g.h.i.j.k{n}]\n"), "PAN0102"),
    "many apps": (filled(lambda n: f"[apps.a{n}]\nprot=1\n"), "PAN0104"),
    "contradictions": (filled(lambda n: f"v{n}=1\n", "[sidecars.traffic.services.s.split]\n"), "PAN0107"),
    "many services": (filled(lambda n: f"s{n}={{}}\n", "[sidecars.resilience.services]\n"), "PAN0104"),
    "routes that overlap": (filled(lambda n: f"{{name='r{n}'}},\n", "sidecars.traffic.routes=[\n") + "]", "PAN0104"),
    "routes of one host": (
        filled(
            lambda n: (
                f"[[sidecars.traffic.routes]]\nname='r{n}'\nhosts=['a']\nmatches=[{{prefix='/p{n}'}},{{path='/'}}]\n"
            )
        ),
        "PAN0207",
    ),
    "a long key": ("k" * (SIZE_LIMIT - 2) + "=1", "PAN0102"),
    "a long number": ("proxy.workers=0x" + "f" * (SIZE_LIMIT - 16), "PAN0104"),
    "a long text": ("description='" + "x" * (SIZE_LIMIT - 14) + "'", "PAN0104"),
    "open quotes": ('a="""\n' * (SIZE_LIMIT // 6), "PAN0101"),
    "a list": ("description=[" + "1," * (SIZE_LIMIT // 2 - 7) + "]", "PAN0103"),
    "nesting": ("a=" + "[" * (SIZE_LIMIT - 2), "PAN0101"),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_huge_is_refused_in_bounded_time_and_memory(name: str, tmp_path: Path) -> None:
    text, code = HUGE[name]
    (tmp_path / "own.toml").write_text(text)

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))

    done = subprocess.run(
        [Path(sys.executable).parent / "pannier", "analyze", "own.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=bound,
    )
    assert (done.returncode, done.stderr) == (79, "")
    assert code in done.stdout
    assert done.stdout.startswith("own.toml")
    assert len(done.stdout) < 100_000
