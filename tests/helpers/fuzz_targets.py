"""Functions that take any bytes, for fuzzers: each returns, or raises if something is broken."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile import pax_tar, picture, tar_header, tar_of, tiff

from a2s.config.parse import parse
from a2s.data.inputs import collect
from a2s.data.isolated_decoder import answer
from a2s.data.keys import decode_key
from a2s.data.shards import read_manifest
from a2s.data.tar_inputs import tar_members
from a2s.errors import A2SError, ConfigError
from a2s.labels.review_line import read_line
from a2s.labels.store import generations
from a2s.storage import checkpoints
from a2s.storage.status.shards import parse_manifest


@contextlib.contextmanager
def written(data: bytes, name: str) -> Iterator[Path]:
    """A file with these bytes, alone in a folder in memory."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def tar(data: bytes) -> None:
    """The list of a tar ends, and names only bytes that lie in it."""
    with written(data, "x.tar") as path, contextlib.suppress(A2SError):
        for member in tar_members(path, source="x.tar"):
            if member.key:
                assert member.offset >= 0
                assert 0 <= member.size <= len(data) - member.offset
                decode_key(member.key)


def image(data: bytes) -> None:
    """An image is decoded, or refused with a reason, within its memory."""
    for function in ("probe", "decode", "decode_truth", "shrink"):
        limits = {"max_pixels": 10_000} if function != "decode_truth" else {}
        limits |= {"max_side": 16} if function == "shrink" else {}
        reply, _ = answer({"function": function, "limits": limits}, data)
        assert "bug" not in reply, reply["bug"]


def record(data: bytes) -> None:
    """A record of a2s is read, or refused in the way of its kind."""
    with written(data, "00001.json") as path:
        for read, refusal in (
            (lambda: read_manifest(path), ValueError),
            (lambda: checkpoints.read_commit(path), A2SError),
            (lambda: parse_manifest("x", data, written_sec=None), ValueError),
            (lambda: read_line(data), ValueError),
        ):
            with contextlib.suppress(refusal):
                read()
        (path.parent / "generation-00001.json").write_bytes(data)
        with contextlib.suppress(A2SError):
            generations.Generation.load(path.parent, 1)


def settings(data: bytes) -> None:
    """A file of settings is read, or refused with exit code 2."""
    code: object = 0
    with written(data, "x.yaml") as path:
        try:
            parse("shard", ["x", "--out", "y", "--config", str(path)])
        except ConfigError:
            code = 2
        except SystemExit as stop:
            code = stop.code
    assert code in (0, 2)


def list_file(data: bytes) -> None:
    """A list of images is read, and every key is safe."""
    with written(data, "x.txt") as path, contextlib.suppress(A2SError):
        found = collect([str(path)], masks=None, out=path.parent / "out")
        for key in found.images["key"].to_pylist():
            decode_key(key)


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function for function in (tar, image, record, settings, list_file)
}


def first_inputs(name: str) -> list[bytes]:
    """Whole inputs from which a fuzzer begins."""
    if name == "tar":
        small = picture(side=8)
        link = (tar_header("l.jpg", 0, kind=b"2"), b"")
        plain = tar_of([(tar_header("a.jpg", len(small)), small), link])
        return [plain, pax_tar(small, {"path": "ä.jpg"}), pax_tar(small, {"GNU.sparse.major": "1"})]
    if name == "image":
        kinds = [picture(kind, side=8) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")]
        return [*kinds, picture(side=8, progressive=True), tiff({256: (4,), 257: (4,)})]
    if name == "record":
        manifest = {"name": "00001", "count": 1, "tar_bytes": 0, "tar_sha256": "a"}
        manifest |= {"parquet_sha256": "b", "settings": "c", "num_shards": 1, "failures": []}
        decision = {"key": "a", "verdict": "accepted", "at": "2026-01-01T00:00:00+00:00"}
        state = {"epoch": 1, "step": 0, "finished": True, "generation": 1}
        commit = {"commit": 1, "sha256": {"model.safetensors": "d"}, "state": state}
        stored = {"version": 1, "files": [{"name": "00001/x.rows", "count": 1}]}
        return [json.dumps(one).encode() for one in (manifest, decision, commit, stored)]
    if name == "settings":
        return [
            b"shard:\n  max_pixels: 9\n  limit: 3\n",
            b"run: {stage1: {lr: 0.1}}\n",
            b"[a, &b c]",
        ]
    return [b"a.jpg\nb\n", os.fsencode("ü/x.png\r\n"), b"\xff\xfea\0.\0j\0p\0g\0"]
