"""The list of files that a job wrote: what it lists, and what a crash leaves of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from a2s.data.keys import encode_key
from a2s.storage.written import FILE_NAME, WrittenFiles


def keys(*names: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(names, pa.large_string())])


def test_a_file_is_listed_by_kind_and_key(tmp_path: Path) -> None:
    names = [encode_key(name) for name in ("a/cat", "two words", "naïve", 'quo"ted', "line\nend")]
    written = WrittenFiles(tmp_path)
    assert not written.lists("map", keys("a/cat")).any()
    written.add([("map", name) for name in names])
    written.add([("cutout", names[1])])
    again = WrittenFiles(tmp_path)
    np.testing.assert_array_equal(again.lists("map", keys(*names, "b")), [True] * 5 + [False])
    np.testing.assert_array_equal(again.lists("cutout", keys(*names)), [0, 1, 0, 0, 0])
    assert not again.lists("overlay", keys(*names)).any()


def test_nothing_to_add_makes_no_file(tmp_path: Path) -> None:
    WrittenFiles(tmp_path).add([])
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize("half", ["m", "map", "map ", "map a/ca", "map " + "x" * 10_000])
def test_half_a_line_is_no_file(tmp_path: Path, half: str) -> None:
    (tmp_path / FILE_NAME).write_text(f"map a\nmap b\n{half}")
    written = WrittenFiles(tmp_path)
    np.testing.assert_array_equal(written.lists("map", keys("a", "b", "a/ca")), [1, 1, 0])
    written.add([("map", "c")])
    assert (tmp_path / FILE_NAME).read_text() == "map a\nmap b\nmap c\n"
    (tmp_path / FILE_NAME).write_text(half)
    assert not WrittenFiles(tmp_path).lists("map", keys("a")).any()
    assert (tmp_path / FILE_NAME).read_text() == ""
