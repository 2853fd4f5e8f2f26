"""Label shards at the end of stage 2: made of what a reviewer pinned, which is hashed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from review_labels import write_pair

from a2s.data.images import encode_png
from a2s.data.index import Index
from a2s.labels.store import writer
from a2s.labels.store.reader import LabelSource


def test_pinned_labels_are_hashed_once_for_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, data = write_pair(tmp_path)
    index, stored, out = Index.load(data), Index.load(labels), tmp_path / "out"
    hashed = list[bytes]()
    short_hash = writer.hashing.short_hash

    def counting(png: bytes) -> int:
        hashed.append(png)
        return short_hash(png)

    monkeypatch.setattr(writer.hashing, "short_hash", counting)

    def write(pinned: dict[int, bytes | None]) -> dict[str, int]:
        hashed.clear()
        rows = stored.rows_of(index.keys)
        source = LabelSource(stored, rows, tmp_path, 32, [0], pinned=pinned)
        keep_N = np.ones(len(index), np.bool_)
        writer.write_rectified(out, 0, source=source, index=index, keep_N=keep_N)
        return {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}

    fixes = [encode_png(np.full((96, 120), value, np.uint8)) for value in (0, 255)]
    pinned = {1: fixes[0], 8: fixes[0], 9: None}
    before = write(pinned)
    assert len(before) == 2
    assert sorted(hashed) == [b"", fixes[0], fixes[0]]
    assert write(pinned) == before
    after = write(pinned | {8: fixes[1]})
    assert all(before[name] != after[name] for name in before)
    assert Index.load(out).read(8) == fixes[1]
