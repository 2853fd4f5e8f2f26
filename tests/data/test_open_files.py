"""Bytes by address: whole files, members, and what is no file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from a2s.data.open_files import Address


def test_a_whole_file_and_a_part_of_one(tmp_path: Path) -> None:
    path = tmp_path / "tar"
    path.write_bytes(b"0123456789")
    assert Address(str(path)).is_file
    assert Address(os.fsencode(path)).read() == b"0123456789"
    member = Address(str(path), 0, 4)
    assert not member.is_file
    assert member.read() == b"0123"
    assert Address(str(path), 8, 4).read() == b"89", "it ends there"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Address(str(tmp_path / "nowhere")).read()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            Address(str(path)).read()
    (tmp_path / "large").write_bytes(b"0123456789")
    for address in (Address(str(tmp_path / "large")), Address(str(tmp_path / "large"), 0, 10)):
        assert address.read(max_bytes=10) == b"0123456789"
        with pytest.raises(OSError, match="10 bytes are over the limit of 9") as caught:
            address.read(max_bytes=9)
        assert caught.value.errno == errno.EFBIG
