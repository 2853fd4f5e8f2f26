"""The list of files that a job wrote: what it lists, and what a crash leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from a2s.data.keys import encode_key
from a2s.errors import DataError
from a2s.storage.files import NotAFile
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


@pytest.mark.parametrize("content", [b"map a b\n", b"map\n", b"\xff \xfe\n", b"map a\nb\n"])
def test_a_damaged_list_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"written\.txt is damaged") as caught:
        WrittenFiles(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(NotAFile):
        WrittenFiles(tmp_path)


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
