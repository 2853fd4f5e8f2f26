"""Images with a label, for both stages: which they are, where labels are read, damaged labels."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from a2s.config.training import Stage1Config, Stage2Config
from a2s.data.index import Index
from a2s.errors import DataError
from a2s.labels import review
from a2s.labels.store.reader import (
    UNLABELLED,
    Bools,
    LabelSource,
    labelled_rows,
    pinned_labels,
    unreadable_labels,
)
from a2s.parallel import ranks
from a2s.parallel.progress import say
from a2s.parallel.shared_folder import share_files
from a2s.storage import run_folder
from a2s.training.loop import TrainingRun

_SHOWN = 5
"""Keys of damaged labels that a message names."""


def labelled_images(
    config: Stage1Config | Stage2Config,
    run: TrainingRun,
    labels: Index,
    generation_by_epoch: Sequence[int],
    *,
    min_quality: float = 0.0,
) -> tuple[LabelSource, Bools]:
    """Where labels are read, and the rows of the index that have one.

    Images without a usable label are found once, left out of every epoch, and listed. Decisions of
    a reviewer are copied into the run folder, so that later ones change nothing.

    Raises:
        DataError: a decision was made, or its copy was damaged, after the run began.
        SystemExit: on all ranks with code 3, if too many labels are damaged.
    """
    label_row_N = labels.rows_of(run.index.keys)
    foreign = len(labels) - int((label_row_N >= 0).sum())
    if foreign and ranks.is_main():
        say(f"{run.name}: {foreign:,} labels of {labels.folder} have no image in {config.data}")
    decisions = _decisions(config, labels)
    if decisions and ranks.is_main():
        count = Counter(one.verdict for one in decisions.values())
        say(
            f"{run.name}: review: {count['accepted']:,} accepted and {count['fixed']:,} fixed "
            f"labels stay as they are; {count['rejected']:,} images are rejected and left out"
        )
    keep_N = labelled_rows(
        config.out, run.index, labels, label_row_N, min_quality=min_quality, decisions=decisions
    )
    source = LabelSource(
        labels,
        label_row_N,
        config.out / "labels",
        config.image_size,
        generation_by_epoch,
        resize_filter=config.parity.resize_filter,
        pinned=pinned_labels(decisions, run.index),
    )
    _check_damage(config, run)
    return source, keep_N


def _decisions(config: Stage1Config | Stage2Config, labels: Index) -> dict[str, review.Decision]:
    """Decisions by which this run goes, from its own copy of them (collective)."""
    wanted = run_folder.recorded(config.out, "inputs", "review")
    if wanted is None:
        return {}
    with ranks.fail_together():
        if ranks.is_main():
            now = review.read_decisions(labels.folder, labels)
            if review.fingerprint(now) == wanted:
                review.write_decisions(config.out, now)
    share_files()
    with ranks.fail_together():
        decisions = review.read_decisions(config.out, labels)
        if review.fingerprint(decisions) != wanted:
            raise DataError(
                f"{config.out / review.FILE_NAME} is not the copy of the decisions with which the "
                "run began; begin again with another --out"
            )
    return decisions


def _check_damage(config: Stage1Config | Stage2Config, run: TrainingRun) -> None:
    """End all ranks with code 3, before training, if too many labels are damaged."""
    with ranks.fail_together():
        keys = unreadable_labels(config.out)
    if not keys:
        return
    shown = ", ".join(keys[:_SHOWN]) + ("…" if len(keys) > _SHOWN else "")
    found = f"{len(keys):,} of {len(run.index):,} labels are damaged ({shown})"
    if len(keys) <= config.max_failure_rate * len(run.index):
        if ranks.is_main():
            where = config.out / UNLABELLED
            print(f"{run.name}: {found} and left out; see {where}", file=sys.stderr)
        return
    with ranks.fail_together():
        if ranks.is_main():
            print(
                f"{run.name}: {found}, over the limit of {config.max_failure_rate:.2%}. Delete the "
                f".json of their shards in {config.labels} and repeat a2s label, then this command"
            )
            # The list belongs to a run; none has begun.
            (config.out / UNLABELLED).unlink()
    raise SystemExit(3)
