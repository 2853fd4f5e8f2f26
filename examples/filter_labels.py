"""Keep only the labels that pass a quality filter of your own.

    python examples/filter_labels.py LABELS OUT [--max-area 0.7] [--min-agreement 0.5] …

OUT becomes a folder of label shards for `a2s stage2 --labels OUT`; images without a label are left
out there. `docs/label.md` explains the quality numbers. No label is changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from a2s.data.index import Index
from a2s.data.shards import ShardWriter

NUMBERS = ("area_share", "border_contact", "sign_margin", "crf_agreement")


def passes(
    index: Index, *, min_area: float, max_area: float, max_border: float, min_agreement: float
) -> npt.NDArray[np.bool_]:
    """Which rows to keep. Change this function: every column of the Parquet files is at hand.

    Shape: N, one per label.
    """
    area_N, border_N, _, agreement_N = (index.column(name) for name in NUMBERS)
    keep_N: npt.NDArray[np.bool_] = (area_N >= min_area) & (area_N <= max_area)
    return keep_N & (border_N <= max_border) & (agreement_N >= min_agreement)


def copy_kept(index: Index, keep_N: npt.NDArray[np.bool_], out: Path, *, settings: str) -> None:
    """Write label shards that hold the kept labels only, under the same names."""
    out.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(NUMBERS, "float")
    number_by_name = {name: index.column(name) for name in NUMBERS}
    for number, shard in enumerate(index.shards):
        with ShardWriter(
            out, shard.name, columns=columns, settings=settings, num_shards=len(index.shards)
        ) as writer:
            writer.extra["data_sha256"] = shard.made_of
            for row in index.shard_rows(number):
                if keep_N[row]:
                    values = {name: float(number_by_name[name][row]) for name in NUMBERS}
                    writer.add(index.key(row), {"png": index.read(row)}, **values)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--min-area", type=float, default=0.01)
    parser.add_argument("--max-area", type=float, default=0.7)
    parser.add_argument("--max-border", type=float, default=0.5)
    parser.add_argument("--min-agreement", type=float, default=0.3)
    given = vars(parser.parse_args())
    labels, out = given.pop("labels"), given.pop("out")
    index = Index.load(labels)
    keep_N = passes(index, **given)
    copy_kept(index, keep_N, out, settings=f"filter_labels {given}")
    print(f"kept {keep_N.sum():,} of {len(index):,} labels in {out}")


if __name__ == "__main__":
    main()
