"""`a2s import-masks`: corrected masks of Label Studio or COCO, as decisions about labels."""

from __future__ import annotations

import shlex

from a2s.config.export import ImportMasksConfig
from a2s.labels.corrected.decisions import import_masks
from a2s.labels.review import FILE_NAME
from a2s.parallel.progress import say_error


def run(config: ImportMasksConfig) -> int:
    """Append the decisions of a file; return 0, or 3 when too many masks cannot be used.

    Raises:
        DataError: the file or the labels cannot be used; then nothing is appended.
    """
    done = import_masks(config.file, config.labels)
    for problem in done.failures:
        say_error(f"import-masks: {problem['path']}: {problem['reason']} ({problem['detail']})")
    for image in done.not_reviewed:
        print(f"import-masks: {image['path']}: left out, {image['detail']}")
    verdicts = done.verdicts
    print(
        f"import-masks: {config.labels / FILE_NAME}: {verdicts['fixed']:,} labels fixed, "
        f"{verdicts['accepted']:,} accepted, {done.num_known:,} decided before; "
        f"{len(done.not_reviewed):,} images left out, {len(done.failures):,} failed"
    )
    if done.replaced:
        kinds = ", ".join(
            f"{count:,} {verdict}" for verdict, count in sorted(done.replaced.items())
        )
        print(f"import-masks: the fixes replace {done.replaced.total():,} decisions ({kinds})")
    words = ["a2s", "stage2", "--data", "DATA", "--labels", str(config.labels), "--out", "runs/s2"]
    print(f"next: {shlex.join(words)}")
    return 3 if len(done.failures) > config.max_failure_rate * done.num_images else 0
