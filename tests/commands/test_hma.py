"""Training and `a2s hma` in turns, on real photographs; killed, repeated, with and without Ray."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_average_run import (
    EPOCHS,
    SIDE,
    UNLABELLED,
    WARM,
    Case,
    contents,
    pack_photographs,
    train_until_it_waits,
)
from processes import call, pack

from a2s.commands import status
from a2s.config.checks import StatusConfig
from a2s.config.run import RunConfig
from a2s.config.training import Stage2Options
from a2s.data.images import decode, decode_mask, resize_rgb
from a2s.data.index import Index
from a2s.data.shards import sealed
from a2s.data.transforms import normalise
from a2s.errors import A2SError
from a2s.labels.crf.backends import marginal_of
from a2s.labels.store.generations import Generation
from a2s.labels.store.reader import LabelSource, resize
from a2s.models import saved
from a2s.paper.hma import rule
from a2s.paper.hma.chunk import HmaPass, labelled_chunks, row_files, update_chunk
from a2s.parallel import pool
from a2s.pipeline import job_list


@pytest.fixture(scope="module")
def data(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_photographs(shared, tmp_path_factory.mktemp("hma"))


@pytest.fixture(scope="module")
def waiting(shared: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return train_until_it_waits(shared, data, tmp_path_factory.mktemp("waiting") / "run")


@pytest.fixture(scope="module")
def finished(waiting: Case, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The whole alternation, nothing interrupted."""
    case = waiting.copied(tmp_path_factory.mktemp("finished") / "run")
    for epoch in range(WARM + 1, EPOCHS + 1):
        done = case.averaging()
        assert done.code == 0, done.stderr
        assert f"epoch {epoch}: label generation {epoch - WARM} of 9 images" in done.stdout
        done = case.stage2()
        assert done.code == 0, done.stderr
    assert "(label generation 2)" in done.stdout
    return case


def test_a_generation_is_what_the_rule_makes_of_the_committed_model(
    waiting: Case, tmp_path: Path
) -> None:
    case = waiting.copied(tmp_path / "run")
    before = case.state()
    assert (before["epoch"], before["generation"], before["finished"]) == (2, 0, False)
    assert case.averaging().code == 0
    after = case.state()
    assert after == {**before, "commit": before["commit"] + 1, "generation": 1}

    compare_with_the_rule(case, generation=1, model_of=waiting.out)


def compare_with_the_rule(case: Case, *, generation: int, model_of: Path) -> None:
    index, labels = Index.load(case.data), Index.load(case.data.parent / "labels")
    store = case.out / "averages"
    start = LabelSource(labels, labels.rows_of(index.keys), store, SIDE, [generation - 1])
    averages = Generation.load(store, generation)
    made = Generation.load(case.out / "labels", generation)
    model, _ = saved.load_model(model_of)
    assert not made.has_label_N[UNLABELLED]
    assert made.has_label_N.sum() == averages.has_label_N.sum() == 9
    for row in np.flatnonzero(made.has_label_N).tolist():
        image = resize_rgb(decode(index.read(row)), height=SIDE, width=SIDE)
        with torch.no_grad():
            logits = model(normalise(torch.from_numpy(image).permute(2, 0, 1)[None]))
        marginal = marginal_of("numba")
        average, label = rule.update(
            image, logits.sigmoid()[0, 0].numpy(), start(row, 1), marginal=marginal
        )
        # BatchNorm folded into convolutions rounds otherwise; storage rounds to 1 / 131068.
        assert np.abs(averages.read(row) - average).max() < 1e-3
        assert np.abs(made.read(row) - label).mean() < 1e-3


def test_the_second_average_continues_the_first(finished: Case, tmp_path: Path) -> None:
    compare_with_the_rule(finished, generation=2, model_of=finished.out)
    case = finished.copied(tmp_path / "run")
    (case.out / "commits" / f"{case.state()['commit']:05d}.json").unlink()
    for name in ("generation-00001.json", "generation-00002.json"):
        (case.out / "averages" / name).unlink()
    shutil.rmtree(case.out / "labels" / "00002")
    done = case.averaging()
    assert done.code == 2
    assert "generation-00001.json" in done.stderr


def test_the_next_epoch_trains_on_the_new_labels(waiting: Case, finished: Case) -> None:
    index, labels = Index.load(waiting.data), Index.load(waiting.data.parent / "labels")
    old = LabelSource(labels, labels.rows_of(index.keys), waiting.out, SIDE, [0])
    new = Generation.load(finished.out / "labels", 1)
    rows = np.flatnonzero(new.has_label_N).tolist()
    shares = [float((new.read(row) > 0.5).mean()) for row in rows]
    assert any(((new.read(row) > 0.5) != (old(row, 1) > 0.5)).any() for row in rows)
    lines = [json.loads(line) for line in (finished.out / "metrics.jsonl").read_text().splitlines()]
    third = [line for line in lines if line.get("epoch") == 3 and "loss" in line]
    assert all(line["label_flip_share"] == 0 for line in third), "training leaves labels alone"
    # Nine images in four lanes of three steps: three valid ones in each step.
    logged = np.mean([line["foreground_share"] for line in third])
    assert logged == pytest.approx(np.mean(shares), abs=2e-6)


def test_the_last_generation_leaves_as_label_shards(finished: Case) -> None:
    index, rectified = Index.load(finished.data), Index.load(finished.out / "rectified")
    last = Generation.load(finished.out / "labels", EPOCHS - WARM)
    assert len(rectified) == 9
    for row in range(len(rectified)):
        source = int(index.rows_of([rectified.key(row)])[0])
        height, width = int(index.height_N[source]), int(index.width_N[source])
        expected = resize(last.read(source), height=height, width=width) > 0.5
        assert (decode_mask(rectified.read(row)) == np.where(expected, 255, 0)).all()
    again = finished.stage2()
    assert again.code == 0
    assert "is done" in again.stdout


def test_without_the_generation_training_is_refused(waiting: Case, tmp_path: Path) -> None:
    case = waiting.copied(tmp_path / "run")
    before = contents(case.out)
    done = case.stage2()
    assert done.code == 2
    assert f"waits for label generation 1; next: a2s hma --run {case.out}" in done.stderr
    # Who asked for no more than there is has nothing to complain about.
    done = case.stage2("--until-epoch", "2")
    assert done.code == 0
    assert "stops after epoch 2" in done.stdout
    assert "a2s hma" in done.stdout
    assert contents(case.out) == before


def test_twice_is_once(waiting: Case, finished: Case, tmp_path: Path) -> None:
    case = waiting.copied(tmp_path / "run")
    assert case.averaging().code == 0
    once, events = contents(case.out), case.events()
    done = case.averaging()
    assert done.code == 0
    assert "nothing to do" in done.stdout
    assert contents(case.out) == once
    assert case.events() == events
    assert finished.averaging().code == 0, "nor after the end"


@pytest.mark.slow
def test_ray_makes_the_same_bytes(waiting: Case, tmp_path: Path) -> None:
    here, there = waiting.copied(tmp_path / "here"), waiting.copied(tmp_path / "there")
    assert here.averaging().code == 0
    done = call(*there.averaging_arguments("--workers", "1"))
    assert done.code == 0, done.stderr
    assert contents(there.out) == contents(here.out)
    assert there.events()[-1]["workers"] == 1


def test_what_a_pass_logs_and_what_status_says(waiting: Case, finished: Case) -> None:
    passes = [event for event in finished.events() if event["event"] == "hma"]
    assert [(event["epoch"], event["generation"]) for event in passes] == [(2, 1), (3, 2)]
    for event in passes:
        assert event["wall_sec"] > 0
        assert event["num_images"] == event["num_new"] == 9
        assert event["stage_sec"].keys() == {"decode", "network", "crf", "write"}
        assert all(sec > 0 for sec in event["stage_sec"].values())
    assert said(waiting.out)[0].endswith("a2s stage2, paused")
    assert any("paused    next: a2s hma --run" in line for line in said(waiting.out))
    assert said(finished.out)[0].endswith("a2s stage2, finished")
    assert not any("problem" in line for line in said(finished.out))


def said(out: Path) -> list[str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status.run(StatusConfig(out=str(out)))
    return text.getvalue().splitlines()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_a_process_with_a_device_makes_the_same_labels(
    waiting: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """The half that a GPU has, on a CPU: threads read ahead, one at a time has the device."""
    here, there = waiting.copied(tmp_path / "here"), waiting.copied(tmp_path / "there")
    assert here.averaging("--backend", backend).code == 0
    monkeypatch.setattr(pool, "has_gpu", lambda address: True)
    assert there.averaging("--backend", backend).code == 0
    assert contents(there.out) == contents(here.out)


def test_who_is_refused(waiting: Case, data: Path, tmp_path: Path) -> None:
    def complaint(*changed: object) -> str:
        done = call(*case.averaging_arguments("--workers", "0", *changed))
        assert done.code == 2
        return done.stderr

    case = waiting.copied(tmp_path / "run")
    other = pack(data.parent / "photos", tmp_path / "other", shard_size=5)
    assert "is not what" in complaint("--data", other)
    assert "is not a run of a2s stage2 with rectify hma" in complaint("--run", tmp_path)
    labels = tmp_path / "labels"
    shutil.copytree(data.parent / "labels", labels)
    manifest = labels / "shard-000000.json"
    values = {**json.loads(manifest.read_text()), "data_sha256": "other"}
    manifest.write_text(json.dumps(sealed(values)))
    assert "(shard-000000 was made of other images, or" in complaint("--labels", labels)
    shutil.rmtree(case.out / "commits")
    assert "a2s stage2 comes first" in complaint()


def test_the_crf_stays_who_it_was(finished: Case, tmp_path: Path) -> None:
    case = finished.copied(tmp_path / "run")
    (case.out / "commits" / f"{case.state()['commit']:05d}.json").unlink()
    done = case.averaging("--backend", "torch")
    assert done.code == 2
    assert "began with numba" in done.stderr
    done = case.averaging("--backend", "numba")
    assert done.code == 0, done.stderr


def test_an_image_that_is_damaged_is_named(waiting: Case, tmp_path: Path) -> None:
    index = Index.load(waiting.data)
    broken = Index.load(shutil.copytree(waiting.data, tmp_path / "data"))
    tar = broken.shards[0].path
    data = bytearray(tar.read_bytes())
    start = int(index.offset_N[1])
    data[start + 40 : start + 60] = bytes(20)
    tar.write_bytes(data)
    keep_N = np.ones(len(index), bool)
    hma_pass = HmaPass(
        saved.SavedNetwork.find(waiting.out),
        saved.NetworkInput(SIDE),
        "numba",
        LabelSource(index, np.arange(len(index)), tmp_path, SIDE, [0]),
        tmp_path / "averages",
        tmp_path / "labels",
        1,
    )
    chunk = next(labelled_chunks(broken, keep_N))
    with pytest.raises(A2SError, match=index.key(1)):
        update_chunk(chunk, hma_pass)
    assert row_files(hma_pass, chunk) is None


def test_the_whole_job_takes_turns(tmp_path: Path) -> None:
    options = Stage2Options(rectify="hma", epochs=4, warm_epochs=2)
    jobs = job_list(RunConfig(images=("photos",), out=tmp_path, stage2=options))
    turns = [
        (job.command, job.settings.get("until_epoch"))
        for job in jobs
        if job.out == tmp_path / "stage2"
    ]
    assert turns == [("stage2", 3), ("hma", None), ("stage2", 4), ("hma", None), ("stage2", None)]
