"""Errors of writing files, and standard streams that are closed."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from a2s.data.index import Index
from a2s.data.synthetic import render_folder
from a2s.storage.files import atomic_path, atomic_write


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_nobody_s_files(tmp_path: Path, closed: str) -> None:
    """A shell or a service manager may close them; a file would take the free descriptor."""
    script = f'exec "{sys.executable}" -m a2s shard "$1" --out "$2" --workers 0 {closed}'
    render_folder(tmp_path, num_train=2, num_test=1, side_px=32, seed=1)
    arguments = ["sh", "-c", script, "sh", str(tmp_path / "train"), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Index.load(tmp_path / "out")) == 2
    assert "Traceback" not in done.stderr


def test_an_error_of_writing_names_the_file(tmp_path: Path) -> None:
    """Not a temporary file, which nobody knows, and not nothing."""
    path = tmp_path / "scores.json"
    with pytest.raises(OSError, match="No space left") as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] …")
    assert caught.value.filename == str(path)
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        atomic_write(path, "x")
    assert (caught.value.filename, caught.value.filename2) == (str(path), None)
    assert list(tmp_path.iterdir()) == [path]
