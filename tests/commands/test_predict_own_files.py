"""`a2s predict` replaces no file of others, keeps in and out apart, adds what is missing."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from labelling_run import write_model
from pictures import RECORDS, photograph, pixels_of, results
from PIL import Image

from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.errors import ConfigError
from a2s.models import predict as networks


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    photograph().save(folder / "a.png")
    photograph(seed=1).save(folder / "sub" / "b.jpg")
    return folder


def run(*sources: Path, out: Path | None, **settings: Any) -> int:
    values = {"model": "rbd", "workers": 0, **settings}
    return predict.run(PredictConfig(images=tuple(map(str, sources)), out=out, **values))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_somebody_s_masks_are_neither_replaced_nor_adopted(images: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (64, 48), 255).save(masks / "a.png")
    before = contents(masks)
    # Older or newer than the images, they are no predictions.
    for seconds in (0, 2**31):
        os.utime(masks / "a.png", (seconds, seconds))
        with pytest.raises(ConfigError, match=r"1 files that this job did not write .*\(a\.png\)"):
            run(images, out=masks)
    # Not even a hidden file is left there.
    assert contents(masks) == before
    # Files with other names are in nobody's way.
    (masks / "a.png").rename(masks / "mine.png")
    assert run(images, out=masks) == 0
    assert results(masks) == {"mine.png", "a.png", "sub/b.png"}


@pytest.mark.parametrize("name", ["failures.jsonl", "written.txt", "environment.json"])
def test_records_of_something_else_are_not_replaced(
    images: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"holds {name} of something else"):
        run(images, out=tmp_path / "out")
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_masks_beside_the_results_of_an_earlier_run_are_safe(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(images / "a.png", out=out) == 0
    (out / "sub").mkdir()
    (out / "sub" / "b.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"sub/b\.png"):
        run(images, out=out)
    assert (out / "sub" / "b.png").read_bytes() == b"mine"
    # A link is somebody's file as well, also one that leads nowhere.
    (out / "sub" / "b.png").unlink()
    (out / "sub" / "b.png").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="did not write"):
        run(images, out=out)


def test_files_of_a_tar_are_looked_for_when_the_folder_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    photograph().save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    with pytest.raises(ConfigError, match="did not write"):
        run(tmp_path / "x.tar", out=tmp_path / "out", cutout=True)
    # No settings stay that would refuse another command.
    assert results(tmp_path / "out") == {"a.png"}
    assert not (tmp_path / "out" / "config.yaml").exists()
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "where", ["same", "inside", "above", "linked", "link inside", "hidden link"]
)
def test_inputs_and_outputs_are_apart(images: Path, tmp_path: Path, where: str) -> None:
    out = {
        "same": images,
        "inside": images / "preds",
        "above": tmp_path,
        "linked": tmp_path / "link",
        "link inside": tmp_path / "link" / "preds",
        "hidden link": tmp_path / "preds",
    }[where]
    if "link" in where:
        (tmp_path / "link").symlink_to(images)
    if where == "hidden link":
        out.mkdir()
        (images / "again").symlink_to(out)
    before = contents(images)
    with pytest.raises(ConfigError, match="overlap"):
        run(images, out=out)
    assert contents(images) == before


def test_image_files_in_the_output_folder_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overlap"):
        run(images / "a.png", out=images)
    # Also if only a link to the image lies elsewhere, or a list names it.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").symlink_to(images / "a.png")
    with pytest.raises(ConfigError, match="overlap"):
        run(tmp_path / "elsewhere", out=images)
    (tmp_path / "list.txt").write_text("images/a.png\n")
    with pytest.raises(ConfigError, match="overlap"):
        run(tmp_path / "list.txt", out=images)
    assert pixels_of(images / "a.png").shape == (48, 64, 3)


def test_added_cut_outs_are_made_of_the_maps_that_are_there(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = write_model(tmp_path / "model.safetensors"), tmp_path / "out"
    assert run(images, out=out, model=model) == 0
    before = contents(out)
    assert run(images, out=tmp_path / "at once", model=model, cutout=True, overlay=True) == 0

    def no_network(*_: object) -> None:
        raise AssertionError("the maps are there")

    monkeypatch.setattr(networks, "new_step", no_network)
    assert run(images, out=out, model=model, cutout=True) == 0
    new = {"a.cutout.png", "sub/b.cutout.png"}
    assert results(out) == {"a.png", "sub/b.png", *new}
    assert run(images, out=out, model=model, cutout=True, overlay=True) == 0
    after, at_once = contents(out), contents(tmp_path / "at once")
    assert results(out) == results(tmp_path / "at once")
    assert all(after[name] == at_once[name] for name in results(out))
    assert all(after[name] == before[name] for name in before.keys() - RECORDS)
    # Left out again, they stay.
    assert run(images, out=out, model=model) == 0
    assert results(out) == results(tmp_path / "at once")


def test_cut_outs_of_one_folder_are_of_one_kind(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(images, out=out) == 0
    assert run(images, out=out, background="white", format="jpg") == 0
    with pytest.raises(ConfigError, match="background: white there, None now; format: jpg there"):
        run(images, out=out, cutout=True)
    assert run(images, out=out) == 0
    assert results(out) == {"a.png", "a.cutout.jpg", "sub/b.png", "sub/b.cutout.jpg"}


def test_a_killed_run_knows_its_files(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(images, out=out, cutout=True) == 0
    lines = (out / "written.txt").read_text().splitlines()
    begun = [line for line in lines if not line.startswith("file ")]
    assert sorted(begun) == ["cutout a", "cutout sub/b", "map a", "map sub/b"]
    # Killed while it wrote the list, and before it wrote the files.
    (out / "written.txt").write_text("map a\ncutout a\nmap sub/b\ncuto")
    (out / "sub" / "b.cutout.png").unlink()
    assert run(images, out=out, cutout=True) == 0
    after = (out / "written.txt").read_text().splitlines()
    assert sorted(line for line in after if not line.startswith("file ")) == sorted(begun)
    assert without_dates(after) == without_dates(lines)
    assert (out / "sub" / "b.cutout.png").exists()


def without_dates(lines: list[str]) -> list[list[str]]:
    return sorted(line.split()[:4] for line in lines)
