"""An image that kills its Ray worker is left out by `export` and `hma`, and the rest is done.

The other commands: test_crashing_image.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crashing_codec import KILL_WORKER, plant
from export_run import written
from label_shards import write_labels
from processes import Finished, call, pack

from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.labels.store.generations import Generation
from a2s.labels.store.reader import resize
from a2s.parallel import pool
from a2s.storage import checkpoints

SIDE, DEADLY = 32, 3
"""Of the network; the row of the image at fault."""


class Case:
    """Data with an image that kills, its labels, a run of stage 2 that waits, and references."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.labels = root, root / "data", root / "labels"
        self.run, self.out = root / "run", root / "out"

    def stage2(self) -> Finished:
        network = ("--encoder.name", "mobilenet_v2", "--image-size", SIDE, "--batch-size", 4)
        return call(
            *("stage2", "--data", self.data, "--labels", self.labels, "--out", self.run),
            *(*network, "--loader-workers", 0, "--epochs", 2, "--warm-epochs", 0),
            *("--rectify", "hma"),
        )

    def hma(self, run: Path, workers: int, *more: object) -> Finished:
        both = ("--data", self.data, "--labels", self.labels)
        return call("hma", "--run", run, *both, "--workers", workers, *more)

    def export(self, form: str, out: Path, workers: int) -> Finished:
        common = ("--data", self.data, "--format", form, "--out", out)
        return call("export", self.labels, *common, "--workers", workers)


@pytest.fixture(scope="module")
def case(scenes, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Everything that is made where nothing kills."""
    case = Case(tmp_path_factory.mktemp("killing"))
    shutil.copytree(scenes.train, case.root / "images")
    path = sorted((case.root / "images").iterdir())[DEADLY]
    path.write_bytes(path.read_bytes() + KILL_WORKER)
    pack(case.root / "images", case.data)
    write_labels(case.data, case.labels)
    assert KILL_WORKER in Index.load(case.data).read(DEADLY)
    done = case.stage2()
    assert done.code == 0, done.stderr
    shutil.copytree(case.run, case.root / "whole")
    done = case.hma(case.root / "whole", 0)
    assert done.code == 0, done.stderr
    for form in ("coco", "hf"):
        assert case.export(form, case.root / form, 0).code == 0
    return case


@pytest.fixture(scope="module")
def deadly(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """From now on the image kills."""
    with pytest.MonkeyPatch.context() as patch:
        plant(tmp_path_factory.mktemp("site"), patch)
        yield


@pytest.fixture(scope="module")
def ray(deadly: None) -> Iterator[None]:
    """Two workers that obey."""
    with pool.session(workers=2):
        yield


def check_search(done: Finished) -> None:
    assert "looking for the image that does it" in done.stderr
    # The whole task twice; parts of it; then the image with nothing beside it.
    assert done.stderr.count("its worker process died") >= 4
    assert "the image is left out" in done.stderr


def failures(folder: Path) -> list[tuple[str, str]]:
    listed = map(json.loads, (folder / "failures.jsonl").read_text().splitlines())
    return [(row["key"], row["reason"]) for row in listed]


def test_hma_over_the_limit_changes_nothing(case: Case, deadly: None, tmp_path: Path) -> None:
    """Without Ray only the decoder of the image is killed."""
    run = tmp_path / "run"
    shutil.copytree(case.run, run)
    before = checkpoints.last_commit(run)
    done = case.hma(run, 0)
    assert done.code == 3, done.stderr
    assert "1 of 8 images failed, over the limit of 1.00%" in done.stdout
    assert failures(run) == [(Index.load(case.data).key(DEADLY), "memory")]
    assert checkpoints.last_commit(run) == before
    assert not list((run / "labels").glob("generation-*"))
    # What is done stays done, and the rest comes when the image can be read.
    done = case.hma(run, 0, "--max-failure-rate", 0.2)
    assert done.code == 0, done.stderr
    assert len(list((run / "labels" / "00001").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("form", ["coco", "hf"])
def test_export_leaves_it_out(case: Case, ray: None, tmp_path: Path, form: str) -> None:
    done = case.export(form, tmp_path / "out", 2)
    assert done.code == 3, done.stderr
    check_search(done)
    index = Index.load(case.data)
    assert failures(tmp_path / "out") == [(index.key(DEADLY), "crashes")]
    assert "1 of 8 labels failed" in done.stderr
    lines = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    whole = (case.root / form / "labels.jsonl").read_text().splitlines()
    assert lines == whole[:DEADLY] + whole[DEADLY + 1 :]
    if form == "coco":
        images = {name: data for name, data in written(case.root / form).items() if "." in name}
        images = {name: data for name, data in images.items() if name.startswith("images/")}
        made = {name: data for name, data in written(tmp_path / "out").items() if name in images}
        assert len(made) == 7
        assert made.items() <= images.items()


@pytest.mark.slow
def test_hma_leaves_its_label_as_it_was(case: Case, ray: None, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(case.run, run)
    done = case.hma(run, 2, "--max-failure-rate", 0.2)
    assert done.code == 0, done.stderr
    check_search(done)
    assert "1 of 8 images failed and keep their labels" in done.stdout
    index = Index.load(case.data)
    assert failures(run) == [(index.key(DEADLY), "crashes")]
    for store in ("labels", "averages"):
        made = Generation.load(run / store, 1)
        whole = Generation.load(case.root / "whole" / store, 1)
        assert made.has_label_N.all()
        same = [np.array_equal(made.read_u16(n), whole.read_u16(n)) for n in range(len(index))]
        assert same == [row != DEADLY for row in range(len(index))]
        assert np.abs(made.read(DEADLY) - first_label(case)).max() < 1e-4


def first_label(case: Case) -> np.ndarray:
    mask_HW = decode_mask(Index.load(case.labels).read(DEADLY)).astype(np.float32) / np.float32(255)
    return resize(mask_HW, height=SIDE, width=SIDE)
