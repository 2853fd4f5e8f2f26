"""`a2s predict` on damaged shards, and after a run that was killed."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from labelling_run import write_model
from PIL import Image

from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.data.index import Index
from a2s.data.shards import ShardWriter
from a2s.errors import DataError


def photograph(height: int, width: int, *, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def test_a_flipped_bit_in_a_shard_is_not_predicted(model: Path, tmp_path: Path) -> None:
    """A JPEG with a flipped bit often is another picture, and no error."""
    data = tmp_path / "data"
    data.mkdir()
    with ShardWriter(data) as writer:
        for number in range(4):
            buffer = io.BytesIO()
            photograph(48, 64, seed=number).save(buffer, "BMP")
            writer.add(f"{number}", {"bmp": buffer.getvalue()})
    index = Index.load(data)
    with (data / "shard-000000.tar").open("r+b") as file:
        file.seek(int(index.offset_N[2]) + 1000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    config = PredictConfig(
        model=model, images=(str(data),), out=tmp_path / "out", workers=0, cutout=True
    )
    assert predict.run(config) == 3
    (failure,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (failure["key"], failure["reason"]) == ("2", "bad_checksum")
    assert sorted(path.name for path in (tmp_path / "out").glob("?.png")) == [
        "0.png",
        "1.png",
        "3.png",
    ]


def test_maps_of_shards_that_were_made_again_are_new(model: Path, tmp_path: Path) -> None:
    """Other images under the same names must not keep the old maps."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    maps = []
    for seed in (0, 1, 1):
        if seed or not maps:
            with ShardWriter(data) as writer:
                buffer = io.BytesIO()
                photograph(48, 64, seed=seed).save(buffer, "PNG")
                writer.add("a", {"png": buffer.getvalue()})
        config = PredictConfig(model=model, images=(str(data),), out=out, workers=0)
        assert predict.run(config) == 0
        maps.append((out / "a.png").read_bytes())
    assert maps[0] != maps[1]
    assert maps[1] == maps[2]


def test_files_of_other_formats_are_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.gif", "c.gif"):
        photograph(48, 64).save(tmp_path / "in" / name)
    images = (str(tmp_path / "in"),)
    config = PredictConfig(model=model, images=images, out=tmp_path / "out", workers=0)
    assert predict.run(config) == 0
    assert (
        "predict: left out 2 files that are hidden or no images: 2 .gif" in capsys.readouterr().out
    )


def test_an_unfinished_shard_folder_is_refused(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with ShardWriter(data, num_shards=2) as writer:
        buffer = io.BytesIO()
        photograph(48, 64).save(buffer, "PNG")
        writer.add("a", {"png": buffer.getvalue()})
    config = PredictConfig(model=model, images=(str(data),), out=tmp_path / "out", workers=0)
    with pytest.raises(DataError, match="1 of 2 shards are finished"):
        predict.run(config)


def test_files_of_a_killed_run_are_collected(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    photograph(48, 64).save(tmp_path / "in" / "sub" / "a.png")
    config = PredictConfig(
        model=model, images=(str(tmp_path / "in"),), out=tmp_path / "out", workers=0
    )
    assert predict.run(config) == 0
    left = tmp_path / "out" / "sub" / ".a.png.x7_k2abc.tmp"
    users = tmp_path / "out" / "sub" / ".notes.tmp"
    left.write_bytes(b"half")
    users.write_bytes(b"mine")
    assert predict.run(config) == 0
    assert not left.exists()
    assert users.read_bytes() == b"mine"


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_the_exit_code_counts_what_a_damaged_tar_has_lost(
    model: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(8):
            image = io.BytesIO()
            photograph(48, 64, seed=number).save(image, "PNG")
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = len(image.getvalue())
            tar.addfile(entry, io.BytesIO(image.getvalue()))
            if number == 1:
                damage_at = tar.offset
    data = bytearray(buffer.getvalue())
    data[damage_at : damage_at + 100] = b"x" * 100
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data if suffix == "tar" else gzip.compress(bytes(data)))

    def predicted(out: str, rate: float) -> int:
        values = {"workers": 0, "max_failure_rate": rate}
        config = PredictConfig(model=model, images=(str(path),), out=tmp_path / out, **values)
        return predict.run(config)

    # One failure of three would pass; six images of eight do not.
    assert predicted("strict", 0.5) == 3
    assert "more images are lost in unreadable parts of damaged tars" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "strict").glob("?.png")) == ["0.png", "1.png"]
    assert predicted("lax", 0.9) == 0
    # The images of the tar were copied there.
    assert not (tmp_path / "strict" / ".staging").exists()


def test_an_empty_map_and_a_folder_in_its_place_are_no_map(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        photograph(48, 64).save(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"
    config = PredictConfig(model=model, images=(str(tmp_path / "in"),), out=out, workers=0)
    assert predict.run(config) == 0
    before = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(b"")
    assert predict.run(config) == 0
    assert (out / "a.png").read_bytes() == before
    (out / "a.png").unlink()
    (out / "a.png").mkdir()
    assert predict.run(config) == 3
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert (failure["key"], "a.png" in failure["detail"]) == ("a", True)
    (out / "a.png").rmdir()
    assert predict.run(config) == 0
    assert (out / "a.png").read_bytes() == before
