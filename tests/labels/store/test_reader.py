"""Label reader of stage 2: label shards with each resize filter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from label_shards import rectangle, write_labels
from PIL import Image
from processes import pack

from a2s.data.images import RESIZE_FILTERS, decode_mask
from a2s.data.index import Index
from a2s.errors import LabelError
from a2s.labels.store.reader import MISSING, UNLABELLED, LabelSource, read_unlabelled, resize


@pytest.mark.parametrize("name", RESIZE_FILTERS)
def test_labels_are_resized_like_images(scenes, tmp_path: Path, name: str) -> None:
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
    # Compare with resizing in 8 bits, as for images, which rounds after each direction.
    assert np.abs(label - by_name.pop(name)).max() < 0.03
    assert all(np.abs(label - other).max() > 0.03 for other in by_name.values())
    soft = ((label > 0) & (label < 1)).any()
    assert soft == (name != "nearest")


def test_labels_come_from_the_shards_while_lambda_is_1(scenes, tmp_path: Path) -> None:
    data = pack(scenes.train, tmp_path / "data")
    index, stored = Index.load(data), Index.load(write_labels(data, tmp_path / "labels"))
    source = LabelSource(stored, stored.rows_of(index.keys), data, 32, [0])
    label = source(0, 1)
    assert label.shape == (32, 32)
    assert label.dtype == np.float32
    mask = rectangle(index.key(0), int(index.height_N[0]), int(index.width_N[0]))
    assert (decode_mask(stored.read(0)) == mask).all()
    assert label.min() == 0
    assert label.max() == 1
    assert abs(float(label.mean()) - mask.mean() / 255) < 0.01


def test_resize_keeps_the_range_and_flat_labels() -> None:
    for value in (0.0, 0.5, 1.0):
        flat = np.full((7, 13), value, np.float32)
        assert np.allclose(resize(flat, height=20, width=5), value, atol=1e-6)
    noise = np.random.default_rng(0).random((31, 17)).astype(np.float32).round()
    for size in ((5, 90), (90, 5), (1, 1)):
        small = resize(noise, height=size[0], width=size[1])
        assert small.shape == size
        assert small.min() >= 0
        assert small.max() <= 1


def test_a_list_of_left_out_images_that_was_cut_is_refused(scenes, tmp_path: Path) -> None:
    """An image that is missing from it would be learned from after all."""
    index = Index.load(pack(scenes.train, tmp_path / "data"))
    lines = [json.dumps({"key": index.key(row), "reason": MISSING, "detail": ""}) for row in (1, 4)]
    text = "".join(f"{line}\n" for line in lines)
    (tmp_path / UNLABELLED).write_text(text)
    assert np.flatnonzero(~read_unlabelled(tmp_path, index)).tolist() == [1, 4]
    for damaged in (text[:-1], text[:-20], "[]", "[]\n", text.replace(index.key(4), "x"), "\n"):
        (tmp_path / UNLABELLED).write_text(damaged)
        with pytest.raises(LabelError, match="is damaged: it is not the list with which the run"):
            read_unlabelled(tmp_path, index)
