"""Curves can be read where people see them: in a page, 600 px wide."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from numpy.typing import NDArray

from a2s.evaluation import curves

WIDTH_PX = 600
TITLE = f"{'a_long_name_of_a_folder_' * 4}, 1,000 images"
LEAST_PX = 9
"""Height of a line of text that can be read."""


def curve(kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Precision and recall from threshold 255 down to 0."""
    t = np.linspace(0, 1, 256)
    if kind == "binary maps":
        # Every threshold gives the same mask, so all points lie in one place.
        return np.full(256, 0.8), np.full(256, 0.7)
    if kind == "steep":
        return 1 - 0.1 * t, np.minimum(1, 0.95 + 0.05 * t)
    return 0.9 - 0.7 * t**3, 0.2 + 0.8 * t


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Any, *args: Any, **options: Any) -> Any:
    """The figure, at 600 px."""
    figures: list[Any] = []
    monkeypatch.setattr(curves, "to_svg", lambda figure: figures.append(figure) or "")
    draw(*args, **options)
    (figure,) = figures
    figure.dpi = WIDTH_PX / figure.get_size_inches()[0]
    return figure


@pytest.mark.parametrize("kind", ["binary maps", "steep", "graded maps"])
@pytest.mark.parametrize("which", ["pr", "f"])
def test_no_text_covers_another(which: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    precision_T, recall_T = curve(kind)
    if which == "pr":
        figure = drawn(monkeypatch, curves.pr_curve, precision_T, recall_T, title=TITLE)
    else:
        figure = drawn(monkeypatch, curves.f_curve, precision_T, adaptive_f=0.6, title=TITLE)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = {text.get_text(): text.get_window_extent(canvas.get_renderer()) for text in texts}
    assert len(boxes) > 10
    assert any("threshold" in name for name in boxes)
    for (one, box), (two, other) in combinations(boxes.items(), 2):
        assert not box.overlaps(other), (one, two)
    assert any(name.endswith("folder_, 1,000 images") for name in boxes)
    for name, box in boxes.items():
        assert box.height >= LEAST_PX, name
        assert box.x1 <= WIDTH_PX, name
        assert box.x0 >= 0, name
        assert box.x1 <= WIDTH_PX, name


def test_the_same_numbers_give_the_same_bytes() -> None:
    precision_T, recall_T = curve("graded maps")
    pictures = {curves.pr_curve(precision_T, recall_T, title="x") for _ in range(2)}
    assert len(pictures) == 1
