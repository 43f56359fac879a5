"""Curves as SVG text, small enough to be read in a diff.

GitHub shows a picture on white or on black and does not say which, so nothing has a background, and every colour stands
out on both. Refused: a plotting library, for three pictures and megabytes of dependency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 760
LEFT: Final = 62
RIGHT: Final = 14
LEGEND: Final = 44  # above the plot: title and legend
BELOW: Final = 40
GREY: Final = "#7d8590"
COLOURS: Final = ("#2f81f7", "#e5534b", "#3fa55b", "#c08a2b", "#a371f7")
LETTER: Final = 6.1  # width of one at 11 px, about


@dataclass(frozen=True, slots=True)
class Curve:
    """One line, and its name in the legend. `colour` is an index; a dashed line is a bound or a comparison."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot. `y` and `x` name the axes with their units; `top` is the largest y, else what the curves need;
    `every` is from one number of the x axis to the next, else what is round."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    top: float | None = None
    height: int = 220
    log_x: bool = False
    every: float | None = None


def svg(panels: Sequence[Panel]) -> str:
    """The panels below one another."""
    height = sum(LEGEND + panel.height + BELOW for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{GREY}">'
    ]
    above = 0
    for panel in panels:
        parts.append(f'<g transform="translate(0 {above})">{_panel(panel)}</g>')
        above += LEGEND + panel.height + BELOW
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel) -> str:
    xs = [x for curve in panel.curves for x, _ in curve.points]
    ys = [y for curve in panel.curves for _, y in curve.points]
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    steps = _steps(0.0, panel.top or max(ys, default=0.0) or 1.0)
    top = panel.top or steps[-1]
    bottom = LEGEND + panel.height

    def across(x: float) -> float:
        of = (math.log(x / low) / math.log(high / low)) if panel.log_x else (x - low) / ((high - low) or 1)
        return round(LEFT + of * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(bottom - min(y / top, 1.0) * panel.height, 1)

    lines = [f'<text x="{LEFT}" y="14" font-size="13" font-weight="600">{escape(panel.title)}</text>']
    lines += _legend(panel.curves)
    for y in steps:
        if y <= top:
            lines.append(_line(LEFT, up(y), WIDTH - RIGHT, up(y), "0.3" if y else "1"))
            lines.append(f'<text x="{LEFT - 6}" y="{up(y) + 4}" text-anchor="end">{number(y)}</text>')
    for x in sorted(set(xs)) if panel.log_x else _steps(low, high, panel.every):
        if low <= x <= high:
            lines.append(_line(across(x), bottom, across(x), bottom + 4, "1"))
            lines.append(f'<text x="{across(x)}" y="{bottom + 16}" text-anchor="middle">{number(x)}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{bottom + 31}" text-anchor="middle">{escape(panel.x)}</text>')
    half = bottom - panel.height / 2
    turned = f'text-anchor="middle" transform="rotate(-90 12 {half})"'
    lines.append(f'<text x="12" y="{half}" {turned}>{escape(panel.y)}</text>')
    for curve in panel.curves:
        dashes = ' stroke-dasharray="5 4"' if curve.dashed else ""
        points = " ".join(f"{across(x)},{up(y)}" for x, y in curve.points)
        colour = COLOURS[curve.colour]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>')
    return "\n".join(lines)


def _legend(curves: Sequence[Curve]) -> list[str]:
    lines, x = [], float(LEFT)
    for curve in curves:
        dashes = ' stroke-dasharray="5 4"' if curve.dashed else ""
        colour = COLOURS[curve.colour]
        lines.append(
            f'<line x1="{x}" y1="30" x2="{x + 18}" y2="30" stroke="{colour}" stroke-width="2.5"{dashes}/>'
            f'<text x="{x + 23}" y="34">{escape(curve.name)}</text>'
        )
        x = round(x + 36 + LETTER * len(curve.name), 1)
    return lines


def _line(x1: float, y1: float, x2: float, y2: float, opacity: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{GREY}" stroke-opacity="{opacity}"/>'


def _steps(low: float, high: float, every: float | None = None) -> list[float]:
    """Four to nine round numbers that reach over both ends."""
    rough = (high - low) / 6 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = every or next(power * of for of in (1, 2, 2.5, 5, 10) if power * of >= rough)
    first, last = math.floor(low / step), math.ceil(round(high / step, 9))
    return [round(step * n, 9) for n in range(first, last + 1)]


def number(value: float) -> str:
    """As on an axis: 2.5, 300k, 1.2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 10 or (abs(value) >= size and letter == "M"):
            return f"{value / size:g}{letter}"
    return f"{value:g}"
