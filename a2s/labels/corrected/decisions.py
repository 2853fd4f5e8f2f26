"""Decisions about labels from the corrected masks of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from a2s.data.images import MAX_PIXELS, decode_mask, encode_png
from a2s.data.index import Index
from a2s.errors import DataError
from a2s.labels.corrected import coco, label_studio
from a2s.labels.corrected.found import Found, Unusable
from a2s.labels.review import Decision, DecisionLog, Source, now
from a2s.labels.shapes.regions import Bool
from a2s.storage import files
from a2s.storage.failures import Failure, failure
from a2s.storage.parsing import parse_json

MAX_BYTES = 2 * 2**30
"""A file is parsed as a whole, which takes several times its size."""
BATCH = 1000
NOT_REVIEWED = "no_annotation"


@dataclass
class Imported:
    """What became of the images of a file."""

    num_images: int = 0
    decisions: list[Decision] = field(default_factory=list)
    """New ones."""
    num_known: int = 0
    """Images whose decisions stay as they were."""
    replaced: Counter[str] = field(default_factory=Counter)
    """How many earlier decisions of each kind new masks replace."""
    not_reviewed: list[Failure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def verdicts(self) -> Counter[str]:
        """How many new decisions there are of each kind."""
        return Counter(one.verdict for one in self.decisions)


def import_masks(file: Path, labels: Path) -> Imported:
    """Read a file and append what it decides, all at once, to the labels' decisions.

    A mask that is equal to its label accepts it, unless something was decided about it: whoever
    corrected the file may not have touched this mask. Another mask fixes its label, whatever was
    decided. What holds already is not appended again.

    Raises:
        DataError: the file cannot be used at all, or no image in it is one of the labels.
    """
    index = Index.load(labels)
    source, images = _open(file)
    log, imported = DecisionLog(labels, index), Imported()
    log.refresh()
    chosen: dict[str, Decision] = {}
    time = now()
    try:
        while batch := list(islice(images, BATCH)):
            imported.num_images += len(batch)
            # One search for many keys: each takes as long as one for all of them.
            rows = iter(index.rows_of([key for one in batch for key in one.keys]).tolist())
            for one in batch:
                known = [(key, row) for key, row in zip(one.keys, rows, strict=False) if row >= 0]
                _add(one, known, imported, chosen, index=index, source=source, time=time)
    except DataError as error:
        raise DataError(f"import-masks: {file}: {error}") from None
    unknown = sum(problem["reason"] == "unknown_key" for problem in imported.failures)
    if unknown == imported.num_images:
        raise DataError(
            f"import-masks: {file} has {imported.num_images:,} images, none of them is in {labels}"
        )
    # Most are sorted out before the file is locked.
    new = [one for one in chosen.values() if _is_new(one, log.decisions.get(one.key))]
    appended = log.append_if(new, _is_new) if new else []
    imported.decisions = [decision for decision, _ in appended]
    imported.replaced = Counter(before.verdict for _, before in appended if before is not None)
    imported.num_known = len(chosen) - len(appended)
    return imported


def _open(file: Path) -> tuple[Source, Iterator[Found]]:
    """Which program wrote a file, and its images."""
    try:
        if (size := file.stat().st_size) > MAX_BYTES:
            raise DataError(
                f"import-masks: {file} has {size / 2**30:.1f} GiB, over the limit of "
                f"{MAX_BYTES / 2**30:g}; export fewer images at once"
            )
        values = parse_json(files.read_bytes(file))
    except OSError as error:
        raise DataError(f"import-masks: {file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"import-masks: {file} is no JSON ({error})") from None
    if isinstance(values, list):
        return "labelstudio", label_studio.read(values)
    if isinstance(values, dict) and "images" in values:
        return "coco", coco.read(values)
    raise DataError(
        f"import-masks: {file} is neither an export of Label Studio (a list of tasks) nor a COCO "
        "file (with images and annotations)"
    )


def _add(
    found: Found,
    known: list[tuple[str, int]],
    imported: Imported,
    chosen: dict[str, Decision],
    *,
    index: Index,
    source: Source,
    time: str,
) -> None:
    """Decide about one image, with the keys and rows that it may have, or list why not."""
    key, row = known[0] if known else ("", -1)
    try:
        if not known:
            raise Unusable("unknown_key", "the labels have no such image")
        label_HW = _label(index, row)
        mask_HW = found.mask(*label_HW.shape)
    except Unusable as error:
        listed = imported.not_reviewed if error.reason == NOT_REVIEWED else imported.failures
        listed.append(failure(key, found.shown, error.reason, str(error)))
        return
    if key in chosen:
        detail = "the file has this image more than once; its first mask counts"
        imported.failures.append(failure(key, found.shown, "duplicate_key", detail))
    elif (mask_HW == label_HW).all():
        chosen[key] = Decision(key, "accepted", None, time, source)
    else:
        png = encode_png(mask_HW.astype(np.uint8) * np.uint8(255))
        chosen[key] = Decision(key, "fixed", png, time, source)


def _label(index: Index, row: int) -> Bool:
    pixels = max(MAX_PIXELS, index.pixels(row))
    return np.asarray(decode_mask(index.read(row), max_pixels=pixels) > 127)


def _is_new(now: Decision, before: Decision | None) -> bool:
    """Whether a mask of the file says more than the decision that holds."""
    if before is None:
        return True
    if now.mask_png is None or now.mask_png == before.mask_png:
        return False
    if before.mask_png is None:
        return True
    return bool((decode_mask(before.mask_png) != decode_mask(now.mask_png)).any())
