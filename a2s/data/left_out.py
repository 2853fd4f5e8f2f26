"""Files that no image came of: said in words, and held against the limit of failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def describe_lost(num_lost: int, *, lost_is_known: bool) -> Iterator[str]:
    """What damaged tars have lost, in lines of text."""
    if num_lost:
        yield f"about {num_lost:,} more images are lost in unreadable parts of damaged tars"
    if not lost_is_known:
        yield "a tar ends without its end marker, so nothing tells how much of it is lost"


def over_limit(rate: float, *, failed: int, total: int, num_lost: int, lost_is_known: bool) -> bool:
    """Whether more than `rate` of the images failed, those included that damaged tars have lost.

    A loss of unknown size is over every limit but 1.
    """
    return failed + num_lost > rate * (total + num_lost) or (not lost_is_known and rate < 1)


def describe_skipped(skipped: Mapping[str, int]) -> Iterator[str]:
    """Which files are hidden, or no images, in a line of text; none without such files."""
    if skipped:
        listed = ", ".join(f"{count:,} {suffix}" for suffix, count in skipped.items())
        yield f"left out {sum(skipped.values()):,} files that are hidden or no images: {listed}"
