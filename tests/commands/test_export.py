"""`a2s export` as a job: decisions, limits, failures, other people's files, kill and resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import held
import numpy as np
import pytest
from export_run import Folders, arguments, export, write_folders, written
from processes import call, environment
from repository import REPO

from a2s.data.images import decode_mask, encode_png
from a2s.labels.export import job
from a2s.labels.review import Decision, append_decisions, now

SMALL_CHUNKS = """
import sys
import held
held.install()
import a2s.commands.export as command
import a2s.labels.export.job as job
from a2s.__main__ import run

command.CHUNK_LABELS = job.CHUNK_LABELS = 10
run(sys.argv[1:])
"""
FORMATS = ("coco", "yolo", "voc", "labelstudio", "cvat", "hf", "fiftyone", "png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_folders(tmp_path_factory.mktemp("export"))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_decisions_of_a_reviewer_count(tmp_path: Path) -> None:
    folders = write_folders(tmp_path)
    keys = list(folders.masks)
    fixed_HW = ~folders.masks[keys[2]]
    png = encode_png(fixed_HW.astype(np.uint8) * np.uint8(255))
    append_decisions(
        folders.labels,
        [
            Decision(keys[0], "rejected", None, now()),
            Decision(keys[1], "accepted", None, now()),
            Decision(keys[2], "fixed", png, now()),
        ],
    )
    out = tmp_path / "out"
    done = export(folders, out, "png", "--min-quality", 0.5)
    assert done.code == 0
    assert "1 labels rejected by a reviewer are left out" in done.stdout
    # The qualities of the first three are below, too; a person decided about them.
    assert "2 labels below --min-quality are left out" in done.stdout
    listed = lines(out / "labels.jsonl")
    assert [one["key"] for one in listed] == keys[1:3] + keys[5:]
    assert [one["review"] for one in listed[:3]] == ["accepted", "fixed", "none"]
    assert "quality" not in listed[1]
    (mask,) = out.glob(f"masks/{listed[1]['image'].rsplit('.', 1)[0]}.png")
    assert (decode_mask(mask.read_bytes()) == fixed_HW * 255).all()
    reasons = [one["reason"] for one in lines(out / "left_out.jsonl")]
    assert reasons == ["rejected", "low_quality", "low_quality"]
    # Another decision is another export.
    append_decisions(folders.labels, [Decision(keys[3], "rejected", None, now())])
    again = export(folders, out, "png", "--min-quality", 0.5)
    assert again.code == 2
    assert "inputs.decisions: its content is not what it was" in again.stderr


def test_the_same_command_again_says_done_and_other_settings_are_refused(
    folders: Folders, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert export(folders, out, "coco").code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}
    again = export(folders, out, "coco")
    assert (again.code, "done already" in again.stdout) == (0, True)
    unchanged = {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}
    assert before.pop(out / "environment.json") != unchanged.pop(out / "environment.json")
    assert unchanged == before
    other = export(folders, out, "coco", "--polygons")
    assert other.code == 2
    assert "polygons: False there, True now" in other.stderr
    assert "export" in call("status", out).stdout


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_others_are_never_replaced(form: str, folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    done = export(folders, out, form)
    assert done.code == 2
    assert "holds files of others (mine.txt)" in done.stderr
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("coco", "instances.json"),
        ("coco", "images/a/ring.jpg"),
        ("yolo", "labels/a/ring.txt"),
        ("hf", "data/train-00000-of-00001.parquet"),
        ("png", "labels.jsonl"),
        ("png", "export.json"),
    ],
)
def test_a_file_that_somebody_put_there_meanwhile_stays(
    form: str, file: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    begun = job.export_all

    def interrupted(*arguments: object, **others: object) -> object:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text("mine")
        return begun(*arguments, **others)

    monkeypatch.setattr("a2s.commands.export.export_all", interrupted)
    done = export(folders, out, form)
    assert done.code == 2
    assert f"would replace ({file})" in done.stderr
    assert (out / file).read_text() == "mine"


def test_labels_that_fail_are_listed_and_tried_again(tmp_path: Path) -> None:
    folders = write_folders(tmp_path / "whole")
    other = write_folders(tmp_path / "part", {"a/ring": folders.masks["a/ring"][:, :20]})
    tar = folders.labels / "shard-000001.tar"
    intact = tar.read_bytes()
    position = intact.index(b"IDAT") + 8
    tar.write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
    out = tmp_path / "out"
    done = export(folders, out, "coco")
    assert done.code == 3
    assert "1 of 9 labels failed (11.11%)" in done.stderr
    (problem,) = lines(out / "failures.jsonl")
    assert problem["reason"] == "damaged"
    assert export(folders, out, "coco", "--max-failure-rate", 0.2).code == 0
    tar.write_bytes(intact)
    assert export(folders, out, "coco").code == 0
    assert lines(out / "failures.jsonl") == []
    export(folders, tmp_path / "once", "coco")
    assert written(out) == written(tmp_path / "once")
    # Data that lack images, or have others under these names.
    odd = Folders(other.data, folders.labels, folders.masks, folders.quality)
    assert export(odd, tmp_path / "odd", "png").code == 3
    reasons = [one["reason"] for one in lines(tmp_path / "odd" / "failures.jsonl")]
    assert sorted(set(reasons)) == ["no_image", "wrong_size"]
    none = write_folders(tmp_path / "none", {"x": folders.masks["a/ring"]})
    odd = Folders(none.data, folders.labels, folders.masks, folders.quality)
    refused = export(odd, tmp_path / "none" / "out", "png")
    assert (refused.code, "has none of the images" in refused.stderr) == (2, True)


def test_images_without_a_label_are_counted(folders: Folders, tmp_path: Path) -> None:
    some = write_folders(tmp_path / "some", {"a/ring": folders.masks["a/ring"]})
    both = Folders(folders.data, some.labels, some.masks, some.quality)
    done = export(both, tmp_path / "out", "png")
    assert done.code == 0
    assert f"export: 8 images of {folders.data} have no label" in done.stderr
    assert "have no label" not in export(folders, tmp_path / "all", "png").stderr


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("yolo", "--polygons"), "polygons: yolo has no choice"),
        (("hf", "--no-images"), "images: hf is nothing without them"),
        (("coco", "--image-root", "x"), "image_root: coco names images by their path"),
        (("tfrecord",), "format"),
    ],
)
def test_what_a_format_does_not_know_is_refused(flags, why, folders, tmp_path: Path) -> None:
    done = export(folders, tmp_path / "out", *flags)
    assert done.code == 2
    assert why in done.stderr
    assert not (tmp_path / "out").exists()


def test_labels_without_quality_have_no_threshold(folders: Folders, tmp_path: Path) -> None:
    from label_shards import write_labels

    labels = write_labels(folders.data, tmp_path / "labels")
    plain = Folders(folders.data, labels, folders.masks, {})
    refused = export(plain, tmp_path / "out", "png", "--min-quality", 0.1)
    assert refused.code == 2
    assert "has no quality numbers" in refused.stderr
    assert export(plain, tmp_path / "out", "coco").code == 0
    assert "quality" not in lines(tmp_path / "out" / "labels.jsonl")[0]


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_that_is_too_long_is_listed(form: str, tmp_path: Path) -> None:
    mask_HW = np.ones((3, 4), bool)
    folders = write_folders(tmp_path, {"x" * 255: mask_HW, "y": mask_HW, "y.jpg/z": mask_HW})
    done = export(folders, tmp_path / "out", form)
    names = {one["key"] for one in lines(tmp_path / "out" / "failures.jsonl")}
    assert names <= {"x" * 255, "y", "y%2Ejpg/z"}
    assert done.code == (3 if names else 0)
    assert ("x" * 255 in names) == (form != "hf")
    whole = {path for path in written(tmp_path / "out") if "x" * 255 in path}
    assert not whole


@pytest.mark.parametrize(
    "form", ["coco", *(pytest.param(form, marks=pytest.mark.slow) for form in ("hf", "voc"))]
)
def test_kill_9_anywhere_then_the_same_command_gives_the_same_files(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    masks = {f"{n % 7}/{n:03d}": generator.random((40, 50)) < 0.5 for n in range(60)}
    folders = write_folders(tmp_path, masks, shard_size=25)
    monkeypatch.setattr(job, "CHUNK_LABELS", 10)
    monkeypatch.setattr("a2s.commands.export.CHUNK_LABELS", 10)
    assert export(folders, tmp_path / "once", form, "--instances").code == 0
    expected = written(tmp_path / "once")
    out = tmp_path / "killed"
    for target in ("000000.begun", "000002.json", "000004.begun"):
        path = f"{REPO}:{REPO}/tests/helpers"
        child = subprocess.Popen(
            [sys.executable, "-c", SMALL_CHUNKS, *arguments(folders, out, form), "--instances"],
            env=environment(PYTHONPATH=path, **held.variables(target, tmp_path)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        held.wait_until_held(child, tmp_path)
        child.kill()
        (tmp_path / "held").unlink()
        child.wait(timeout=30)
        assert not (out / "export.json").exists()
    assert export(folders, out, form, "--instances").code == 0
    assert written(out) == expected


@pytest.mark.slow
def test_ray_workers_write_what_one_process_writes(folders: Folders, tmp_path: Path) -> None:
    export(folders, tmp_path / "one", "yolo")
    done = call(*arguments(folders, tmp_path / "two", "yolo", workers=2))
    assert done.code == 0, done.stderr
    assert written(tmp_path / "two") == written(tmp_path / "one")
