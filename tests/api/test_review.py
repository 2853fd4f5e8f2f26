"""Decisions of a reviewer, in the labels that Python gets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from review_labels import write_pair

import a2s
from a2s.data.images import encode_png
from a2s.errors import DataError, LabelError
from a2s.labels.review import FILE_NAME, Decision, Verdict, append_decisions, now


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Labels and data; of twelve labels number n has the quality n / 12."""
    return write_pair(tmp_path)


def decide(labels: Path, verdicts: dict[str, Verdict], png: bytes | None = None) -> None:
    append_decisions(
        labels,
        [
            Decision(key, verdict, png if verdict == "fixed" else None, now())
            for key, verdict in verdicts.items()
        ],
    )


def test_decisions_hold_in_a_label_set(folders: tuple[Path, Path], tmp_path: Path) -> None:
    labels, data = folders
    keys = a2s.LabelSet(labels).keys()
    drawn_HW = np.zeros((96, 120), np.uint8)
    drawn_HW[10:20, 30:50] = 255
    decide(
        labels, {keys[0]: "accepted", keys[1]: "fixed", keys[11]: "rejected"}, encode_png(drawn_HW)
    )
    found = a2s.LabelSet(labels)
    assert [found[n].review for n in (0, 1, 2, 11)] == ["accepted", "fixed", "none", "rejected"]
    assert np.array_equal(found[1].mask, drawn_HW)
    assert (found[1].quality, found[0].quality) == (None, 0)
    every = found.dataset(data)
    assert every.label_rows.tolist() == list(range(11))
    _, label_1HW, quality = every[1]
    assert np.array_equal(label_1HW[0].numpy() * 255, drawn_HW)
    assert math.isnan(float(quality))
    good = found.dataset(data, min_quality=0.7)
    assert good.label_rows.tolist() == [0, 1, 9, 10]
    assert every.left_out == {"rejected": 1}
    assert good.left_out == {"rejected": 1, "low_quality": 7}
    _, other = write_pair(tmp_path / "other", names=tuple(f"x{number}" for number in range(6)))
    with pytest.raises(DataError, match="shard-000000 was made of other images"):
        found.dataset(other)


def test_a_set_without_usable_labels_is_refused(folders: tuple[Path, Path]) -> None:
    labels, data = folders
    decide(labels, dict.fromkeys(a2s.LabelSet(labels).keys(), "rejected"))
    with pytest.raises(LabelError, match=r"every label of .* was rejected"):
        a2s.LabelSet(labels).dataset(data)
    (labels / FILE_NAME).write_text("x\n")
    with pytest.raises(DataError, match="line 1"):
        a2s.LabelSet(labels)
