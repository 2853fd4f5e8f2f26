"""Curves as SVG: well formed, the same for the same numbers, with every point in its place."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from a2s.curves import curves_svg
from a2s.figures.boundaries import fig9

SVG = "{http://www.w3.org/2000/svg}"
SERIES = {
    "DB1 <fixed> & bias": [(1, 0.3), (2, 0.31), (3, 0.3)],
    "DB5": [(1, 0.2), (3, 0.1), (2, 0.15)],
}


def draw(series: dict[str, list[tuple[float, float]]]) -> str:
    return curves_svg(series, x_name="epoch", y_name="MAE", title="MAE by epoch")


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """The polylines of the series, as pixels."""
    root = ElementTree.fromstring(svg)
    found = []
    for path in root.iter(f"{SVG}path"):
        style = path.get("style", "")
        if "stroke-width: 1.6" in style and path.get("clip-path"):
            found.append(
                [
                    (float(x), float(y))
                    for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d", ""))
                ]
            )
    return found


def test_curves_are_svg_and_repeatable() -> None:
    svg = draw(SERIES)
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"
    assert svg == draw(SERIES)


def test_points_lie_where_their_numbers_say() -> None:
    first, second = lines(draw(SERIES))
    assert len(first) == len(second) == 3
    # Sorted by epoch, equally spaced; SVG's y grows downwards and starts at 0 here.
    (x1, y1), (x2, y2), (x3, y3) = second
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.01)
    assert [x for x, _ in first] == [x for x, _ in second]
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.01)
    assert y1 - first[0][1] == pytest.approx(y3 - y1, abs=0.01)


def test_what_is_not_finite_is_a_gap_that_is_named() -> None:
    diverged = {"DB2": [(1, 0.2), (2, math.nan), (3, math.inf), (4, 0.3)]}
    svg = draw(diverged)
    ElementTree.fromstring(svg)
    (line,) = lines(svg)
    assert len(line) == 2
    assert "DB2 (2 not finite)" in svg


def test_figure_9(tmp_path: Path) -> None:
    drawn = fig9(tmp_path / "new", mae=SERIES)
    assert drawn.path == tmp_path / "new" / "fig9.svg"
    assert len(lines(drawn.path.read_text("utf-8"))) == 2
    assert str(drawn) == str(drawn.path)


def test_a_single_epoch_is_a_point() -> None:
    ElementTree.fromstring(draw({"DB5": [(1, 0.2)]}))
