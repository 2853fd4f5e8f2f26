"""Files of a folder of results, compared with what they held when they were written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from a2s.data.keys import decode_key, encode_key
from a2s.errors import DataError
from a2s.storage.written import FILE_NAME, Written, WrittenFiles, write_list


def note_files(folder: Path, names: Iterable[str]) -> None:
    """List what these files of a folder hold, when all are written; they are read for that."""
    write_list(folder, (read_file(folder, name) for name in names))


def read_file(folder: Path, name: str) -> Written:
    """Describe a file of a folder by reading it."""
    return Written.read(folder / name, encode_key(name))


def changed_files(folder: Path) -> list[Path]:
    """Listed files that are missing, or do not hold what was written.

    Raises:
        DataError: the list is damaged.
    """
    files = [file for file in WrittenFiles(folder) if not is_as_written(folder, file)]
    try:
        return [folder / decode_key(file.key) for file in files]
    except DataError as error:
        raise DataError(f"{folder / FILE_NAME} is damaged ({error}); use another --out") from None


def is_as_written(folder: Path, file: Written) -> bool:
    """Whether a file of a folder is there and holds what was written."""
    try:
        return file.state_of(folder / decode_key(file.key)) != "changed"
    except (OSError, DataError):
        return False
