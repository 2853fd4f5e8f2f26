"""Distribution of the labels' quality numbers, as manifests keep it: counts in equal bins. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NUM_BINS = 20


def count(qualities: Iterable[float]) -> list[int]:
    """Count numbers between 0 and 1 in bins of equal width; 1 falls into the last."""
    counts = [0] * NUM_BINS
    for quality in qualities:
        counts[min(int(quality * NUM_BINS), NUM_BINS - 1)] += 1
    return counts


def add(all_counts: Iterable[Sequence[int]]) -> list[int]:
    """Add up the counts of several manifests."""
    return [sum(column) for column in zip(*all_counts, strict=True)]


def quantile(counts: Sequence[int], share: float) -> float:
    """Number below which this share of the labels lies, interpolated within its bin.

    Range: 0..1
    """
    wanted, below = share * sum(counts), 0
    for number, inside in enumerate(counts):
        if inside and below + inside >= wanted:
            return (number + (wanted - below) / inside) / NUM_BINS
        below += inside
    return 1.0


def describe(counts: Sequence[int], *, num_no_object: int) -> str:
    """Say in a line how good the labels are expected to be."""
    low, half, high = (quantile(counts, share) for share in (0.1, 0.5, 0.9))
    return (
        f"expected F {half:.2f} for half of the labels or more; below {low:.2f} for 10%, above "
        f"{high:.2f} for 10%; {num_no_object:,} show no salient object"
    )
