"""Precision-recall and F-measure curves as SVG; equal numbers give equal bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from a2s.evaluation.dataset_scores import DatasetScores
from a2s.storage.files import atomic_write, write_json
from a2s.storage.parsing import printable

_BLUE, _ORANGE = "#1f5fa8", "#d9730d"
_TITLE_CHARS = 56
"""Longest title that fits above axes of the width of `panels`."""


def write_curves(out: Path, scores: DatasetScores, *, title: str) -> None:
    """Write pr_curve.svg, f_curve.svg and their numbers, curves.json, of a data set."""
    mean = scores.curves()
    write_json(out / "curves.json", {name: values_T.tolist() for name, values_T in mean.items()})
    adaptive_f = scores.summary()["adaptive_f"]
    atomic_write(out / "pr_curve.svg", pr_curve(mean["precision"], mean["recall"], title=title))
    atomic_write(out / "f_curve.svg", f_curve(mean["f"], adaptive_f=adaptive_f, title=title))


def pr_curve(precision_T: NDArray[Any], recall_T: NDArray[Any], *, title: str) -> str:
    """Draw mean precision against mean recall.

    Shape: [256], threshold 255 first.
    """
    figure, axes = _axes("recall", "precision", title)
    axes.plot(recall_T, precision_T, color=_BLUE, linewidth=1.8)
    # Names at the points would cover each other: maps with few grey values have them in one place.
    for threshold, marker in ((64, "^"), (128, "o"), (192, "s")):
        x, y = recall_T[255 - threshold], precision_T[255 - threshold]
        name = f"threshold {threshold}: precision {y:.3f}, recall {x:.3f}"
        axes.plot(x, y, marker, color=_BLUE, fillstyle="none", markersize=7, label=name)
    axes.legend(loc="best", fontsize=9, frameon=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return to_svg(figure)


def f_curve(f_T: NDArray[Any], *, adaptive_f: float, title: str) -> str:
    """Draw F over the threshold, with its maximum and the adaptive-threshold F.

    Shape: [256], threshold 255 first.
    """
    figure, axes = _axes("threshold", "F (β² = 0.3)", title)
    ascending = f_T[::-1]
    best = int(ascending.argmax())
    axes.plot(range(256), ascending, color=_BLUE, linewidth=1.8, label=f"mean {f_T.mean():.3f}")
    axes.plot(best, ascending[best], "o", color=_BLUE, label=f"max {ascending[best]:.3f} at {best}")
    axes.axhline(
        adaptive_f,
        color=_ORANGE,
        linewidth=1.3,
        linestyle="--",
        label=f"adaptive {adaptive_f:.3f} (the paper's ave-F)",
    )
    axes.set(xlim=(0, 255), ylim=(0, 1.02), xticks=[0, 64, 128, 192, 255])
    axes.legend(loc="best", fontsize=9, frameon=False)
    return to_svg(figure)


def panels(count: int, *, width: float = 5.6, height: float = 4.2) -> tuple[Any, list[Any]]:
    """Create a figure with `count` axes in a row, each of this size in inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, [figure.add_subplot(1, count, number + 1) for number in range(count)]


def name_axes(axes: Any, x_name: str, y_name: str, title: str) -> None:
    """Set title and axis names, draw a grid behind the lines, and remove the frame."""
    title = printable(title)
    if len(title) > _TITLE_CHARS:
        # The end of a folder's name and what follows it tell more than its middle.
        title = f"{title[: _TITLE_CHARS // 2 - 1]}…{title[-_TITLE_CHARS // 2 :]}"
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def to_svg(figure: Any) -> str:
    """Render the figure as SVG; equal figures give equal text."""
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date: two runs on the same numbers must give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "a2s"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _axes(x_name: str, y_name: str, title: str) -> tuple[Any, Any]:
    figure, (axes,) = panels(1)
    name_axes(axes, x_name, y_name, title)
    return figure, axes
