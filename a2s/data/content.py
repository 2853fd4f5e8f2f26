"""Can anything be learned from these images? Not from copies of one file or from plain colours."""

from __future__ import annotations

import numpy as np

from a2s.data.arrays import U8
from a2s.data.images import MAX_PIXELS, decode
from a2s.data.index import Index
from a2s.errors import DataError

_PLAIN = 1.0
"""Standard deviation of grey levels, of 255, up to which an image shows nothing."""


def check_content(index: Index, *, command: str) -> int:
    """The number of images that are copies of others: their bytes have the same size and CRC-32.

    Reads images up to the first one that shows something, so usually one.

    Raises:
        DataError: all images are copies of one, or each has one colour throughout.
    """
    files_N2 = np.column_stack([index.size_N, index.crc32_N.astype(np.int64)])
    num_copies = len(index) - len(np.unique(files_N2, axis=0))
    if num_copies and num_copies == len(index) - 1:
        raise DataError(
            f"{command}: all {len(index):,} images of {index.folder} are copies of one file, so "
            "there is nothing to learn from; give different images"
        )
    if all(_is_plain(index, row) for row in range(len(index))):
        raise DataError(
            f"{command}: each of the {len(index):,} images of {index.folder} has one colour "
            "throughout, so there is nothing to learn from; give images that show something"
        )
    return num_copies


def _is_plain(index: Index, row: int) -> bool:
    """Whether an image has one colour throughout; False if it cannot be decoded."""
    limit = max(MAX_PIXELS, index.pixels(row))  # a2s shard may have been told to take more
    try:
        image_HW3: U8 = decode(index.read(row), max_pixels=limit)
    except DataError:
        return False  # training says so where it reads the image
    return bool(image_HW3.reshape(-1, 3).std(axis=0).max() <= _PLAIN)
