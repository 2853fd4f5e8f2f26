"""Agreement of labels, RBD and detector on drawn images with known masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from a2s.data.images import encode_png
from a2s.data.shards import ShardWriter
from a2s.evaluation import agreement
from a2s.evaluation.agreement import sampled_agreement
from a2s.models.rbd import rbd

SIDE = 64
KEYS = [f"n{number}" for number in range(7)]


def square() -> np.ndarray:
    """An object that RBD finds exactly."""
    mask_HW = np.zeros((SIDE, SIDE), np.uint8)
    mask_HW[20:44, 20:44] = 255
    return mask_HW


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Images with a red square; labels and masks of the detector that miss its right half."""
    import cv2

    half_HW = square()
    half_HW[:, SIDE // 2 :] = 0
    image_HW3 = np.full((SIDE, SIDE, 3), 40, np.uint8)
    image_HW3[square() > 0] = (220, 30, 30)
    photo = cv2.imencode(".png", image_HW3[..., ::-1])[1].tobytes()
    assert ((rbd(image_HW3) > 0.5) == (square() > 0)).all()
    for side in ("data", "labels", "preds"):
        (tmp_path / side).mkdir()
    with ShardWriter(tmp_path / "data") as data, ShardWriter(tmp_path / "labels") as labels:
        for key in KEYS:
            data.add(key, {"png": photo})
            labels.add(key, {"png": encode_png(half_HW)})
            (tmp_path / "preds" / f"{key}.png").write_bytes(encode_png(half_HW))
    return tmp_path


def test_agreements_are_intersection_over_union(folders: Path) -> None:
    paths = {"data": folders / "data", "labels": folders / "labels"}
    found = sampled_agreement(**paths, preds=folders / "preds")
    assert found is not None
    assert (found.num_images, found.num_sampled) == (7, 7)
    assert found.detector_labels == 1
    assert found.labels_rbd == pytest.approx(0.5)
    alone = sampled_agreement(**paths, preds=None)
    assert alone is not None
    assert alone.detector_labels is None


def test_images_are_spread_evenly_and_lost_ones_counted(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "SAMPLE", 3)
    (folders / "preds" / "n3.png").unlink()
    # Not in the sample: first, middle and last image.
    (folders / "preds" / "n5.png").write_bytes(b"damaged")
    paths = {"data": folders / "data", "labels": folders / "labels"}
    found = sampled_agreement(**paths, preds=folders / "preds")
    assert found is not None
    assert (found.num_images, found.num_sampled) == (2, 3)
    for name in ("n0", "n6"):
        (folders / "preds" / f"{name}.png").unlink()
    assert sampled_agreement(**paths, preds=folders / "preds") is None
