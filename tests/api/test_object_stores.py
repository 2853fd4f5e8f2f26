"""The API on URLs of an S3 service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from object_store import Bucket

import a2s
from a2s.errors import CheckpointError, StorageError
from a2s.models.saved import SavedNetwork
from a2s.storage import checkpoints


def write_run(file: Path, out: Path) -> Path:
    """A run folder whose last of two commits holds the network of a file."""
    saved = SavedNetwork.find(file)
    tensors = saved.load().state_dict()
    zeros = {name: 0 * tensor for name, tensor in tensors.items()}
    for number, model in enumerate((zeros, tensors), start=1):
        state = {"epoch": number, "step": 0, "finished": number == 2}
        checkpoints.save(
            out, number, model=model, metadata=dict(saved.metadata), optimizer={}, state=state
        )
    return out


def test_a_detector_of_a_file_and_of_a_run_folder(
    detector_file: Path, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.put("m.safetensors", detector_file.read_bytes())
    bucket.upload(write_run(detector_file, tmp_path / "run"), "runs/s2")
    image_HW3 = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    wanted_HW = a2s.Detector.load(detector_file).predict(image_HW3).map
    for url in ("s3://bucket/m.safetensors", "s3://bucket/runs/s2", "s3://bucket/runs/s2/"):
        assert (a2s.Detector.load(url).predict(image_HW3).map == wanted_HW).all()
    # Of the run only the last commit's network was fetched.
    fetched = {path for method, path in bucket.proxy.requests if method == "GET"}
    assert not any("00001/model" in path for path in fetched)
    assert not any("optimizer" in path for path in fetched)
    with pytest.raises(CheckpointError, match="neither a"):
        a2s.Detector.load("s3://bucket/none")
    with pytest.raises(StorageError, match="no such bucket"):
        a2s.Detector.load("s3://no-such-bucket/x")


def test_labels_of_a_folder(data: Path, labels: a2s.LabelSet, bucket: Bucket) -> None:
    bucket.upload(data, "data")
    bucket.upload(labels.folder, "labels")
    there = a2s.LabelSet("s3://bucket/labels")
    assert there.keys() == labels.keys()
    assert all((a.mask == b.mask).all() for a, b in zip(there, labels, strict=True))
    pairs = there.dataset("s3://bucket/data", size=32)
    here = labels.dataset(data, size=32)
    assert len(pairs) == len(here)
    assert (pairs[1][0] == here[1][0]).all()
