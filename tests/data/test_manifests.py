"""Manifests of shards: every flipped bit is found, and those of older versions are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a2s.data.index import Index
from a2s.data.shards import ShardWriter, read_manifest, shard_done
from a2s.errors import DataError
from a2s.storage.failures import failure


def write(folder: Path) -> Path:
    """A shard whose manifest lists a failure with a name of odd bytes."""
    with ShardWriter(folder, settings="s", num_shards=1) as writer:
        writer.add("a", {"png": b"content"})
        odd = failure("b", "caf\u00e9\u2028\udcff", "damaged", "x")
        writer.extra |= {"failures": [odd], "quality_counts": [1, 0], "mean": 0.1}
    return folder / "shard-000000.json"


def test_a_flipped_bit_of_a_manifest_is_found(tmp_path: Path) -> None:
    path = write(tmp_path)
    intact, before = path.read_bytes(), read_manifest(path)
    assert shard_done(tmp_path, "shard-000000", settings="s") == before
    said = {name: value for name, value in before.items() if name != "manifest_sha256"}
    missed = []
    for position in range(len(intact)):
        for bit in (1, 4):
            flipped = bytearray(intact)
            flipped[position] ^= bit
            path.write_bytes(flipped)
            try:
                # In the name of the checksum it costs nothing but the checksum.
                if not said.items() <= read_manifest(path).items():
                    missed.append((position, bit))
            except ValueError:
                continue
    assert missed == []
    path.write_bytes(intact.replace(b'"count": 1', b'"count": 2'))
    assert shard_done(tmp_path, "shard-000000", settings="s") is None
    with pytest.raises(DataError, match="it does not match its checksum"):
        Index.load(tmp_path)


def test_a_manifest_of_an_older_version_has_no_checksum(tmp_path: Path) -> None:
    path = write(tmp_path)
    values = json.loads(path.read_text())
    del values["manifest_sha256"]
    path.write_text(json.dumps(values))
    assert read_manifest(path) == values
    assert len(Index.load(tmp_path)) == 1
