"""Decisions of a reviewer on real gloo ranks: the same for any number of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from label_shards import write_labels
from processes import pack, run_ranks

from a2s.data.images import decode_mask, encode_png
from a2s.data.index import Index
from a2s.labels.review import Decision, append_decisions, now


def test_two_ranks_go_by_them_as_one_does(scenes, tmp_path: Path) -> None:
    data = pack(scenes.train, tmp_path / "data")
    labels = write_labels(data, tmp_path / "labels")
    index = Index.load(labels)
    mask_HW = np.zeros_like(decode_mask(index.read(4)))
    mask_HW[5:30, 5:30] = 255
    fixed = encode_png(mask_HW)
    decisions = [
        Decision(index.key(1), "rejected", None, now()),
        Decision(index.key(3), "accepted", None, now()),
        Decision(index.key(4), "fixed", fixed, now()),
    ]
    append_decisions(labels, decisions)
    found = []
    for world in (1, 2):
        out = tmp_path / f"world-{world}"
        arguments = ["stage2", "--data", str(data), "--labels", str(labels), "--out", str(out)]
        arguments += ["--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "2"]
        arguments += ["--epochs", "1", "--warm-epochs", "0", "--lam", "0", "--lr", "0"]
        arguments += ["--loader-workers", "0"]
        done = run_ranks(arguments, world=world)
        assert [one.code for one in done] == [0] * world, done[0].stderr
        rectified = Index.load(out / "rectified")
        keys = rectified.keys.to_pylist()
        assert index.key(1) not in keys
        assert rectified.read(keys.index(index.key(3))) == index.read(3)
        assert rectified.read(keys.index(index.key(4))) == fixed
        found.append([rectified.read(row) for row in range(len(rectified))])
    assert found[0] == found[1]
