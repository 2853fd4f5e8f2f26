"""`a2s shard` and `a2s run` once more, after photographs or masks were added."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from packing_run import fill, made, photo, shard
from PIL import Image
from processes import call

from a2s.data.index import Index
from a2s.data.keys import encode_key
from a2s.errors import DataError


def add(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(77)).save(path)
    return path


def test_added_photographs_are_named_with_what_to_do(tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", 5), tmp_path / "my out"
    assert shard(source, out) == 0
    before = made(out)
    assert shard(source, out) == 0
    new = [add(source, "new.jpg"), add(source, "sub/ü.png")]
    with pytest.raises(DataError, match=r"2 images .* a2s shard '.*/added.txt' --out NEW"):
        shard(source, out)
    listed = made(out).pop("added.txt")
    assert listed.decode().splitlines() == [str(path) for path in new]
    assert made(out) == {**before, "added.txt": listed}
    # The command that the message names packs the new ones.
    assert shard(out / "added.txt", tmp_path / "more") == 0
    assert Index.load(tmp_path / "more").keys.to_pylist() == ["new", "sub/%C3%BC"]
    assert shard(source, tmp_path / "all") == 0
    assert len(Index.load(tmp_path / "all")) == 7


def test_an_interrupted_job_finishes_what_it_began(tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", 5), tmp_path / "out"
    assert shard(source, out) == 0
    (out / "shard-000001.json").unlink()
    add(source, "new.jpg")
    with pytest.raises(DataError, match="1 images were added"):
        shard(source, out)
    assert len(Index.load(out)) == 5


def test_a_tar_that_has_grown_is_named(tmp_path: Path) -> None:
    source, out, tar = fill(tmp_path / "in", 2), tmp_path / "out", tmp_path / "in.tar"
    with tarfile.open(tar, "w") as written:
        written.add(source / "000.jpg", "000.jpg")
    assert shard(tar, out) == 0
    assert shard(tar, out) == 0
    with tarfile.open(tar, "a") as written:
        # A tar has room for 10 kB without growing.
        written.add(fill(tmp_path / "large", 1, side=200) / "000.jpg", "large.jpg")
    with pytest.raises(DataError, match=r"in\.tar has another size than .* new --out"):
        shard(tar, out)
    assert len(Index.load(out)) == 1


def test_a_limit_asks_for_no_more(tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", 5), tmp_path / "out"
    assert shard(source, out, limit=3) == 0
    assert shard(source, out, limit=3) == 0
    add(source, "0.jpg")
    assert shard(source, out, limit=3) == 0


def test_added_masks_are_named(tmp_path: Path) -> None:
    source, out, masks = fill(tmp_path / "in", 2), tmp_path / "out", tmp_path / "masks"
    masks.mkdir()
    mask_HW = np.eye(24, 30, dtype=np.uint8) * 255
    Image.fromarray(mask_HW).save(masks / "000.png")
    assert shard(source, out, masks=masks) == 0
    Image.fromarray(mask_HW).save(masks / "001.png")
    with pytest.raises(DataError, match=r"1 images of .* had no mask when they were packed"):
        shard(source, out, masks=masks)


def test_inputs_that_are_gone_or_rejected_add_nothing(tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", 2), tmp_path / "out"
    add(source, "000.png")
    assert shard(source, out, max_failure_rate=1.0) == 0
    assert shard(source, out, max_failure_rate=1.0) == 0
    source.rename(tmp_path / "moved")
    assert shard(source, out, max_failure_rate=1.0) == 0


def test_what_a2s_writes_among_the_photographs_is_not_added(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 2)
    out = source / "run/data"
    assert shard(source, out) == 0
    for name in ("config.yaml", "environment.json"):
        (source / "run" / name).touch()
    add(source, "run/preds/000.png")
    assert shard(source, out) == 0


def test_what_a2s_wrote_among_the_photographs_is_no_photograph(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 2)
    done = call("predict", source, "--model", "rbd", "--out", tmp_path / "preds", "--workers", 0)
    assert done.code == 0, done.stderr
    (tmp_path / "preds").rename(source / "preds")
    done = call("shard", source, "--out", tmp_path / "out", "--workers", 0)
    assert "in folders that a2s wrote" in done.stdout
    assert Index.load(tmp_path / "out").keys.to_pylist() == ["000", "001"]
    # Who names the folder itself means the masks.
    assert shard(source / "preds", tmp_path / "masks") == 0


def test_shards_are_not_written_among_the_photographs(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 2)
    (tmp_path / "link").symlink_to(source)
    before = made(source)
    for command in ("shard", "run"):
        done = call(command, source, "--out", tmp_path / "link")
        assert (done.code, "overlap" in done.stderr) == (2, True)
    assert made(source) == before


def test_pictures_that_predict_wrote_beside_photographs_are_not_photographs(
    tmp_path: Path,
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (50 * number, 90, 20)).save(photos / f"{number}.png")
    # Somebody's own file of such a name stays an image.
    Image.new("RGB", (40, 30)).save(photos / "own.mask.png")
    arguments = ["--model", "rbd", "--cutout", "--workers", "0"]
    done = call("predict", str(photos / "0.png"), str(photos / "1.png"), *arguments)
    assert done.code == 0, done.stderr
    assert (photos / "0.cutout.png").exists()
    done = call("shard", str(photos), "--out", str(tmp_path / "data"), "--workers", "0")
    assert done.code == 0, done.stderr
    keys = Index.load(tmp_path / "data").keys.to_pylist()
    assert keys == ["0", "1", "2", encode_key("own.mask")]
    assert "2 written by a2s predict" in done.stdout


def tar_of(folder: Path, names: list[str], path: Path) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name in names:
            tar.add(folder / name, arcname=name)
    return path


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_damaged_shard_of_a_tar_is_made_again(tmp_path: Path, suffix: str) -> None:
    """The copy of a compressed tar was removed when all was done."""
    source, out = fill(tmp_path / "in", 5), tmp_path / "out"
    names = sorted(path.name for path in source.iterdir())
    tar = tar_of(source, names, tmp_path / f"x{suffix}")
    assert shard(tar, out) == 0
    before = made(out)
    (out / "shard-000001.json").unlink()
    assert shard(tar, out) == 0
    assert made(out) == before


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_that_was_replaced_is_refused(tmp_path: Path, suffix: str) -> None:
    """Its bytes would be read under the names of others."""
    source, out = fill(tmp_path / "in", 6), tmp_path / "out"
    names = sorted(path.name for path in source.iterdir())
    tar = tar_of(source, names, tmp_path / f"x{suffix}")
    assert shard(tar, out) == 0
    (out / "shard-000001.json").unlink()
    tar_of(source, names[::-1] if suffix == ".tar" else names[1:], tar)
    with pytest.raises(DataError, match=r"x\.tar.* has changed since its images were listed"):
        shard(tar, out)
    assert not (out / "shard-000001.json").exists()


def test_hidden_images_and_folders_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = fill(tmp_path / "in", 2)
    add(source, ".hidden.jpg")
    add(source, ".folder/x.jpg")
    assert shard(source, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "left out 2 files that are hidden or no images: 1 hidden, 1 hidden folders" in said


def test_pages_beyond_the_first_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = fill(tmp_path / "in", 2)
    pages = [Image.new("RGB", (8, 6), (40 * number, 9, 9)) for number in range(3)]
    pages[0].save(source / "scan.tif", save_all=True, append_images=pages[1:])
    assert shard(source, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "1 images have several pages or frames; the first one is used" in said
