"""Brush strokes of Label Studio: RGBA pixels, packed bit by bit as thi.ng/rle-pack does. Pure.

A stream begins with the number of words (32 bits), the bits of a word less 1 (5 bits) and four
times the bits of a length less 1 (4 bits). Blocks follow: a bit that says whether one word repeats,
two bits that choose one of the four, the length less 1, and the word, or as many words as that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from a2s.labels.shapes.regions import Bool

_WORD_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_CHANNELS = 4
_ALPHA = 3
_MAX_BYTES = 8
"""Bytes of a pixel whose four words are blocks of their own, rounded up."""
_HALF = 128
"""Pixels of at least this opacity are inside: the brush's edge is drawn softly."""


def encode(counts: Sequence[int]) -> list[int]:
    """Bytes of the stream of a mask, whose pixels are 0 or 255 in all four channels.

    `counts` are its run lengths row by row (`row_counts`): background, which may be 0 long, then
    foreground, in turn.
    """
    lengths = np.asarray(counts, np.int64) * _CHANNELS
    longest = 1 << _LENGTH_BITS[-1]
    num_blocks = -(-lengths // longest)
    word = np.repeat(np.arange(len(lengths)) % 2 * 255, num_blocks)
    lengths, num_blocks = lengths[lengths > 0], num_blocks[lengths > 0]
    length = np.full(word.shape, longest, np.int64)
    length[np.cumsum(num_blocks) - 1] = lengths - (num_blocks - 1) * longest
    choice = np.searchsorted([1 << bits for bits in _LENGTH_BITS], length)
    length_bits = np.asarray(_LENGTH_BITS)[choice]
    # 1, choice, length - 1, word, from the highest bit on.
    value = ((4 | choice) << length_bits | length - 1) << _WORD_BITS | word
    header = [(int(lengths.sum()), 32), (_WORD_BITS - 1, 5), *((n - 1, 4) for n in _LENGTH_BITS)]
    values = np.concatenate([[number for number, _ in header], value])
    sizes = np.concatenate([[bits for _, bits in header], 3 + length_bits + _WORD_BITS])
    ends = np.cumsum(sizes)
    shift = np.repeat(ends, sizes) - 1 - np.arange(ends[-1])
    stream: list[int] = np.packbits(np.repeat(values, sizes) >> shift & 1).tolist()
    return stream


def decode(stream: Sequence[int], *, height: int, width: int) -> Bool:
    """The mask of a stream. Shape: height width.

    Raises:
        ValueError: it is no such stream, ends early, or is of an image of another size.
    """
    if len(stream) > _MAX_BYTES * (height * width + 1):
        raise ValueError("the brush stroke is longer than the image")
    if any(type(byte) is not int or not 0 <= byte <= 255 for byte in stream):
        raise ValueError("a number of the brush stroke is not a byte")
    bits = _Bits(bytes(stream))
    num_words, wanted = bits.take(32), height * width * _CHANNELS
    if num_words != wanted:
        raise ValueError(f"the brush stroke has {num_words:,} values, the image {wanted:,}")
    if (word_bits := bits.take(5) + 1) != _WORD_BITS:
        raise ValueError(f"words of the brush stroke have {word_bits} bits, not {_WORD_BITS}")
    length_bits = [bits.take(4) + 1 for _ in _LENGTH_BITS]
    words = np.zeros(num_words, np.uint8)
    done = 0
    while done < num_words:
        repeats = bits.take(1)
        end = done + bits.take(length_bits[bits.take(2)]) + 1
        if end > num_words:
            raise ValueError("the brush stroke has more values than it says")
        words[done:end] = bits.take(_WORD_BITS) if repeats else bits.words(end - done)
        done = end
    return np.asarray(words.reshape(height, width, _CHANNELS)[..., _ALPHA] >= _HALF)


class _Bits:
    """Reads numbers of any width from bytes, highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._digits = (self._bits + ord("0")).tobytes().decode("ascii")
        self._position = 0

    def take(self, width: int) -> int:
        """The next number."""
        return int(self._digits[self._skip(width) : self._position], 2)

    def words(self, count: int) -> npt.NDArray[np.uint8]:
        """The next words, uncompressed."""
        start = self._skip(count * _WORD_BITS)
        return np.packbits(self._bits[start : self._position])

    def _skip(self, width: int) -> int:
        start, self._position = self._position, self._position + width
        if self._position > len(self._digits):
            raise ValueError("the brush stroke ends early")
        return start
