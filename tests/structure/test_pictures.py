"""The pictures of docs/central-mesh.md: drawn from the figures beside them, and well-formed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from docs.pictures import central_mesh
from docs.pictures.chart import Curve, Panel, number, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_pictures_are_what_their_figures_make() -> None:
    made = central_mesh.pictures(central_mesh.FOLDER)
    assert {"tokens.svg", "sizing.svg", "cores.svg"} <= made.keys()
    for name, picture in made.items():
        assert (central_mesh.FOLDER / name).read_text() == picture, f"{name} is stale: make docs"


def test_what_three_hosts_measured_becomes_a_panel_for_each_quantity(tmp_path: Path) -> None:
    samples = [{"t_s": t / 4, "weight": min(100.0, 10.0 * t), "app_rps": 900 + t} for t in range(40)]
    (tmp_path / "three-hosts.json").write_text(json.dumps(samples))
    drawn = central_mesh.pictures(tmp_path)
    assert drawn.keys() == {"three-hosts.svg"}
    root = ET.fromstring(drawn["three-hosts.svg"])
    assert [len(str(line.get("points")).split()) for line in root.iter(f"{SVG}polyline")] == [40, 40]


def test_nothing_leaves_the_picture_and_names_are_escaped() -> None:
    drawn = svg([Panel("<a & b>", "x", "y", [Curve("up & up", [(1, 0), (10, 250), (100, 1e6)])], top=300, log_x=True)])
    root = ET.fromstring(drawn)
    width, height = (float(root.get(side, "0")) for side in ("width", "height"))
    (line,) = root.iter(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in str(line.get("points")).split()]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert points[0][0] < points[1][0] < points[2][0] and points[1][1] > points[2][1]
    assert abs((points[1][0] - points[0][0]) - (points[2][0] - points[1][0])) < 0.2, "a decade is as wide as another"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (2.5, "2.5"), (400, "400"), (20_000, "20k"), (1_500_000, "1.5M"), (2_000, "2000")]
)
def test_numbers_of_an_axis(value: float, text: str) -> None:
    assert number(value) == text
