"""Figure 9: what stage 1 learns with each decision boundary, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from a2s.curves import Points, curves_svg
from a2s.figures.sources import Drawn
from a2s.rundir import atomic_write


def fig9(out: Path, *, mae: Mapping[str, Points]) -> Drawn:
    """Draw the MAE curve of every boundary, by its name the pairs (epoch, MAE), as SVG."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "fig9.svg"
    svg = curves_svg(mae, x_name="epoch", y_name="MAE", title="MAE of the decision boundaries")
    atomic_write(path, svg)
    return Drawn(path)
