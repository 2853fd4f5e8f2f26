"""A whole run into an S3 service, and a server with a model of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from http_server import serving
from object_store import Bucket
from processes import call

from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder
from a2s.storage import tensors

if TYPE_CHECKING:
    from conftest import SceneFolders

OUT = "s3://bucket/run"
SMALL = "--stage2.epochs 1 --stage2.warm-epochs 1 --stage2.image-size 64 --stage2.batch-size 2"


@pytest.mark.slow
def test_a_run_goes_into_a_store_and_on_from_there(
    scenes: SceneFolders, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(scenes.train, "train")
    bucket.upload(scenes.images, "images")
    bucket.upload(scenes.masks, "masks")
    run = ["run", "s3://bucket/train", "--test", "s3://bucket/images"]
    run += ["--truth", "s3://bucket/masks", "--out", OUT, *SMALL.split()]
    run += ["--stage2.loader-workers", "0", "--workers", "0"]
    done = call(*run)
    assert done.code == 0, done.stderr
    assert f"masks {OUT}/preds, detector {OUT}/stage2" in done.stdout
    made = {name: data for name, data in bucket.files("run").items() if "safetensors" in name}
    assert {"table.md", "sheet.png", "scores/detector/scores.json"} <= set(bucket.files("run"))
    here = str(tmp_path).encode()
    assert [name for name, data in bucket.files("run").items() if here in data] == []
    # On another machine every step is found done.
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "another"))
    again = call(*run)
    assert again.code == 0, again.stderr
    files = bucket.files("run")
    assert {name: data for name, data in files.items() if "safetensors" in name} == made
    assert "finished" in call("status", OUT).stdout


def test_a_server_takes_its_model_from_a_store(
    scenes: SceneFolders, bucket: Bucket, tmp_path: Path
) -> None:
    detector = Detector(build_encoder("mobilenet_v2"), width=16)
    metadata = {**detector.spec(), "image_size": "64", "resize_filter": "bilinear"}
    tensors.write(tmp_path / "m.safetensors", detector.state_dict(), metadata=metadata)
    bucket.put("m.safetensors", (tmp_path / "m.safetensors").read_bytes())
    image = next(scenes.images.iterdir()).read_bytes()
    with serving("serve", "--model", "s3://bucket/m.safetensors", "--port", 0) as server:
        answer = server.ask("/predict", image, Content_Type="image/jpeg")
    assert answer.code == 200
    assert answer.body.startswith(b"\x89PNG")
