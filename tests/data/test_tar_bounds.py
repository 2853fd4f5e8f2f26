"""Compressed tars that expand without bound are refused before they fill the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from compressed import COMPRESS
from hostile import picture

from a2s.data import tar_inputs, tar_streams
from a2s.data.inputs import collect
from a2s.errors import DataError

MIB = 2**20


def tar_with(name: str, num_bytes: int) -> bytes:
    """A photograph, and a member of zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member, data in (("a.jpg", picture()), (name, bytes(num_bytes))):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


BOMBS = {
    "an image": tar_with("b.png", 32 * MIB),
    "another file": tar_with("b.txt", 32 * MIB),
    "after the end": tar_with("b.txt", 1) + bytes(32 * MIB),
}


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("where", BOMBS)
def test_a_bomb_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    monkeypatch.setattr(tar_streams, "EXPANSION_FLOOR", 2 * MIB)
    bomb = tmp_path / f"x.{kind}"
    bomb.write_bytes(COMPRESS[kind](BOMBS[where]))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        DataError, match=rf"x\.{kind}: expands to over 200 times its size"
    ) as caught:
        collect([str(bomb)], masks=None, out=out)
    assert "\n" not in str(caught.value)
    assert list((out / ".staging").iterdir()) == []


@pytest.mark.parametrize("kind", COMPRESS)
def test_what_shrinks_as_photographs_do_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(COMPRESS[kind](tar_with("b.txt", MIB)))
    found = collect([str(path)], masks=None, out=tmp_path)
    assert found.images["key"].to_pylist() == ["a"]
    assert (found.failures, found.num_lost, found.lost_is_known) == ([], 0, True)


def test_a_member_that_would_fill_the_disk_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_streams, "FREE_BYTES", 2**62)
    monkeypatch.setattr(tar_streams, "FREE_SHARE", 1.0)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar_with("b.txt", 1)))
    with pytest.raises(DataError, match=r"x\.tar\.gz: its images do not fit on the disk of .*out"):
        collect([str(path)], masks=None, out=tmp_path)


def test_an_image_that_is_too_large_is_listed_and_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_inputs, "MAX_FILE_BYTES", MIB)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar_with("b.png", 2 * MIB)))
    found = collect([str(path)], masks=None, out=tmp_path)
    assert found.images["key"].to_pylist() == ["a"]
    (problem,) = found.failures
    assert (problem["reason"], problem["path"]) == ("too_large", f"{path}/b.png")
    assert (tmp_path / ".staging" / "000000.tar").stat().st_size < MIB
