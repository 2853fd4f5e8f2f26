"""What was added to the inputs of a folder of shards after they were listed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from a2s.data.inputs import collect
from a2s.data.tar_inputs import is_tar
from a2s.errors import A2SError
from a2s.storage.failures import Failure
from a2s.storage.remote import is_remote


@dataclass(frozen=True)
class Added:
    """Paths of images that were not listed, and number of images that have a mask only now."""

    images: list[str]
    num_masks: int


def added_since(
    listed: Path,
    failures: Sequence[Failure],
    inputs: Sequence[str],
    *,
    masks: Path | None,
    mask_pattern: str | None,
    out: Path,
) -> Added:
    """List folders and lists again and compare with `listed`, the table of the first time.

    Tars are left out, since reading them again may take as long as packing: see `listed_tars`.
    """
    again = [source for source in inputs if not is_remote(source) and not is_tar(Path(source))]
    try:
        found = collect(again, masks=masks, out=out, mask_pattern=mask_pattern).images
    except A2SError:
        # Inputs that are gone, or that hold nothing, add nothing.
        return Added([], 0)
    before = pq.read_table(listed, columns=["key", "path", "mask_path"])
    known = [os.fsencode(failure["path"]) for failure in failures]
    known_paths = pa.concat_arrays(
        [before["path"].combine_chunks(), pa.array(known, pa.large_binary())]
    )
    new = found.filter(pc.invert(pc.is_in(found["path"], value_set=known_paths)))
    without = before.filter(pc.is_null(before["mask_path"]))["key"]
    with_mask = found.filter(pc.is_valid(found["mask_path"]))["key"]
    num_masks = pc.sum(pc.is_in(without, value_set=with_mask)).as_py() or 0
    return Added([os.fsdecode(path) for path in new["path"].to_pylist()], int(num_masks))
