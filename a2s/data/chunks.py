"""Chunks: runs of consecutive samples of a shard, the work items of the pool."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from a2s.data import images
from a2s.data.arrays import U8
from a2s.data.index import Index


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples of one shard, sent to one worker; `number` counts chunks per shard."""

    shard: int
    number: int
    part: Index

    def __str__(self) -> str:
        return f"{self.part.shards[0].name}, chunk {self.number} from key {self.part.key(0)}"

    def only(self, rows: range) -> Chunk:
        """Some consecutive samples of it."""
        return dataclasses.replace(self, part=self.part.part(rows))

    def decode(self, row: int) -> U8:
        """Read and decode the image of a row of `part`. Shape: H W 3.

        Raises:
            DataError: the image is damaged.
        """
        max_pixels = max(images.MAX_PIXELS, self.part.pixels(row))
        return images.decode(self.part.read(row), max_pixels=max_pixels)


def chunks(index: Index, *, todo: list[int], size: int) -> Iterator[Chunk]:
    """Yield the chunks, of at most `size` samples, of the shards in `todo`, in order."""
    for shard in todo:
        rows = index.shard_rows(shard)
        for number, start in enumerate(range(rows.start, rows.stop, size)):
            yield Chunk(shard, number, index.part(range(start, min(start + size, rows.stop))))
