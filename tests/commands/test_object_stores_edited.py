"""Commands that go on with labels and runs of an S3 service: review, import-masks, hma."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from export_run import write_folders
from http_server import serving
from object_store import Bucket
from processes import call
from review_labels import write_pair

from a2s.labels.review import FILE_NAME

LABELS, DATA, RUN = "s3://bucket/labels", "s3://bucket/data", "s3://bucket/run"


def test_decisions_of_a_review_are_published(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, data = write_pair(tmp_path)
    bucket.upload(labels, "labels")
    bucket.upload(data, "data")
    with serving("review", LABELS, "--data", DATA, "--port", 0) as server:
        assert server.ask("/thumb/0").code == 200
        first = {"row": 0, "version": 0, "verdict": "rejected"}
        assert server.ask("/api/decide", first).code == 200
        in_use = call("import-masks", LABELS + "/none.json", "--labels", LABELS)
        assert "is in use by a2s review" in in_use.stderr
        code, output, errors = server.interrupt()
    assert code in (0, 130), errors
    assert f"1 rejected, 0 fixed, in {LABELS}/{FILE_NAME}" in output
    (line,) = bucket.get(f"labels/{FILE_NAME}").decode().splitlines()
    assert json.loads(line)["verdict"] == "rejected"
    # The next review, on another machine, goes on with it.
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "another"))
    with serving("review", LABELS, "--data", DATA, "--port", 0) as server:
        assert server.ask("/api/summary").json["counts"]["rejected"] == 1


def test_corrected_masks_are_decisions_of_a_store(bucket: Bucket, tmp_path: Path) -> None:
    folders = write_folders(tmp_path)
    bucket.upload(folders.labels, "labels")
    pair = ["export", folders.labels, "--data", folders.data, "--workers", 0]
    assert call(*pair, "--format", "coco", "--out", tmp_path / "coco").code == 0
    bucket.put("coco/instances.json", (tmp_path / "coco/instances.json").read_bytes())
    done = call("import-masks", "s3://bucket/coco/instances.json", "--labels", LABELS)
    assert done.code == 0, done.stderr
    assert (
        call("import-masks", tmp_path / "coco/instances.json", "--labels", folders.labels).code == 0
    )
    lines = bucket.get(f"labels/{FILE_NAME}").decode().splitlines()
    here = (folders.labels / FILE_NAME).read_text().splitlines()
    keys = [[json.loads(line)["key"] for line in some] for some in (lines, here)]
    assert keys[0] == keys[1] != []
    again = call("import-masks", "s3://bucket/coco/instances.json", "--labels", LABELS)
    assert f"{len(lines)} decided before" in again.stdout


@pytest.mark.slow
def test_a_run_in_a_store_alternates_with_hma(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, data = write_pair(tmp_path)
    bucket.upload(labels, "labels")
    bucket.upload(data, "data")
    pair = ["--data", DATA, "--labels", LABELS]
    flags = "--image-size 64 --batch-size 4 --epochs 2 --warm-epochs 1 --loader-workers 0"
    train = ["stage2", *pair, "--out", RUN, *flags.split(), "--rectify", "hma"]
    train += ["--encoder.name", "mobilenet_v2", "--encoder.weights", "none"]
    commands = (train, ["hma", "--run", RUN, *pair, "--workers", 0], train)
    for machine, words in enumerate(commands):
        monkeypatch.setenv("A2S_CACHE", str(tmp_path / f"machine-{machine}"))
        done = call(*words)
        assert done.code == 0, done.stderr
    assert "finished" in call("status", RUN).stdout
    assert call("verify", RUN).code == 0
    snapshot = ["snapshot", "--model", RUN, *pair, "--images", 2, "--out", "s3://bucket/snapshot"]
    done = call(*snapshot)
    assert done.code == 0, done.stderr
    assert len([name for name in bucket.files("snapshot") if name.endswith(".png")]) == 4
    done = call("report", RUN)
    assert done.code == 0, done.stderr
    assert b"</html>" in bucket.get("run/report.html")
