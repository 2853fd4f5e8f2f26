"""The list of files that a job wrote: what it lists, and what a crash leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from a2s.data.keys import encode_key
from a2s.errors import DataError
from a2s.storage import written
from a2s.storage.files import NotAFile
from a2s.storage.written import (
    FILE_NAME,
    Written,
    WrittenFiles,
    write_list,
)


def keys(*names: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(names, pa.large_string())])


def test_a_file_is_listed_by_kind_and_key(tmp_path: Path) -> None:
    names = [encode_key(name) for name in ("a/cat", "two words", "naïve", 'quo"ted', "line\nend")]
    first = WrittenFiles(tmp_path)
    assert not first.lists("map", keys("a/cat")).any()
    first.add([("map", name) for name in names])
    first.add([("cutout", names[1])])
    again = WrittenFiles(tmp_path)
    np.testing.assert_array_equal(again.lists("map", keys(*names, "b")), [True] * 5 + [False])
    np.testing.assert_array_equal(again.lists("cutout", keys(*names)), [0, 1, 0, 0, 0])
    assert not again.lists("overlay", keys(*names)).any()


def test_nothing_to_add_makes_no_file(tmp_path: Path) -> None:
    WrittenFiles(tmp_path).add([])
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize(
    "content",
    [
        *(b"map a b\n", b"map\n", b"\xff \xfe\n", b"map a\nb\n", b"file a 1 2\n"),
        *(b"file a 1 99999999999 3\n", b"file a x 2 3\n", b"file a 1 2 " + b"9" * 30 + b"\n"),
    ],
)
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
    files = WrittenFiles(tmp_path)
    np.testing.assert_array_equal(files.lists("map", keys("a", "b", "a/ca")), [1, 1, 0])
    files.add([("map", "c")])
    assert (tmp_path / FILE_NAME).read_text() == "map a\nmap b\nmap c\n"
    (tmp_path / FILE_NAME).write_text(half)
    files = WrittenFiles(tmp_path)
    assert not files.lists("map", keys("a")).any()
    files.add([("map", "d")])
    files.add([("map", "e")])
    assert (tmp_path / FILE_NAME).read_text() == "map d\nmap e\n"


def test_the_last_line_about_a_file_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"first")
    first = Written.of(path, "a%2Epng", b"first")
    assert first == Written.read(path, "a%2Epng")
    path.write_bytes(b"second one")
    second = Written.of(path, "a%2Epng", b"second one")
    files = WrittenFiles(tmp_path)
    files.add([("map", "a")])
    files.finish([first, Written("b", 0, 2**32 - 1, 2**62)])
    files.finish([second])
    again = WrittenFiles(tmp_path)
    assert list(again) == [Written("b", 0, 2**32 - 1, 2**62), second]
    assert again.position_of(keys("a%2Epng", "map", "b", "a")).tolist() == [1, -1, 0, -1]
    assert (again.listed("map"), again.listed("file")) == (["a"], ["b", "a%2Epng"])
    assert second.state_of(path) == "same"
    assert first.state_of(path) == "changed"


def test_a_file_of_another_date_is_compared_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    known = Written.of(path, "a%2Epng", b"content")
    os.utime(path, ns=(0, 0))
    assert known.state_of(path) == "redated"
    path.write_bytes(b"Content")
    os.utime(path, ns=(0, 0))
    assert known.state_of(path) == "changed"
    with pytest.raises(FileNotFoundError):
        known.state_of(tmp_path / "b.png")


def test_the_list_of_a_job_that_is_done(tmp_path: Path) -> None:
    files = [Written("a", 1, 2, 3), Written("b/c", 4, 5, 6)]
    WrittenFiles(tmp_path).add([("map", "old")])
    write_list(tmp_path, files)
    assert list(WrittenFiles(tmp_path)) == files
    assert not WrittenFiles(tmp_path).listed("map")


def test_a_long_list_is_parsed_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_PARSED_BYTES", 50)
    names = [f"key-{number}{'x' * (number % 70)}" for number in range(100)]
    files = WrittenFiles(tmp_path)
    files.add([("map", name) for name in names])
    files.finish([Written(name, number, 2 * number, 3) for number, name in enumerate(names)])
    again = WrittenFiles(tmp_path)
    assert again.lists("map", keys(*names, "other")).tolist() == [True] * 100 + [False]
    assert list(again) == [Written(name, n, 2 * n, 3) for n, name in enumerate(names)]
    assert again.position_of(keys(*reversed(names))).tolist() == [*range(99, -1, -1)]
