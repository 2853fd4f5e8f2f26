"""Compressed and remote tars that are damaged lose what is damaged, and say so."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from compressed import COMPRESS
from PIL import Image

from a2s.__main__ import run
from a2s.data import tar_streams
from a2s.data.index import Index
from a2s.data.inputs import FoundImages, collect
from a2s.errors import ConfigError, DataError, StorageError
from a2s.storage.objects import retries
from a2s.storage.objects.kinds import web

NUM_IMAGES, MEMBER_BYTES = 20, 2048


def jpeg(number: int) -> bytes:
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue().ljust(MEMBER_BYTES - 512, b"\0")


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A tar of 20 images, each with a header of 512 bytes and 1536 bytes of data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(NUM_IMAGES):
            data = jpeg(number)
            entry = tarfile.TarInfo(f"{number:02d}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


class _Quiet(SimpleHTTPRequestHandler):
    """It answers no request for a part of a file; of `cut-*` and `slow-*` it first sends a part."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def copyfile(self, source: IO[bytes], outputfile: IO[bytes]) -> None:
        served = Path(self.directory, f"served{self.path.replace('/', '-')}")
        if not self.path.startswith(("/cut-", "/slow-")) or served.exists():
            super().copyfile(source, outputfile)
            return
        served.touch()
        outputfile.write(source.read(5 * MEMBER_BYTES))
        if self.path.startswith("/slow-"):
            time.sleep(2)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def found(tmp_path: Path, data: bytes, kind: str, address: str) -> FoundImages:
    name = "x.tar" if kind == "http" else f"x.{kind}"
    path = tmp_path / name
    path.write_bytes(data if kind in ("http", "tar") else COMPRESS[kind](data))
    source = f"{address}/{name}" if kind == "http" else str(path)
    (tmp_path / "out").mkdir(exist_ok=True)
    return collect([source], masks=None, out=tmp_path / "out")


KINDS = ["tar", *COMPRESS, "http"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_tar_loses_nothing(tmp_path: Path, whole: bytes, kind: str, address: str) -> None:
    result = found(tmp_path, whole, kind, address)
    assert len(result.images) == NUM_IMAGES
    assert (result.failures, result.num_lost, result.lost_is_known) == ([], 0, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_header_loses_what_follows(
    tmp_path: Path, whole: bytes, kind: str, address: str
) -> None:
    damaged = bytearray(whole)
    damaged[5 * MEMBER_BYTES : 5 * MEMBER_BYTES + 100] = b"x" * 100
    result = found(tmp_path, bytes(damaged), kind, address)
    assert len(result.images) == 5
    (failure,) = result.failures
    assert failure["reason"] == "damaged_tar"
    assert f"at byte {5 * MEMBER_BYTES:,} of {len(whole):,}" in failure["detail"]
    assert f"{len(whole) - 5 * MEMBER_BYTES:,} bytes were not read" in failure["detail"]
    # An estimate: the padding at the end of the tar counts as bytes too.
    assert NUM_IMAGES - 5 <= result.num_lost + 1 <= NUM_IMAGES + 1
    assert result.lost_is_known


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_an_end_marker_is_lost(
    tmp_path: Path, whole: bytes, kind: str, address: str
) -> None:
    """Of two tars that somebody has joined, or of one in which a part was zeroed."""
    result = found(tmp_path, whole + whole, kind, address)
    assert len(result.images) == NUM_IMAGES
    (failure,) = result.failures
    assert failure["reason"] == "damaged_tar"
    place = f"tars that were joined at byte {len(whole):,} of {2 * len(whole):,}"
    assert place in failure["detail"]
    assert f"{len(whole):,} bytes were not read" in failure["detail"]
    assert abs(result.num_lost + 1 - NUM_IMAGES) <= 1
    zeroed = bytearray(whole)
    zeroed[5 * MEMBER_BYTES : 6 * MEMBER_BYTES] = bytes(MEMBER_BYTES)
    result = found(tmp_path, bytes(zeroed), kind, address)
    assert len(result.images) == 5
    assert f"at byte {6 * MEMBER_BYTES:,} of" in result.failures[0]["detail"]
    assert result.lost_is_known


@pytest.mark.parametrize("kind", KINDS)
def test_a_tar_that_ends_between_members_may_have_lost_any_number(
    tmp_path: Path, whole: bytes, kind: str, address: str
) -> None:
    result = found(tmp_path, whole[: 5 * MEMBER_BYTES], kind, address)
    assert len(result.images) == 5
    (failure,) = result.failures
    assert failure["reason"] == "damaged_tar"
    assert "no end marker" in failure["detail"]
    assert not result.lost_is_known


@pytest.mark.parametrize("kind", KINDS)
def test_a_tar_that_ends_inside_a_member(
    tmp_path: Path, whole: bytes, kind: str, address: str
) -> None:
    result = found(tmp_path, whole[: 5 * MEMBER_BYTES + 700], kind, address)
    assert len(result.images) == 5
    assert {failure["reason"] for failure in result.failures} <= {"damaged_tar", "truncated"}
    assert result.failures
    assert not result.lost_is_known


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_a_cut_compressed_file_keeps_what_came_before(
    tmp_path: Path, whole: bytes, kind: str
) -> None:
    packed = COMPRESS[kind](whole)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(packed[: len(packed) - 20])
    (tmp_path / "out").mkdir()
    if kind == "tar.bz2":
        # bzip2 compresses blocks of 900 kB, so nothing comes before the cut.
        with pytest.raises(DataError, match="the tar is damaged"):
            collect([str(path)], masks=None, out=tmp_path / "out")
        return
    result = collect([str(path)], masks=None, out=tmp_path / "out")
    assert 0 < len(result.images) <= NUM_IMAGES
    assert [failure["reason"] for failure in result.failures] == ["damaged_tar"]
    assert not result.lost_is_known


def test_a_flipped_bit_is_found_by_the_checksum_of_gzip(tmp_path: Path, whole: bytes) -> None:
    packed = bytearray(gzip.compress(whole, compresslevel=0))
    # In the data of an image, which stays an image.
    at = bytes(packed).index(jpeg(3)[:64]) + 600
    packed[at] ^= 1
    path = tmp_path / "x.tar.gz"
    path.write_bytes(packed)
    (tmp_path / "out").mkdir()
    result = collect([str(path)], masks=None, out=tmp_path / "out")
    assert len(result.images) == NUM_IMAGES
    (failure,) = result.failures
    assert "CRC check failed" in failure["detail"]
    assert not result.lost_is_known


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_the_exit_code_follows_the_share_of_bytes_that_are_lost(
    tmp_path: Path, whole: bytes, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = bytearray(whole)
    damaged[5 * MEMBER_BYTES : 5 * MEMBER_BYTES + 100] = b"x" * 100
    path = tmp_path / f"x.{kind}"
    path.write_bytes(damaged if kind == "tar" else gzip.compress(bytes(damaged)))

    def shard(out: str, rate: str) -> int:
        command = ["shard", str(path), "--out", str(tmp_path / out), "--workers", "0"]
        return run([*command, "--max-failure-rate", rate])

    # One failure of six would pass; three quarters of the bytes do not.
    assert shard("strict", "0.5") == 3
    assert "more images are lost in unreadable parts of damaged tars" in capsys.readouterr().out
    assert shard("lax", "0.9") == 0
    path.write_bytes(
        whole[: 5 * MEMBER_BYTES] if kind == "tar" else gzip.compress(whole[: 5 * MEMBER_BYTES])
    )
    assert shard("cut", "0.9") == 3
    assert "nothing tells how much of it is lost" in capsys.readouterr().out
    assert shard("cut-accepted", "1") == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cut-x.tar", "the connection was cut"),
        ("cut-x.tar.gz", "the connection was cut"),
        ("slow-x.tar", "timed out"),
    ],
)
def test_a_download_that_breaks_off_counts_nothing_and_is_repeated(
    tmp_path: Path,
    whole: bytes,
    name: str,
    why: str,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it would have brought is not lost, so it is an error and no damage."""
    monkeypatch.setattr(web, "STALL_SEC", 0.5)
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    data = gzip.compress(whole, compresslevel=0) if name.endswith(".gz") else whole
    (tmp_path / name).write_bytes(data)
    source, out = f"{address}/{name}", tmp_path / "out"
    command = ["shard", source, "--out", str(out), "--workers", "0"]
    with pytest.raises(StorageError) as caught:
        run(command)
    message = str(caught.value)
    assert message.startswith(f"{source}: the download broke off after ")
    assert why in message
    assert "\n" not in message
    assert not (out / "work.json").exists()
    assert not [path for path in (out / ".staging").iterdir() if path.is_file()]
    assert run(command) == 0
    assert len(Index.load(out)) == NUM_IMAGES


def test_a_large_tar_of_a_server_that_sends_only_whole_files(
    tmp_path: Path, whole: bytes, address: str
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("large.bin")
        entry.size = 12 << 20
        tar.addfile(entry, io.BytesIO(bytes(entry.size)))
        first = tar.offset
    result = found(tmp_path, buffer.getvalue()[:first] + whole, "http", address)
    assert len(result.images) == NUM_IMAGES
    assert result.failures == []


def test_a_tar_that_no_installed_package_reads_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_streams, "zstd", None)
    for name in ("x.tar.zst", "x.tzst"):
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
        with pytest.raises(ConfigError, match=rf"{name}: .* pip install 'a2s\[zstd\]'"):
            collect([str(tmp_path / name)], masks=None, out=tmp_path)
