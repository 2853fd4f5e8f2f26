"""Charts of the page: SVG that takes its colours from the page, with a text for who cannot see it.

Lines differ in dash and colour. Titles and labels are the page's own words, never a file's name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from a2s.evaluation.curves import name_axes, panels, to_svg

SERIES = ("#a10001", "#a10002", "#a10003", "#a10004", "#a10005", "#a10006")
"""Stand-ins that become the page's colours; no other colour of a chart begins like them."""
_INK = "#a10008"
_PREFIX = "chart-0-"
_GRID_OF_CURVES = "#e4e4e4"
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.parse_math": False,
}


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    x: Sequence[float] | NDArray[Any]
    y: Sequence[float] | NDArray[Any]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    y_name: str,
    alt: str,
    limits: tuple[float, float] | None = None,
    legend: bool = True,
    markers: bool = False,
) -> Markup:
    """Draw lines; `limits` are those of the y axis."""

    def draw(axes: Any) -> None:
        styles = itertools.cycle(zip(SERIES, _DASHES, strict=True))
        for line, (colour, dash) in zip(lines, styles, strict=False):
            marker = "o" if markers or len(line.x) == 1 else None
            style = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4}
            axes.plot(line.x, line.y, linewidth=1.8, label=line.name, **style)
        if limits:
            axes.set_ylim(*limits)
        if legend and len(lines) > 1:
            axes.legend(fontsize=9, frameon=False)

    return _chart(title, draw, x_name=x_name, y_name=y_name, alt=alt)


def histogram(
    title: str,
    counts: NDArray[np.int64],
    *,
    low: float,
    high: float,
    x_name: str,
    y_name: str,
    alt: str,
    marks: Sequence[tuple[str, float]] = (),
) -> Markup:
    """Draw counts of equal bins as bars, with marks as lines across."""
    width = (high - low) / len(counts)
    left = low + width * np.arange(len(counts))

    def draw(axes: Any) -> None:
        axes.bar(left, counts, width=0.92 * width, align="edge", color=SERIES[0])
        for name, value in marks:
            axes.axvline(value, color=SERIES[1], linestyle="--", linewidth=1.5, label=name)
        if marks:
            axes.legend(fontsize=9, frameon=False)
        axes.set_xlim(low, high)

    return _chart(title, draw, x_name=x_name, y_name=y_name, alt=alt)


def heat_map(
    title: str,
    values_YX: NDArray[Any],
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_name: str,
    y_name: str,
    alt: str,
) -> Markup:
    """Draw a matrix as colours; cells that are 0 stay empty."""
    shown_YX = np.where(values_YX == 0, np.nan, values_YX)

    def draw(axes: Any) -> None:
        x, y = (
            np.linspace(*ends, size + 1)
            for ends, size in ((x_range, values_YX.shape[1]), (y_range, values_YX.shape[0]))
        )
        mesh = axes.pcolormesh(x, y, shown_YX, cmap="viridis", rasterized=True)
        axes.figure.colorbar(mesh, ax=axes, label="labels").outline.set_visible(False)

    return _chart(title, draw, x_name=x_name, y_name=y_name, alt=alt)


def _chart(title: str, draw: Any, *, x_name: str, y_name: str, alt: str) -> Markup:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = panels(1, width=4.1, height=2.9)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        name_axes(axes, x_name, y_name, title)
        draw(axes)
        axes.title.set_fontsize(11)
        return themed(to_svg(figure), alt=alt)


def themed(svg: str, *, alt: str) -> Markup:
    """Make a figure part of the page: its colours, a text, and names that `placed` can number."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for place, colour in enumerate(SERIES, start=1):
        body = body.replace(colour, f"var(--c{place})")
    body = body.replace(_INK, "var(--ink)").replace(_GRID_OF_CURVES, "var(--grid)")
    body = re.sub(r'\bid="', f'id="{_PREFIX}', body)
    body = body.replace("url(#", f"url(#{_PREFIX}").replace('href="#', f'href="#{_PREFIX}')
    opening = Markup('<svg class="chart" role="img" aria-label="{}"').format(alt)
    return Markup(opening + Markup(body.removeprefix("<svg")))


def placed(chart: Markup, number: int) -> Markup:
    """Give the names in a chart a number, so that no two charts of a page share one."""
    return Markup(chart.replace(_PREFIX, f"chart-{number}-"))
