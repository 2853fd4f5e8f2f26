"""Distribution of a label set's quality numbers, read shard by shard, and the rows to look at.

Memory does not grow with the number of labels: counts in bins, the best and the worst few rows,
and a random sample of a fixed size. Shape suffixes: N rows of one shard, A Q bins.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from a2s.data.open_files import Address
from a2s.data.origin import IMAGE_CRC32
from a2s.data.tables import read_manifests
from a2s.errors import DataError
from a2s.evaluation.pairs import PictureFile

RANKED_BY = ("quality", "crf_agreement", "decision_margin")
"""Columns by which labels are called good or bad: the first one that the table has."""
RANGES = {
    "quality": (0.0, 1.0),
    "area_share": (0.0, 1.0),
    "border_contact": (0.0, 1.0),
    "decision_margin": (0.0, 0.5),
    "crf_agreement": (0.0, 1.0),
    "map_overlap": (0.0, 1.0),
    "map_peak": (0.0, 1.0),
    "colour_contrast": (0.0, 1.0),
    "num_components": (0.5, 12.5),
    "changed_share": (0.0, 1.0),
}
"""Columns that are counted, and the range of their bins; what lies outside counts at the end."""
FLAGS = ("no_object", "inverted")
FINE_BINS = 1000
"""Bins from which quantiles are read."""
MAP_BINS = 24
SAMPLE = 2000
EXTREMES = 8
_LOCATION = ("offset", "size", "crc32", "mask_offset", "mask_size", "mask_crc32", IMAGE_CRC32)


class Row(NamedTuple):
    """One row of a shard: its key, its shard, where its bytes lie, and its numbers."""

    key: str
    shard: str
    place: dict[str, int]
    numbers: dict[str, float]

    def picture(self, folder: Path) -> PictureFile:
        """The main member: the photograph of data shards, the label of label shards."""
        place = self.place
        address = Address(str(folder / f"{self.shard}.tar"), place["offset"], place["size"])
        return PictureFile(address, place["crc32"])

    def mask(self, folder: Path) -> PictureFile | None:
        """The mask that was packed with a photograph."""
        place = self.place
        if place.get("mask_offset", -1) < 0:
            return None
        tar = str(folder / f"{self.shard}.tar")
        address = Address(tar, place["mask_offset"], place["mask_size"])
        return PictureFile(address, place["mask_crc32"])


@dataclass
class LabelTable:
    """What all label shards of a folder say together."""

    num_labels: int = 0
    num_empty: int = 0
    ranked_by: str | None = None
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Labels per bin of each column of `RANGES`. Shape: `FINE_BINS`."""
    sums: dict[str, float] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    area_by_rank_AQ: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((MAP_BINS, MAP_BINS), np.int64)
    )
    """Labels by `area_share` and by the column that ranks them."""
    best: list[Row] = field(default_factory=list)
    """Best first."""
    worst: list[Row] = field(default_factory=list)
    """Worst first."""
    sample: list[Row] = field(default_factory=list)
    """A random sample; the same for the same shards."""
    problems: list[str] = field(default_factory=list)
    """Why these are not all labels."""

    def mean(self, column: str) -> float:
        """Mean of a column; NaN without labels."""
        return self.sums[column] / self.num_labels if self.num_labels else float("nan")

    def quantile(self, column: str, share: float) -> float:
        """Number below which this share of the labels lies, within the width of a bin."""
        low, high = RANGES[column]
        below = np.cumsum(self.counts[column])
        at = int(np.searchsorted(below, share * below[-1]))
        return low + (high - low) * (min(at, FINE_BINS - 1) + 0.5) / FINE_BINS

    def deciles(self, per_decile: int) -> list[list[Row]]:
        """Rows of the sample from each tenth of it by rank, the lowest tenth first."""
        if self.ranked_by is None:
            return []
        name = self.ranked_by
        ordered = sorted(self.sample, key=lambda row: (row.numbers[name], row.key))
        tenths = np.array_split(np.arange(len(ordered)), 10)
        # From the middle of a tenth, because its ends belong to its neighbours as well.
        middles = [tenth[len(tenth) // 2 :][:per_decile] for tenth in tenths]
        return [[ordered[int(at)] for at in middle] for middle in middles]


def _unfinished(folder: Path) -> list[str]:
    """What a command that needs all labels would say."""
    try:
        read_manifests(folder)
    except DataError as error:
        return [str(error)]
    return []


def read_labels(folder: Path, *, rank: str | None = None) -> LabelTable:
    """Read all finished label shards of a folder, one at a time.

    `rank`: the column that orders rows; else the first one of `RANKED_BY`.

    Raises:
        DataError: no finished shard, or a table that cannot be read.
    """
    found = LabelTable(problems=_unfinished(folder))
    generator = np.random.default_rng(0)
    best: list[tuple[float, int, Row]] = []
    worst: list[tuple[float, int, Row]] = []
    sample: list[tuple[float, int, Row]] = []
    for shard, table in _tables(folder):
        columns = {
            name: table[name].to_numpy().astype(np.float64)
            for name in (*RANGES, *FLAGS)
            if name in table.column_names
        }
        name = rank or next((name for name in RANKED_BY if name in columns), None)
        found.ranked_by = name if name in columns else None
        _count(found, columns)
        rank_N = columns[name] if name in columns else np.zeros(len(table))
        ticket_N = generator.random(len(table))
        for heap, order_N, size in (
            (best, rank_N, EXTREMES),
            (worst, -rank_N, EXTREMES),
            (sample, ticket_N, SAMPLE),
        ):
            for at in np.argsort(-order_N, kind="stable")[:size].tolist():
                value = float(order_N[at])
                if len(heap) == size and value <= heap[0][0]:
                    break
                # The count of labels so far breaks ties, so that rows are never compared.
                entry = (value, -(found.num_labels + at), _row(table, at, shard, columns))
                (heapq.heappushpop if len(heap) == size else heapq.heappush)(heap, entry)
        found.num_labels += len(table)
    found.best, found.worst, found.sample = (
        [row for _, _, row in sorted(heap, key=lambda entry: (-entry[0], -entry[1]))]
        for heap in (best, worst, sample)
    )
    return found


def find_rows(
    folder: Path, keys: Collection[str], *, shards: Sequence[str] | None = None
) -> dict[str, Row]:
    """Find the rows of some keys, reading one shard's table at a time.

    `shards`: look only there.

    Raises:
        DataError: as `read_labels`.
    """
    wanted = pa.array(sorted(keys), pa.string())
    rows = {}
    for shard, table in _tables(folder, shards):
        hits = pc.is_in(table["key"].cast(pa.string()), value_set=wanted).to_numpy()
        for at in np.flatnonzero(hits).tolist():
            row = _row(table, at, shard, {})
            rows[row.key] = row
    return rows


def _tables(folder: Path, shards: Sequence[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
    names = sorted({path.stem for path in folder.glob("shard-*.json")} & set(shards or ()))
    if shards is None:
        names = sorted(path.stem for path in folder.glob("shard-*.json"))
        if not names:
            raise DataError(f"{folder}: no finished shards (shard-000000.json …); make them first")
    for name in names:
        path = folder / f"{name}.parquet"
        try:
            # Not as a data set: that would take the shards' folders for columns.
            table = pq.ParquetFile(path).read()
            if "key" not in table.column_names:
                raise DataError(f"{path}: no column key; it is no table of a2s")
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); delete {name}.json and rerun the command that "
                "made it"
            ) from error
        yield name, table


def _count(found: LabelTable, columns: dict[str, NDArray[np.float64]]) -> None:
    for name, values_N in columns.items():
        if name in FLAGS:
            found.flags[name] = found.flags.get(name, 0) + int(values_N.sum())
            continue
        counts = _histogram(values_N, name, FINE_BINS)
        found.counts[name] = found.counts.get(name, np.zeros(FINE_BINS, np.int64)) + counts
        found.sums[name] = found.sums.get(name, 0.0) + float(values_N.sum())
    if "area_share" in columns:
        found.num_empty += int((columns["area_share"] == 0).sum())
        if found.ranked_by is not None:
            area_N = _bin(columns["area_share"], "area_share", MAP_BINS)
            rank_N = _bin(columns[found.ranked_by], found.ranked_by, MAP_BINS)
            np.add.at(found.area_by_rank_AQ, (area_N, rank_N), 1)


def _histogram(values_N: NDArray[np.float64], name: str, num_bins: int) -> NDArray[np.int64]:
    return np.bincount(_bin(values_N, name, num_bins), minlength=num_bins)


def _bin(values_N: NDArray[np.float64], name: str, num_bins: int) -> NDArray[np.int64]:
    low, high = RANGES[name]
    share_N = np.nan_to_num((values_N - low) / (high - low))
    return np.clip((share_N * num_bins).astype(np.int64), 0, num_bins - 1)


def _row(table: pa.Table, at: int, shard: str, columns: dict[str, Any]) -> Row:
    place = {name: table[name][at].as_py() for name in _LOCATION if name in table.column_names}
    numbers = {name: float(values_N[at]) for name, values_N in columns.items()}
    return Row(table["key"][at].as_py(), shard, place, numbers)
