"""Stage 2 on real gloo ranks: results do not depend on the number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from label_shards import write_labels
from processes import pack, run_ranks, start_ranks
from safetensors.torch import load_file

from a2s.data.index import Index
from a2s.labels.store.generations import Generation

WORLDS = (1, 2, 3)


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images in shards of three: with batches of six, four lanes of the last are padding."""
    return pack(scenes.train, tmp_path_factory.mktemp("ranks2") / "data")


@pytest.fixture(scope="module")
def labels(data: Path) -> Path:
    return write_labels(data, data.parent / "labels")


def arguments(data: Path, out: Path, **changed: object) -> list[str]:
    settings = {
        "encoder.name": "mobilenet_v2",
        "image-size": 64,
        "batch-size": 6,
        "epochs": 2,
        "warm-epochs": 0,
        "lr": 0,
        "encoder-lr-scale": 1,
        "weight-decay": 0,
        "log-every": 1,
        "loader-workers": 0,
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    flags = [item for name, value in settings.items() for item in (f"--{name}", str(value))]
    data, labels, out = (str(path) for path in (data, data.parent / "labels", out))
    return ["stage2", "--data", data, "--labels", labels, "--out", out, *flags]


@pytest.fixture(scope="module")
def runs(data: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two epochs with learning rate 0: weights stay constant, labels and momentum change."""
    root = tmp_path_factory.mktemp("worlds2")
    for world in WORLDS:
        # Ranks have their own working and temporary folders; they share --data, --labels, --out.
        own = [{"TMPDIR": str(root / f"tmp-{world}-{rank}")} for rank in range(world)]
        for variables in own:
            Path(variables["TMPDIR"]).mkdir()
        folders = [Path(variables["TMPDIR"]) for variables in own]
        done = run_ranks(
            arguments(data, root / f"out{world}"), world=world, variables=own, folders=folders
        )
        assert [rank.code for rank in done] == [0] * world, [rank.stderr for rank in done]
        assert sum("stage2: wrote" in rank.stdout for rank in done) == 1
    return {world: root / f"out{world}" for world in WORLDS}


def stored(run: Path, number: int, data: Path) -> dict[str, np.ndarray]:
    index, generation = Index.load(data), Generation.load(run / "labels", number)
    return {index.key(row): generation.read_u16(row) for row in range(len(index))}


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("number", [1, 2])
def test_labels_are_bit_equal_with_learning_rate_0(
    runs: dict[int, Path], data: Path, world: int, number: int
) -> None:
    one, many = stored(runs[1], number, data), stored(runs[world], number, data)
    assert len(one) == 8
    assert one.keys() == many.keys()
    rectified = [key for key, label in one.items() if np.unique(label).size > 100]
    # Labels of images of which the first epoch saw a window are copies.
    assert 2 <= len(rectified) < 8 if number == 1 else len(rectified) == 8, rectified
    for key, label in one.items():
        assert (many[key] == label).all(), key


@pytest.mark.parametrize("world", WORLDS[1:])
def test_gradients_do_not_depend_on_the_number_of_ranks(runs: dict[int, Path], world: int) -> None:
    """With constant weights, the momentum is a sum of the gradients of all steps."""

    def momentum(run: Path):
        return load_file(run / "checkpoints" / "00002" / "optimizer.safetensors")

    one, many = momentum(runs[1]), momentum(runs[world])
    assert one.keys() == many.keys()
    assert len(one) > 150
    scale = max(tensor.abs().max() for tensor in one.values())
    assert scale > 1e-3, "no gradient, nothing compared"
    for name, expected in one.items():
        assert (many[name] - expected).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("world", WORLDS[1:])
def test_global_batches_do_not_depend_on_the_number_of_ranks(
    runs: dict[int, Path], world: int
) -> None:
    """Losses and label statistics per step are those of the same images."""

    def lines(run: Path) -> list[list[float]]:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        names = ("epoch", "step", "bce", "ssim", "iou", "foreground_share", "label_flip_share")
        return [[record[name] for name in names] for record in records]

    assert len(lines(runs[1])) == 4
    assert np.allclose(lines(runs[world]), lines(runs[1]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_final_label_shards_are_the_same_files(runs: dict[int, Path], world: int) -> None:
    names = sorted(path.name for path in (runs[1] / "rectified").iterdir())
    assert len(names) == 9
    for name in names:
        one, many = (runs[w] / "rectified" / name for w in (1, world))
        assert one.read_bytes() == many.read_bytes(), name


@pytest.mark.slow
def test_after_a_trained_epoch_labels_differ_by_rounding_only(
    data: Path, labels: Path, tmp_path: Path
) -> None:
    trained = {"lr": 0.005, "epochs": 1}
    for world in WORLDS:
        done = run_ranks(arguments(data, tmp_path / f"out{world}", **trained), world=world)
        assert [rank.code for rank in done] == [0] * world, [rank.stderr for rank in done]
    one = stored(tmp_path / "out1", 1, data)
    for world in WORLDS[1:]:
        many = stored(tmp_path / f"out{world}", 1, data)
        error = max(np.abs(many[key].astype(int) - one[key]).max() for key in one)
        assert error / 65534 <= 1e-3


def test_killed_in_mid_epoch_and_resumed_with_another_number_of_ranks(
    runs: dict[int, Path], data: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # Two commits per epoch, so the third is in the middle of the second epoch.
    changed = {"commit_every": 1}
    processes = start_ranks(arguments(data, out, **changed), world=2, hold_at="commits/00003.json")
    processes[0].wait_until_held()
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()
    assert json.loads((out / "commits" / "00003.json").read_text())["state"]["step"] == 1
    done = run_ranks(arguments(data, out, **changed), world=3)
    assert [rank.code for rank in done] == [0, 0, 0], [rank.stderr for rank in done]
    for key, label in stored(runs[1], 2, data).items():
        assert (stored(out, 2, data)[key] == label).all(), key
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if step["epoch"] == 2][-1] == 2
