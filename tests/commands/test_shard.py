"""`a2s shard` from outside: real folders, real processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from packing_run import fill, made, photo, shard
from PIL import Image

from a2s.commands.shard import run
from a2s.config.commands import ShardConfig
from a2s.data import images
from a2s.data.index import Index
from a2s.errors import ConfigError, DataError
from a2s.evaluation.pairs import find_truths


def failures(out: Path) -> dict[str, str]:
    lines = (out / "failures.jsonl").read_text().splitlines()
    return {(line := json.loads(text))["key"]: line["reason"] for text in lines}


def test_bytes_are_kept_as_they_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = fill(tmp_path / "in", 9)
    (source / "sub").mkdir()
    (source / "000.jpg").rename(source / "sub/ü 1.jpg")
    out = tmp_path / "out"
    assert shard(source, out) == 0
    index = Index.load(out)
    assert index.shard_sizes.tolist() == [4, 4, 1]
    assert index.keys_for(range(9))[-1] == "sub/%C3%BC%201"
    assert index.read(8) == (source / "sub/ü 1.jpg").read_bytes()
    assert set(index.width_N) == {30}
    assert set(index.height_N) == {24}
    assert failures(out) == {}
    wrote, last = capsys.readouterr().out.splitlines()[-2:]
    assert "9 images in 3 shards" in wrote
    assert last == f"next: a2s stage1 --data {out} --out runs/s1"


def test_everything_bad_is_quarantined_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = fill(tmp_path / "in", 7)
    (source / "empty.jpg").touch()
    (source / "half.jpg").write_bytes((source / "001.jpg").read_bytes()[:400])
    (source / "text.png").write_text("no image")
    (source / "001.png").write_bytes(b"the second with this key")
    (source / "big.bmp").write_bytes(_bmp_header(50_000, 50_000))
    (source / "gone.jpg").symlink_to(source / "nowhere")
    os.mkfifo(source / "pipe.jpg")
    shutil.copy(source / "002.jpg", source / "copy.jpg")
    (source / "readme.md").write_text("x")
    (source / "one.png").write_bytes(images.encode_png(np.zeros((1, 1), np.uint8)))
    out = tmp_path / "out"
    assert shard(source, out) == 3
    assert failures(out) == {
        "001": "duplicate_key",
        "empty": "empty",
        "half": "truncated",
        "text": "unsupported",
        "big": "pixel_bomb",
        "gone": "unreadable",
        "pipe": "unreadable",
    }
    index = Index.load(out)
    assert set(index.keys.to_pylist()) == {f"{i:03d}" for i in range(7)} | {"copy", "one"}
    assert [shard.name for shard in index.shards] == [f"shard-00000{i}" for i in range(4)]
    printed = capsys.readouterr().out
    assert "7 of 16 images quarantined (43.75%" in printed
    assert "1 images have the same content" in printed
    assert "1 .md" in printed
    assert shard(source, tmp_path / "lenient", max_failure_rate=0.5) == 0


def _bmp_header(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(data)


def test_a_shard_of_only_bad_images_leaves_no_gap(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 12)
    for number in range(4, 8):
        (source / f"{number:03d}.jpg").write_bytes(b"")
    assert shard(source, tmp_path / "out", max_failure_rate=1.0) == 0
    index = Index.load(tmp_path / "out")
    assert index.shard_sizes.tolist() == [4, 0, 4]
    assert index.key(4) == "008"
    assert index.read(4) == (source / "008.jpg").read_bytes()


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").touch()
    with pytest.raises(DataError, match="not one of the 1 images"):
        shard(tmp_path / "in", tmp_path / "out")
    assert failures(tmp_path / "out") == {"a": "empty"}


def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = fill(tmp_path / "in", 4)
    masks = tmp_path / "masks"
    masks.mkdir()
    mask_HW = (photo(9)[..., 0] > 128).astype(np.uint8) * 255
    (masks / "000.png").write_bytes(images.encode_png(mask_HW))
    Image.fromarray(mask_HW).save(masks / "001.bmp")
    (masks / "002.png").write_bytes(images.encode_png(mask_HW[:5]))
    (masks / "zzz.png").write_bytes(images.encode_png(mask_HW))
    out = tmp_path / "out"
    assert shard(source, out, masks=masks, max_failure_rate=0.5) == 0
    index = Index.load(out)
    assert index.keys.to_pylist() == ["000", "001", "002", "003"]
    truths = find_truths(out)
    assert truths.keys == {"000", "001"}
    assert truths.locate("000").read() == (masks / "000.png").read_bytes()
    np.testing.assert_array_equal(images.decode_mask(truths.locate("001").read()), mask_HW)
    assert failures(out) == {"002": "mask_size", "zzz": "mask_without_image"}
    printed = capsys.readouterr().out
    assert "1 images without a mask, 1 masks without an image" in printed
    assert "1 of 3 masks left out (33.33%, limit 50.00%), their images are packed" in printed
    assert "packed without them: 1 mask_size" in printed


def test_max_side_shrinks_only_what_is_larger(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 1)
    masks = tmp_path / "masks"
    masks.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(5, side=64)).save(source / "large.jpg", exif=exif)
    (masks / "large.png").write_bytes(images.encode_png(np.eye(70, 64, dtype=np.uint8) * 255))
    out = tmp_path / "out"
    assert shard(source, out, max_side=32, masks=masks) == 0
    index = Index.load(out)
    assert index.read(0) == (source / "000.jpg").read_bytes()
    assert (index.width_N[1], index.height_N[1]) == (29, 32)
    assert index.column("orientation").tolist() == [1, 1]
    assert images.decode(index.read(1)).shape == (32, 29, 3)
    assert images.decode_mask(find_truths(out).locate("large").read()).shape == (32, 29)


def test_orientation_is_recorded_and_the_size_is_the_upright_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(photo(1)).save(tmp_path / "in/a.jpg", exif=exif)
    shard(tmp_path / "in", tmp_path / "out")
    index = Index.load(tmp_path / "out")
    assert (index.width_N[0], index.height_N[0]) == (24, 30)
    assert index.column("orientation").tolist() == [8]


def test_the_extension_says_what_the_bytes_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(photo(1)).save(tmp_path / "in/a.jpg", "PNG")
    shard(tmp_path / "in", tmp_path / "out")
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        assert tar.getnames() == ["a.png"]


def test_tars_in_give_the_same_shards_as_the_folder(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 6)
    for kind, mode in (("tar", "w"), ("tgz", "w:gz")):
        with tarfile.open(tmp_path / f"x.{kind}", mode) as tar:
            tar.add(source, arcname="")
    shard(source, tmp_path / "folder")
    for kind in ("tar", "tgz"):
        shard(tmp_path / f"x.{kind}", tmp_path / kind)
        assert not (tmp_path / kind / ".staging").exists()
        for name in ("shard-000000.tar", "shard-000001.parquet"):
            assert (tmp_path / kind / name).read_bytes() == (
                tmp_path / "folder" / name
            ).read_bytes()
    again = tmp_path / "again"
    run(
        ShardConfig(
            images=tuple(str(p) for p in sorted((tmp_path / "folder").glob("*.tar"))),
            out=again,
            workers=0,
            shard_size=4,
        )
    )
    assert (again / "shard-000000.tar").read_bytes() == (
        tmp_path / "folder/shard-000000.tar"
    ).read_bytes()


def test_the_second_run_is_done_and_a_damaged_shard_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = fill(tmp_path / "in", 9), tmp_path / "out"
    (source / "bad.jpg").touch()
    code = shard(source, out)
    before = made(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    capsys.readouterr()
    assert shard(source, out) == code == 3
    assert "is done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.glob("shard-*")} == times
    os.truncate(out / "shard-000001.tar", 700)
    assert shard(source, out) == 3
    assert made(out) == before


def test_limit_packs_the_first_images_with_their_masks(tmp_path: Path) -> None:
    source, masks, out = fill(tmp_path / "in", 6), fill(tmp_path / "masks", 6), tmp_path / "out"
    assert shard(source, out, masks=masks, limit=5) == 0
    index = Index.load(out)
    assert index.keys.to_pylist() == [f"{number:03d}" for number in range(5)]
    assert (index.mask_offset_N >= 0).all()


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", 3), tmp_path / "out"
    shard(source, out)
    with pytest.raises(ConfigError, match="shard_size: 4 there, 5 now"):
        shard(source, out, shard_size=5)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such file"):
        shard(tmp_path / "nowhere", tmp_path / "out")
