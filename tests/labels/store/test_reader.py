"""Labels as stage 2 reads them from shards, by each filter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_shards import write_labels
from PIL import Image
from processes import pack

from a2s.data.images import RESIZE_FILTERS, decode_mask
from a2s.data.index import Index
from a2s.labels.store.reader import LabelSource


@pytest.mark.parametrize("name", RESIZE_FILTERS)
def test_labels_are_squashed_like_images(scenes, tmp_path: Path, name: str) -> None:
    data = pack(scenes.train, tmp_path / "data")
    labels = Index.load(write_labels(data, tmp_path / "labels"))
    rows_N = labels.rows_of(Index.load(data).keys)
    label = LabelSource(labels, rows_N, tmp_path, 40, [0], resize_filter=name)(0, 1)
    mask = Image.fromarray(decode_mask(labels.read(int(rows_N[0]))))
    by_name = {
        other: np.array(mask.resize((40, 40), pillow), np.float32) / 255
        for other, pillow in RESIZE_FILTERS.items()
    }
    assert label.min() >= 0
    assert label.max() <= 1
    # Against eight bits, as an image has them, rounded after each direction.
    assert np.abs(label - by_name.pop(name)).max() < 0.03
    assert all(np.abs(label - other).max() > 0.03 for other in by_name.values())
    soft = ((label > 0) & (label < 1)).any()
    assert soft == (name != "nearest")
