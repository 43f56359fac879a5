from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.check import check
from pannier.shared.explain import ConfigError, Place, Problem, dotted
from pannier.shared.toml_position import DEPTH_LIMIT, Path, Position, TooDeep, scan

DOCUMENT = '''\
name = "a"
outbound.port = 1
[proxy]
timeouts = { header = "1s", "id.le" = '5s' }
hosts = [
  "a",  # one
  """b
  ]""",
]
[[apps.web.list]]
a = 1
[[apps.web.list]]
  b = { c = [1, 2] }
[apps.web.list.sub]
c = 1
[[apps.other]]
[[apps.web.list]]
b = 3
["quoted key" . 'and literal']
x = 2020-01-01T00:00:00Z # comment
'''


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("name",), (1, 1), (1, 8)),
        (("outbound", "port"), (2, 10), (2, 17)),
        (("proxy",), (3, 2), (3, 2)),
        (("proxy", "timeouts", "header"), (4, 14), (4, 23)),
        (("proxy", "timeouts", "id.le"), (4, 29), (4, 39)),
        (("proxy", "hosts", 0), (6, 3), (6, 3)),
        (("proxy", "hosts", 1), (7, 3), (7, 3)),
        (("apps", "web", "list", 0, "a"), (11, 1), (11, 5)),
        (("apps", "web", "list", 1), (12, 12), (12, 12)),
        (("apps", "web", "list", 1, "b", "c", 1), (13, 17), (13, 17)),
        (("apps", "web", "list", 1, "sub", "c"), (15, 1), (15, 5)),
        (("apps", "web", "list", 2, "b"), (18, 1), (18, 5)),
        (("quoted key", "and literal", "x"), (20, 1), (20, 5)),
        (("proxy", "timeouts", "absent"), (4, 1), (4, 12)),
    ],
)
def test_finds_keys_and_values(path: Path, key: tuple[int, int], value: tuple[int, int]) -> None:
    positions = scan(DOCUMENT)
    assert positions.key(path) == Position(*key)
    assert positions.value(path) == Position(*value)


@given(st.text(alphabet="ab.=[]{}\"'\\\n\r #,1\x00é", max_size=200))
def test_scans_anything(text: str) -> None:
    try:
        scan(text)
    except TooDeep as error:
        assert error.position.line >= 1


@pytest.mark.parametrize("hostile", ["x = " + "[" * 100_000, "x = " + "{a=" * 50_000, "a." * 100_000, "[" + "a." * 99])
def test_refuses_deep_nesting_at_once(hostile: str) -> None:
    with pytest.raises(TooDeep, match=str(DEPTH_LIMIT)):
        scan(hostile)


class Retry(msgspec.Struct, forbid_unknown_fields=True):
    attempts: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    kind: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        if self.kind == "slow" and self.attempts == 0:
            raise ValueError("slow needs attempts")


class Circle(msgspec.Struct, tag="circle", tag_field="shape"):
    radius: float


class Square(msgspec.Struct, tag="square", tag_field="shape"):
    side: float


class Root(msgspec.Struct, forbid_unknown_fields=True):
    retry: Retry = msgspec.field(default_factory=Retry)
    routes: dict[str, list[Retry]] = {}
    port: int | Literal["auto"] | None = None
    form: Circle | Square | None = None
    ratio: float = 1.0
    needed: str = ""


def found(data: object) -> list[tuple[str, str, str]]:
    return [(finding.code, dotted(finding.path), finding.near) for finding in check(data, [Root])]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"retry": {"attempts": 3}, "port": 5, "form": {"shape": "circle", "radius": 1}, "ratio": 1}, []),
        ({"port": "auto", "routes": {"a.b": [{}]}}, []),
        ([], [("PAN0103", "", "")]),
        ({"rety": {}}, [("PAN0102", "rety", "retry")]),
        ({"retry": {"attempts": "3", "kind": "fats"}},
         [("PAN0103", "retry.attempts", ""), ("PAN0104", "retry.kind", "fast")]),
        ({"retry": {"attempts": True}}, [("PAN0103", "retry.attempts", "")]),
        ({"retry": {"attempts": 11}}, [("PAN0104", "retry.attempts", "")]),
        ({"retry": {"attempts": 0, "kind": "slow"}}, [("PAN0104", "retry", "")]),
        ({"retry": 3, "routes": {"a.b": [{}, {"knd": "x"}]}},
         [("PAN0103", "retry", ""), ("PAN0102", 'routes."a.b"[1].knd', "kind")]),
        ({"port": "atuo"}, [("PAN0104", "port", "auto")]),
        ({"port": 1.5}, [("PAN0103", "port", "")]),
        ({"form": {"shape": "circle"}}, [("PAN0106", "form.radius", "")]),
        ({"form": {"shape": "hexagon"}}, [("PAN0104", "form.shape", "")]),
        ({"ratio": float("nan")}, [("PAN0104", "ratio", "")]),
        ({"retry": {"attempts": 10**30}}, [("PAN0104", "retry.attempts", "")]),
    ],
)  # fmt: skip
def test_collects_every_error(data: object, expected: list[tuple[str, str, str]]) -> None:
    assert found(data) == expected


def test_renders_place_code_path_source_and_near_match() -> None:
    line = "retry = { retyr = 99 }"
    error = ConfigError(
        [
            Problem(Place("pannier.toml", 14, 11, line), "PAN0102", "sidecars.x.retyr", "unknown field", near="retry"),
            Problem(Place("pannier.toml", 2, 1, "a = 1"), "PAN0103", "a", "wrong type: 1", "expected a text"),
        ]
    )
    assert str(error) == (
        "pannier.toml:2:1  PAN0103 error  a: wrong type: 1\n"
        "    2 | a = 1     expected a text\n"
        "pannier.toml:14:11  PAN0102 error  sidecars.x.retyr: unknown field\n"
        '   14 | retry = { retyr = 99 }     did you mean "retry"?\n'
        "2 errors in 1 file (exit 65)"
    )
    assert (error.exit_code, error.code) == (65, "PAN0103")


def test_a_warning_says_that_it_is_one_and_is_counted_apart() -> None:
    warning = Problem(Place("a.toml", 2, 1, "a = 1"), "PAN0211", "a", "cannot be meant", severity="warning")
    error = ConfigError([warning, Problem(Place("a.toml", 3, 1, "b"), "PAN0101", "", "no TOML")])
    assert str(error).splitlines()[0] == "a.toml:2:1  PAN0211 warning  a: cannot be meant"
    assert str(error).endswith("\n1 error, 1 warning in 1 file (exit 65)")
    assert error.code == "PAN0101"


def test_keeps_control_characters_from_the_terminal() -> None:
    problem = Problem(
        Place("\x1b[2Jx.toml", 1, 1, "a = '\x1b]0;title\x07" + "x" * 500), "PAN0102", "a\x1b", "unknown field"
    )
    assert all(character.isprintable() or character == "\n" for character in str(problem))
    assert len(str(problem)) < 300
