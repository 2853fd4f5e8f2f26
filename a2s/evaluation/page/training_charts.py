"""Losses over epochs, and the share of pixels that label correction moves."""

from __future__ import annotations

from markupsafe import Markup

from a2s.evaluation.page.charts import Line, line_chart
from a2s.evaluation.page.logs import TrainingLog


def losses(title: str, log: TrainingLog) -> list[Markup]:
    """Draw all losses of a stage; nothing without a log line."""
    if "loss" not in log.losses:
        return []
    names = [name for name in ("loss", "bce", "ssim", "iou") if name in log.losses]
    lines = [Line(name, log.epochs, log.losses[name]) for name in names]
    first, last = log.losses["loss"][0], log.losses["loss"][-1]
    return [
        line_chart(
            f"{title}: loss",
            lines,
            x_name="epoch",
            y_name="loss",
            alt=f"Loss of {title.lower()} over {log.epochs[-1]:.1f} epochs: from {first:.3f} to "
            f"{last:.3f}.",
        )
    ]


def flips(log: TrainingLog) -> list[Markup]:
    """Draw the share of label pixels that change sides, by epoch; nothing without numbers."""
    if not log.flips_by_epoch:
        return []
    epochs, shares = list(log.flips_by_epoch), [*log.flips_by_epoch.values()]
    said = ", ".join(f"{epoch}: {share:.1%}" for epoch, share in log.flips_by_epoch.items())
    return [
        line_chart(
            "Pixels moved by OLR",
            [Line("moved", epochs, [100 * share for share in shares])],
            x_name="epoch",
            y_name="% of the pixels",
            alt=f"Share of label pixels that change sides, by epoch: {said}.",
            markers=True,
        )
    ]
