"""Histograms and heat maps of labels and scores, and what a strip says below its pictures."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from a2s.evaluation.page.charts import heat_map, histogram
from a2s.evaluation.page.label_table import FINE_BINS, RANGES, LabelTable, Row

BINS = 25
TITLES = {
    "quality": ("Expected F (quality)", "quality"),
    "area_share": ("Area of the object", "share of the image"),
    "num_components": ("Number of regions", "regions (12 or more at the end)"),
    "border_contact": ("Contact with the border", "share of the border"),
    "map_overlap": ("Overlap of map and label", "intersection over union"),
    "crf_agreement": ("Overlap before and after the CRF", "intersection over union"),
    "decision_margin": ("Decision margin", "mean distance from 0.5"),
    "map_peak": ("Peak of the map", "probability"),
    "colour_contrast": ("Contrast of colours", "0 none, 1 full"),
}

RANKS = {
    "quality": "expected F",
    "crf_agreement": "overlap before and after the CRF",
    "decision_margin": "decision margin",
    "changed_share": "share of moved pixels",
}
"""What the columns that rank labels are called in a sentence."""


def of_labels(table: LabelTable) -> list[Markup]:
    """Draw the distribution of every quality number, and area against rank."""
    charts = [
        _of_column(table, name, title, x_name)
        for name, (title, x_name) in TITLES.items()
        if name in table.counts
    ]
    rank = table.ranked_by
    if rank is not None and "area_share" in table.counts:
        at = np.unravel_index(int(table.area_by_rank_AQ.argmax()), table.area_by_rank_AQ.shape)
        area, best = (int(place) / len(table.area_by_rank_AQ) for place in at)
        low, high = RANGES[rank]
        said = RANKS[rank]
        charts.append(
            heat_map(
                f"Area and {said}",
                table.area_by_rank_AQ.T,
                x_range=(0, 1),
                y_range=(low, high),
                x_name="area share",
                y_name=said,
                alt=f"Labels by area and {said}; most have an area share near {area:.2f} and "
                f"{said} near {low + best * (high - low):.2f}.",
            )
        )
    return charts


def changed_histogram(table: LabelTable) -> Markup:
    """Draw how much of each label stage 2 has moved, up to the largest change."""
    return _of_column(table, "changed_share", "Moved pixels per label", "share of the pixels")


def f_histogram(f_N: NDArray[np.float64]) -> Markup:
    """Draw the adaptive F of the scored images."""
    counts, _ = np.histogram(f_N, bins=BINS, range=(0, 1))
    mean = float(f_N.mean())
    return histogram(
        "Adaptive F per image",
        counts,
        low=0,
        high=1,
        x_name="adaptive F",
        y_name="images",
        alt=f"Histogram of the adaptive F of {len(f_N):,} images: mean {mean:.3f}, "
        f"{float((f_N < 0.5).mean()):.0%} below 0.5.",
        marks=[(f"mean {mean:.3f}", mean)],
    )


def caption(row: Row, table: LabelTable) -> str:
    """Say in a line what is known of a label."""
    numbers = row.numbers
    said = []
    if table.ranked_by is not None:
        said.append(f"{RANKS[table.ranked_by]} {numbers[table.ranked_by]:.2f}")
    if "area_share" in numbers:
        said.append(f"area {numbers['area_share']:.0%}")
    if numbers.get("num_components", 1) > 1:
        said.append(f"{numbers['num_components']:.0f} regions")
    if numbers.get("no_object"):
        said.append("no object")
    return ", ".join(said)


def _of_column(table: LabelTable, name: str, title: str, x_name: str) -> Markup:
    low, high = RANGES[name]
    fine = table.counts[name]
    if name == "num_components":
        edges = np.linspace(0, FINE_BINS, 13).round().astype(int)
        counts = np.add.reduceat(fine, edges[:-1])
    else:
        counts = fine.reshape(BINS, -1).sum(axis=1)
    median = table.quantile(name, 0.5)
    spread = [table.quantile(name, share) for share in (0.1, 0.9)]
    digits = 0 if name == "num_components" else 2
    said = f"median {median:.{digits}f}"
    return histogram(
        title,
        counts,
        low=low,
        high=high,
        x_name=x_name,
        y_name="labels",
        alt=f"Histogram of {title.lower()} of {table.num_labels:,} labels: {said}, 10% below "
        f"{spread[0]:.{digits}f}, 10% above {spread[1]:.{digits}f}.",
        marks=[(said, median)],
    )
