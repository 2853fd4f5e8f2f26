"""Charts are SVG that takes its colours from the page, and all colours can be told apart."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from a2s.evaluation.page import charts

CSS = (Path(charts.__file__).parent / "page.css").read_text("utf-8")


def two_charts() -> list[Markup]:
    alt = 'Loss "of" <b>1</b> & 2'
    lines = [charts.Line("A", [1, 2], [3, 4]), charts.Line("B", [1, 2], [4, 3])]
    return [
        charts.line_chart("Loss", lines, x_name="epoch", y_name="loss", alt=alt),
        charts.heat_map(
            "Map", np.eye(4), x_range=(0, 1), y_range=(0, 1), x_name="x", y_name="y", alt=alt
        ),
    ]


def test_charts_are_well_formed_with_a_text_and_unique_names() -> None:
    names: list[str] = []
    for number, chart in enumerate(two_charts() + two_charts()):
        svg = charts.placed(chart, number)
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == 'Loss "of" <b>1</b> & 2'
        names += [name for one in root.iter() if (name := one.get("id"))]
        known = {one.get("id") for one in root.iter()}
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= known
    assert len(names) == len(set(names))


def test_no_colour_of_a_line_or_a_text_is_fixed() -> None:
    for svg in two_charts():
        assert "var(--ink)" in svg
        assert "#a1000" not in svg
        # Text without a colour of its own would be black, also on a dark page.
        styles = re.findall(r'<text [^>]*style="([^"]*)"', svg)
        assert len(styles) > 5
        for style in styles:
            assert "fill: var(--ink)" in style
    assert "var(--c1)" in two_charts()[0]
    assert "var(--c2)" in two_charts()[0]


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert two_charts() == two_charts()


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(scheme: int) -> None:
    """WCAG 2.1, level AA: 4.5 for text (1.4.3), 3 for lines (1.4.11)."""
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", CSS.split("@media")[scheme]))
    for background in ("page", "card"):
        for text in ("ink", "soft", "link"):
            assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
        for line in ("c1", "c2", "c3", "c4", "c5", "c6"):
            assert contrast(colours[line], colours[background]) >= 3, (line, background)
    for text in ("ink", "warn"):
        assert contrast(colours[text], colours["warnback"]) >= 4.5, text
