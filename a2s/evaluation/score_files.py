"""Files of scores, which anyone may have changed since they were written: read and compared."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

from a2s.data.keys import encode_key
from a2s.errors import DataError
from a2s.evaluation.metrics import NUM_THRESHOLDS
from a2s.storage.failures import FILE_NAME as FAILURES
from a2s.storage.files import is_there, read_bytes
from a2s.storage.parsing import parse_json
from a2s.storage.written import FILE_NAME as WRITTEN
from a2s.storage.written import WrittenFiles

_TEXTS = {
    *("which_f", "which_e", "convention", "inputs_sha256", "benchmark"),
    *("metric_library", "metric_library_version"),
}
_NEEDED = ("num_images", "num_touching", "truth_ring_share", "which_f")
_CURVES = ("precision", "recall", "f")
FILES = (
    *("scores.json", "curves.json", "missing.json", "images.parquet", FAILURES),
    *("pr_curve.svg", "f_curve.svg"),
)
"""What a command that scores writes, all of which is listed with checksums."""


def read_scores(path: Path) -> dict[str, Any]:
    """Read the scores of a set of images: numbers, None where there is none, and a few texts.

    Raises:
        DataError: the file is missing, or not what `a2s evaluate` wrote.
    """
    values = _read(path)
    for name in _NEEDED:
        if values.get(name) is None:
            raise _damaged(path, f"it has no {name}")
    for name, value in values.items():
        if not (isinstance(value, str) if name in _TEXTS else value is None or _is_number(value)):
            raise _damaged(path, f"{name} is {'no text' if name in _TEXTS else 'no number'}")
    return values


def read_curves(path: Path) -> dict[str, list[float]]:
    """Read the curves of a set of images: means for each of 256 thresholds.

    Raises:
        DataError: as `read_scores`.
    """
    values = _read(path)
    for name in _CURVES:
        curve = values.get(name)
        if not isinstance(curve, list) or [*map(_is_number, curve)] != [True] * NUM_THRESHOLDS:
            raise _damaged(path, f"{name} is no list of {NUM_THRESHOLDS} numbers")
    return values


def _is_number(value: object) -> bool:
    """Whether it is a number that can be shown: finite, and of a size that floats have."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_bytes(path)
        values = parse_json(data)
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(values, dict):
        raise _damaged(path, "it holds no names")
    if not _is_listed(path, zlib.crc32(data)):
        raise _damaged(path, f"it does not match its checksum in {WRITTEN}")
    return values


def _is_listed(path: Path, crc32: int) -> bool:
    """Whether the list of a folder of scores has this checksum, or says nothing of the file."""
    if not is_there(path.parent / WRITTEN):
        return True
    files = {file.key: file for file in WrittenFiles(path.parent)}
    known = files.get(encode_key(path.name))
    return known is None or known.crc32 == crc32


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path}: cannot be read ({why}); evaluate again")
