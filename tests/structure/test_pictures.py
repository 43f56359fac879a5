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


def test_what_three_hosts_measured_becomes_a_panel_for_each_quantity_and_a_curve_for_each_run(tmp_path: Path) -> None:
    samples = [{"t_s": 7 + t / 4, "weight": min(100.0, 10.0 * t), "app_rps": 900 + t} for t in range(40)]
    unread = [{**sample, "cgroup_pressure": None} for sample in samples]
    runs = [
        {"name": name, "peak_s": 9.0, "over_s": 14.0, "samples": unread} for name in ("local", "redirect", "inbound")
    ]
    (tmp_path / "three-hosts.json").write_text(json.dumps({"runs": runs, "summary": {}}))
    drawn = central_mesh.pictures(tmp_path)
    curves = {name: list(ET.fromstring(picture).iter(f"{SVG}polyline")) for name, picture in drawn.items()}
    assert {name: len(lines) for name, lines in curves.items()} == {
        "three-hosts-outbound.svg": 4,
        "three-hosts-inbound.svg": 2,
    }
    assert all(len(str(line.get("points")).split()) == 40 for lines in curves.values() for line in lines)


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
