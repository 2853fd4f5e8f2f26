"""An image that ends its process is quarantined, and everything else is done.

Each command runs with and without the image, in this process (`--workers 0`) and with Ray workers.
Its codec crashes, or its Ray worker is killed, as when memory runs out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from crashing_codec import KILL_WORKER, SEGV, plant
from labelling_run import encoded, write_data, write_model
from processes import Finished, call

from a2s.commands import evaluate
from a2s.data.images import encode_png
from a2s.parallel import pool

NUM_IMAGES, SHARD_SIZE = 6, 4
CRASHING = "zz"
"""Its key is the last one, so that the shards of the others are the same without it."""


@pytest.fixture(scope="module", params=["0", "2"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        plant(tmp_path_factory.mktemp("site"), patch)
        if request.param == "0":
            yield "0"
            return
        with pool.session(workers=2):
            yield "2"


DEEDS = {"bad": SEGV, "killing": KILL_WORKER}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, shards, maps and masks in `good/`; in the others the same and one that is bad."""
    root = tmp_path_factory.mktemp("crashing")
    write_model(root / "model.safetensors")
    for name in ("good", *DEEDS):
        samples = [(f"{n}", encoded(40, 52, seed=n)) for n in range(NUM_IMAGES)]
        deed = DEEDS.get(name, b"")
        if deed:
            samples.append((CRASHING, encoded(40, 52, seed=99) + deed))
        folder = root / name
        for kind in ("images", "pred", "truth"):
            (folder / kind).mkdir(parents=True)
        for number, (key, data) in enumerate(samples):
            (folder / "images" / f"{key}.png").write_bytes(data)
            mask_HW = np.zeros((40, 52), np.uint8)
            mask_HW[5 : 20 + number, 9:30] = 255
            (folder / "truth" / f"{key}.png").write_bytes(encode_png(mask_HW))
            map_HW = np.roll(mask_HW, 2, 1) // 2
            end = deed if key == CRASHING else b""
            (folder / "pred" / f"{key}.png").write_bytes(encode_png(map_HW) + end)
        write_data(folder / "data", [samples[:SHARD_SIZE], samples[SHARD_SIZE:]])
    return root


def command(name: str, folder: Path, out: Path, workers: str, *extra: str) -> Finished:
    model = str(folder.parent / "model.safetensors")
    arguments = {
        "shard": [str(folder / "images"), "--shard-size", str(SHARD_SIZE)],
        "label": ["--data", str(folder / "data"), "--model", model, "--batch-size", "3"],
        "predict": [str(folder / "images"), "--model", model, "--batch-size", "4", "--cutout"],
        "evaluate": ["--pred", str(folder / "pred"), "--truth", str(folder / "truth")],
    }
    return call(name, *arguments[name], "--out", str(out), "--workers", workers, *extra)


def made(name: str, out: Path) -> dict[str, object]:
    """What the command has made of the good images."""
    if name == "evaluate":
        scores = json.loads((out / "scores.json").read_text())
        counts = {"num_truth", "num_failed", "inputs_sha256"}
        means = {key: value for key, value in scores.items() if key not in counts}
        return {"scores": means, "rows": pq.read_table(out / "images.parquet").to_pylist()}
    kinds = ("shard-*.tar", "shard-*.parquet") if name in ("shard", "label") else ("*.png",)
    return {path.name: path.read_bytes() for kind in kinds for path in out.glob(kind)}


@pytest.mark.parametrize(
    ("name", "which"),
    [
        *((name, "bad") for name in ("shard", "label", "predict", "evaluate")),
        ("label", "killing"),
        *(
            pytest.param(name, "killing", marks=pytest.mark.slow)
            for name in ("shard", "predict", "evaluate")
        ),
    ],
)
def test_an_image_that_ends_its_process_is_quarantined(
    root: Path, tmp_path: Path, workers: str, name: str, which: str
) -> None:
    if which == "killing" and workers == "0":
        pytest.skip("the process that would be killed is the tests' own")
    good = command(name, root / "good", tmp_path / "good", workers)
    assert good.code == 0, good.stderr
    bad = command(name, root / which, tmp_path / "bad", workers)
    assert bad.code == 3, bad.stderr
    listed = (tmp_path / "bad" / "failures.jsonl").read_text()
    (row,) = map(json.loads, listed.splitlines())
    assert (row["key"], row["reason"]) == (CRASHING, "crashes")
    causes = {
        "bad": "the codec ended its process with SIGSEGV",
        "killing": "its worker process died",
    }
    assert row["detail"].endswith(causes[which])
    # The whole task twice; parts of it; then the image with nothing beside it.
    assert (bad.stderr.count("its worker process died") >= 4) == (which == "killing")
    assert ("looking for the image that does it" in bad.stderr) == (which == "killing")
    before = made(name, tmp_path / "bad")
    assert len(before) >= 2
    assert before == made(name, tmp_path / "good")
    assert not list((tmp_path / "bad").rglob("*.tmp"))

    # One of seven is below the limit, and there is nothing left to do.
    again = command(name, root / which, tmp_path / "bad", workers, "--max-failure-rate", "0.2")
    assert again.code == 0, again.stderr
    assert (tmp_path / "bad" / "failures.jsonl").read_text() == listed
    assert made(name, tmp_path / "bad") == before
    done = "0 new" if name == "predict" else "done"
    assert done in again.stdout


def test_a_mask_that_crashes_its_codec_is_quarantined_with_its_image(
    root: Path, tmp_path: Path, workers: str
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (root / "bad" / "truth").iterdir():
        (masks / path.name).write_bytes(path.read_bytes() + (SEGV if path.stem == "3" else b""))
    done = command(
        *("shard", root / "good", tmp_path / "out", workers),
        *("--masks", str(masks), "--max-failure-rate", "0.2"),
    )
    assert done.code == 0, done.stderr
    rows = list(map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines()))
    assert {row["key"]: row["reason"] for row in rows} == {
        "3": "mask_crashes",
        CRASHING: "mask_without_image",
    }


@pytest.mark.slow
def test_a_map_that_crashes_its_codec_among_many_is_quarantined(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many pairs that child processes score them."""
    (tmp_path / "site").mkdir()
    plant(tmp_path / "site", monkeypatch)
    truth, pred = tmp_path / "truth", tmp_path / "pred"
    for folder, kind in ((truth, "truth"), (pred, "pred")):
        folder.mkdir()
        sources = sorted((root / "good" / kind).iterdir())
        for number in range(evaluate.CHILDREN_MIN_PAIRS):
            data = sources[number % len(sources)].read_bytes()
            crashes = number == 77 and kind == "pred"
            (folder / f"{number:03}.png").write_bytes(data + (SEGV if crashes else b""))
    sides = ("--pred", str(pred), "--truth", str(truth), "--workers", "0")
    done = call("evaluate", *sides, "--out", str(tmp_path / "out"))
    assert done.code == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (row["key"], row["reason"]) == ("077", "crashes")
    assert row["detail"] == "its process ended with SIGSEGV"
    assert "looking for the image that does it" in done.stderr
    rows = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"{n:03}" for n in range(200) if n != 77]
    # The children's scores are those of this process.
    monkeypatch.setattr(evaluate, "CHILDREN_MIN_PAIRS", 10**9)
    done = call("evaluate", *sides, "--out", str(tmp_path / "here"))
    assert done.code == 0, done.stderr
    assert pq.read_table(tmp_path / "here" / "images.parquet").to_pylist() == rows
