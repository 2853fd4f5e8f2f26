"""Stage 2 as one process: what is learnt from, what is left out, what is refused."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from label_shards import MISSING, UNREADABLE, write_labels
from processes import call, pack, run_ranks

from a2s.data.index import Index
from a2s.errors import LabelError
from a2s.labels.store.reader import read_unlabelled
from a2s.models import saved
from a2s.storage import checkpoints
from a2s.training.stage2_loss import LOSS_OF, micro_batches

ODD = {1: MISSING, 6: UNREADABLE}
PAPERS = LOSS_OF["ram"].per_image


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("stage2") / "data")


@pytest.fixture(scope="module")
def labels(data: Path) -> Path:
    return write_labels(data, data.parent / "labels", odd=ODD)


def arguments(data: Path, labels: Path, out: Path, *extra: str) -> list[str]:
    flags = "--encoder.name mobilenet_v2 --image-size 32 --batch-size 4 --loader-workers 0"
    return [
        *("stage2", "--data", str(data), "--labels", str(labels), "--out", str(out)),
        *("--max-failure-rate", "0.2"),
        *(*flags.split(), *extra),
    ]


@pytest.fixture(scope="module")
def warm(data: Path, labels: Path) -> Path:
    """A run that never leaves the warm epochs."""
    out = data.parent / "warm"
    done = call(*arguments(data, labels, out, "--epochs", "1", "--log-every", "1"))
    assert done.code == 0, done.stderr
    assert "6 images, 2 left out (unlabelled.jsonl)" in done.stderr
    assert f"next: a2s predict --model {out} IMAGES" in done.stdout
    return out


def test_images_without_a_usable_label_are_listed(data: Path, warm: Path) -> None:
    index = Index.load(data)
    lines = [json.loads(line) for line in (warm / "unlabelled.jsonl").read_text().splitlines()]
    found = {line["key"]: line["reason"] for line in lines}
    assert found == {index.key(1): "no_label", index.key(6): "unreadable_label"}


@pytest.mark.parametrize("change", [(b'"key": "', b'"key": "x'), (b'"no_label"', b'"no_labul"')])
def test_a_damaged_list_leaves_out_no_other_image(
    warm: Path, tmp_path: Path, data: Path, change: tuple[bytes, bytes]
) -> None:
    """A key that is not there has the row -1, which is that of the last image."""
    listed = (warm / "unlabelled.jsonl").read_bytes()
    (tmp_path / "unlabelled.jsonl").write_bytes(listed.replace(*change))
    with pytest.raises(LabelError, match=r"unlabelled\.jsonl is damaged"):
        read_unlabelled(tmp_path, Index.load(data))


def test_labels_without_an_image_are_counted(scenes, labels: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(scenes.train.iterdir())[:4]:
        (few / path.name).symlink_to(path)
    part = pack(few, tmp_path / "part")
    done = call(*arguments(part, labels, tmp_path / "out", "--epochs", "1"))
    assert done.code == 0, done.stderr
    have = len(Index.load(labels)) - int(
        (Index.load(labels).rows_of(Index.load(part).keys) >= 0).sum()
    )
    assert f"{have} labels of {labels} have no image in {part}" in done.stderr


def test_without_rectification_the_labels_are_passed_on(
    data: Path, labels: Path, warm: Path
) -> None:
    data_index = Index.load(data)
    assert not list((warm / "labels").iterdir())
    before, after = Index.load(labels), Index.load(warm / "rectified")
    assert len(after) == 6
    for row in range(len(after)):
        assert after.read(row) == before.read(int(before.rows_of([after.key(row)])[0]))
    assert (after.column("changed_share") == 0).all()
    same = data_index.rows_of(after.keys)
    assert (after.width_N == data_index.width_N[same]).all()
    assert (after.height_N == data_index.height_N[same]).all()


def test_what_a_step_reports(warm: Path) -> None:
    lines = [json.loads(line) for line in (warm / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 1), (1, 2)]
    fields = {"loss", "images_per_sec", "data_wait_share", "lr", "peak_memory_mib"}
    assert fields | set(LOSS_OF["ram"].measured) <= lines[0].keys()
    parts = [lines[0][name] for name in LOSS_OF["ram"].parts]
    assert lines[0]["loss"] == pytest.approx(sum(parts), abs=5e-6)
    assert all(line["label_flip_share"] == 0 for line in lines)


def test_a_finished_run_says_so_fast_and_refuses_other_settings(
    data: Path, labels: Path, warm: Path
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    (done,) = run_ranks(arguments(data, labels, warm, "--epochs", "1"), world=1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.code == 0
    # Processor time, so that a busy machine does not matter; torch alone would take longer.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    assert "is done (1 epochs)" in done.stdout
    done = call(*arguments(data, labels, warm, "--epochs", "1", "--lam", "0.5"))
    assert done.code == 2
    assert "lam: 0.4 there, 0.5 now" in done.stderr


def test_the_model_can_be_loaded_and_is_the_one_that_was_trained(warm: Path) -> None:
    model, metadata = saved.load_model(warm)
    assert metadata["image_size"] == "32"
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_a_loss_that_is_not_finite_updates_nothing(
    data: Path, labels: Path, tmp_path: Path
) -> None:
    """A learning rate that is far too high: the second step cannot be finite."""
    extra = ("--lr", "1e30", "--encoder-lr-scale", "1", "--epochs", "1", "--commit-every", "1")
    done = call(*arguments(data, labels, tmp_path / "out", *extra))
    assert done.code == 2
    assert "not finite at epoch 1 step 2" in done.stderr
    listed = json.loads((tmp_path / "out" / "nonfinite" / "epoch-1-step-2.json").read_text())
    assert len(listed["batch"]) == 3
    assert set(listed["not_finite"]) <= set(listed["batch"])
    assert [path.name for path in (tmp_path / "out" / "commits").iterdir()] == ["00001.json"]


def test_no_label_at_all_is_an_error(data: Path, tmp_path: Path) -> None:
    nothing = write_labels(data, tmp_path / "labels", odd=dict.fromkeys(range(8), UNREADABLE))
    done = call(*arguments(data, nothing, tmp_path / "out"))
    assert done.code == 2
    assert "none of the 8 images has a usable label" in done.stderr


def test_images_in_the_place_of_labels_are_an_error(data: Path, tmp_path: Path) -> None:
    done = call(*arguments(data, data, tmp_path / "out"))
    assert done.code == 2
    assert f"{data} holds images, not labels" in done.stderr


def test_batchnorm_that_trains_sees_the_whole_batch(
    data: Path, labels: Path, tmp_path: Path
) -> None:
    # At 32 px the last tap has one pixel: a batch of one would have no variance there.
    command = arguments(data, labels, tmp_path / "s2", "--epochs", "1", "--batchnorm", "train")
    finished = call(*command)
    assert finished.code == 0, finished.stderr
    parts = micro_batches(5, device=torch.device("cpu"), batchnorm="train")
    assert parts == [slice(0, 5)]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_bad_step_that_is_read_late_leaves_no_trace(
    data: Path, labels: Path, tmp_path: Path, stage: str
) -> None:
    """Its epoch is not committed, and the first bad step is the one that is named."""
    out = tmp_path / "out"
    if stage == "stage2":
        command = arguments(data, labels, out, "--lr", "1e30", "--encoder-lr-scale", "1")
        command += ["--warm-epochs", "0"]
    else:
        command = ["stage1", "--data", str(data), "--out", str(out), "--lr", "1e38"]
        command += ["--encoder.name", "mobilenet_v2", "--image-size", "32", "--cache-gib", "0"]
        command += ["--loader-workers", "0"]
    done = call(*command, "--batch-size", "2", "--epochs", "1")
    assert done.code == 2
    assert "not finite at epoch 1 step 2;" in done.stderr
    assert [path.name for path in (out / "nonfinite").iterdir()] == ["epoch-1-step-2.json"]
    assert checkpoints.last_commit(out) is None
    assert not list((out / "labels").rglob("generation-*")) or stage == "stage1"


@pytest.mark.parametrize("world", [1, 2])
def test_damaged_labels_over_the_limit_stop_training_before_it_begins(
    data: Path, tmp_path: Path, world: int
) -> None:
    labels, out = write_labels(data, tmp_path / "labels"), tmp_path / "out"
    index, tar = Index.load(labels), labels / "shard-000000.tar"
    whole = tar.read_bytes()
    at = int(index.offset_N[2]) + 20
    tar.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    flags = ("--epochs", "1", "--max-failure-rate", "0.1")
    done = run_ranks(arguments(data, labels, out, *flags), world=world)
    assert [rank.code for rank in done] == [3] * world
    assert f"1 of 8 labels are damaged ({index.key(2)}), over the limit of 10.00%" in done[0].stdout
    assert not (out / "commits").exists()
    # Below the limit the label is left out, and named.
    lax = call(*arguments(data, labels, tmp_path / "lax", "--epochs", "1"))
    assert lax.code == 0, lax.stderr
    assert f"1 of 8 labels are damaged ({index.key(2)}) and left out" in lax.stderr
    # The same command goes on with repaired labels.
    tar.write_bytes(whole)
    done = run_ranks(arguments(data, labels, out, *flags), world=world)
    assert [rank.code for rank in done] == [0] * world
    assert (out / "unlabelled.jsonl").read_text() == ""
