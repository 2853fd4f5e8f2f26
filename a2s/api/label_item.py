"""One pseudo label, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from a2s.data.arrays import U8


@dataclass(frozen=True, eq=False)
class Label:
    """One label."""

    key: str
    """Path of the image without suffix, encoded (docs/formats.md)."""
    mask: U8
    """Shape: H W, uint8, the image's own size. Range: 0..255, above 127 is foreground."""
    numbers: Mapping[str, Any]
    """Quality numbers by name (docs/label.md); empty for labels that stage 2 has corrected or a
    person has fixed."""
    review: Literal["none", "accepted", "rejected", "fixed"] = "none"
    """What a person decided about the label (docs/review.md)."""

    @property
    def quality(self) -> float | None:
        """F-measure that is expected of the label, 0 to 1; None if nobody has estimated it."""
        value = self.numbers.get("quality")
        return None if value is None else float(value)
