"""Stage 1 with several heads, from labels or without, on real gloo ranks; its resume and gate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from label_shards import write_labels
from processes import call, pack, run_ranks
from safetensors import safe_open
from safetensors.torch import load_file

from a2s.storage import checkpoints

WORLDS = (1, 2)
STEPS_PER_EPOCH = 2
NUM_HEADS = {"labels": 4, "without": 3}


def arguments(data: Path, out: Path, *flags: str) -> list[str]:
    common = (
        "--encoder.name mobilenet_v2 --image-size 96 --batch-size 6 --epochs 2 --weight-decay 0 "
        "--fusion-stride 8 --commit-every 1 --log-every 1 --loader-workers 0 --min-agreement 0"
    )
    return [
        *("stage1", "--data", str(data), "--out", str(out)),
        *("--cache-dir", str(data.parent / "cache"), *common.split(), *flags),
    ]


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images: two batches of six an epoch, the second of which lacks four."""
    return pack(scenes.train, tmp_path_factory.mktemp("heads") / "data")


@pytest.fixture(scope="module")
def labels(data: Path) -> Path:
    return write_labels(data, data.parent / "labels")


@pytest.fixture(scope="module")
def runs(
    data: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], Path]:
    root = tmp_path_factory.mktemp("runs")
    ways = {"labels": ("--labels", str(labels)), "without": ("--heads", "3", "--lr", "0.1")}
    found = {}
    for name, flags in ways.items():
        for world in WORLDS:
            out = root / f"{name}{world}"
            done = run_ranks(arguments(data, out, *flags), world=world)
            assert [rank.code for rank in done] == [0] * world, [rank.stderr for rank in done]
            found[name, world] = out
    return found


def tensors(run: Path, name: str, commit: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{commit:05d}" / f"{name}.safetensors")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("way", ["labels", "without"])
def test_results_do_not_depend_on_the_number_of_ranks(
    runs: dict[tuple[str, int], Path], way: str
) -> None:
    one, two = (runs[way, world] for world in WORLDS)
    losses = [[line["loss"] for line in lines(run) if "loss" in line] for run in (one, two)]
    assert len(losses[0]) == 2 * STEPS_PER_EPOCH
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    kept = [next(line for line in lines(run) if line.get("event") == "heads") for run in (one, two)]
    assert kept[0]["kept"] == kept[1]["kept"] == list(range(NUM_HEADS[way]))
    assert kept[1]["agreement"] == pytest.approx(kept[0]["agreement"], abs=5e-3)
    momenta = [tensors(run, "optimizer", 3) for run in (one, two)]
    scale = max(float(tensor.abs().max()) for tensor in momenta[0].values())
    assert scale > 1e-4, "no gradient, nothing compared"
    heads = {name.split("/")[1].split(".")[1] for name in momenta[0]}
    assert heads == set(map(str, range(NUM_HEADS[way])))
    for name, expected in momenta[0].items():
        assert float((momenta[1][name] - expected).abs().max()) <= 1e-3 * scale, name


@pytest.mark.parametrize("way", ["labels", "without"])
def test_a_resumed_last_epoch_compares_heads_as_an_uninterrupted_one(
    runs: dict[tuple[str, int], Path], data: Path, labels: Path, tmp_path: Path, way: str
) -> None:
    whole, again = runs[way, 1], tmp_path / "again"
    shutil.copytree(whole, again)
    (again / "commits" / "00004.json").unlink()
    shutil.rmtree(again / "checkpoints" / "00004")
    assert checkpoints.last_commit(again).state["step"] == 1
    flags = ("--labels", str(labels)) if way == "labels" else ("--heads", "3", "--lr", "0.1")
    assert call(*arguments(data, again, *flags)).code == 0
    found, expected = (tensors(run, "model", 4) for run in (again, whole))
    assert "agreement_2KK" in expected
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_model_says_which_heads_vote(runs: dict[tuple[str, int], Path]) -> None:
    for commit, kept in ((3, None), (4, "0,1,2,3")):
        path = runs["labels", 1] / "checkpoints" / f"{commit:05d}" / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        assert metadata.get("kept_heads") == kept
        assert metadata["label_heads"] == "2"
        assert (metadata["heads"], metadata["boundary"]) == ("4", "adb")
        assert (metadata["frame"], metadata["boundary_frame"]) == ("64", "0")


def test_without_a_majority_nothing_looks_finished(
    data: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_ranks(arguments(data, out, "--labels", str(labels), "--min-agreement", "1"), world=2)
    assert [rank.code for rank in done] == [2, 2]
    errors = [line for rank in done for line in rank.stderr.splitlines() if "a2s: " in line]
    assert len(errors) == 1
    assert "no majority of the 4 heads agrees" in errors[0]
    commit = checkpoints.last_commit(out)
    assert commit is not None
    assert not commit.state["finished"]
    made = call(*("label", "--model", out, "--data", data, "--out", tmp_path / "made"))
    assert made.code == 2
    assert "of an unfinished training, whose heads have not been compared" in made.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--parity.boundary db2", "are for training without labels"),
        ("--compile", "needs maps of one size; give --crops 0"),
        ("--frame 20", "frame"),
        ("--boundary-frame 20", "boundary_frame"),
        ("--label-heads 5", "at least one of the 4 heads learns from them, not 5"),
        ("--label-heads 0", "at least one of the 4 heads learns from them, not 0"),
    ],
)
def test_settings_that_do_not_go_with_labels(
    data: Path, labels: Path, tmp_path: Path, flags: str, says: str
) -> None:
    done = call(*arguments(data, tmp_path / "x", "--labels", str(labels), *flags.split()))
    assert done.code == 2
    assert says in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_single_head_learns_from_labels(data: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    done = call(*arguments(data, out, "--labels", str(labels), "--heads", "1", "--epochs", "1"))
    assert done.code == 0, done.stderr
    with safe_open(out / "checkpoints/00002/model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["heads"], metadata["label_heads"], metadata["kept_heads"]) == ("1", "1", "0")


def test_images_are_no_labels(data: Path, tmp_path: Path) -> None:
    done = call(*arguments(data, tmp_path / "x", "--labels", str(data)))
    assert done.code == 2
    assert "holds images, not labels" in done.stderr
