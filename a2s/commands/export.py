"""`a2s export`: labels in the format of another program.

It claims the folder, and leaves the work to `labels.export.job`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from a2s.config.export import ExportConfig
from a2s.data.index import Index
from a2s.data.results import changed_files
from a2s.errors import ConfigError
from a2s.labels.export.item import Style
from a2s.labels.export.job import (
    CHUNK_LABELS,
    LABELS,
    LEFT_OUT,
    Summary,
    begin_again,
    export_all,
    finished,
    remove_parts,
    sources_of,
)
from a2s.labels.export.one_label import ExportJob
from a2s.labels.review import fingerprint, read_decisions
from a2s.parallel import pool
from a2s.parallel.progress import say, say_error
from a2s.storage import files, run_folder
from a2s.storage.failures import FILE_NAME as FAILURES
from a2s.storage.parsing import printable

_WORDS = {"rejected": "rejected by a reviewer", "low_quality": "below --min-quality"}
_LOCKS = {".lock", ".lock-setup", ".lock-shards"}


def run(config: ExportConfig) -> int:
    """Export every label that is not there yet; return 0, or 3 when too many failed.

    Raises:
        DataError: labels or data are missing or unfinished, or a decision about them is damaged.
        ConfigError: the output holds files of others, is in use or was made with other settings.
    """
    labels, data = Index.load(config.labels.resolve()), Index.load(config.data.resolve())
    decisions = read_decisions(config.labels, labels)
    sources = sources_of(labels, data)
    if config.min_quality > 0 and sources.quality_N is None:
        raise ConfigError(
            f"export: {config.labels} has no quality numbers; leave --min-quality out"
        )
    _refuse_foreign(config.out)
    inputs = {
        "labels": labels.fingerprint,
        "data": data.fingerprint,
        "decisions": fingerprint(decisions),
    }
    with run_folder.claim(config.out, command="export", config=config, inputs=inputs):
        files.remove_temporary(config.out)
        summary = finished(config.out)
        changed = changed_files(config.out.resolve()) if summary else []
        is_new = summary is None or bool(changed)
        if summary is None or changed:
            job = ExportJob(
                sources,
                config.out.resolve(),
                config.format,
                _style(config),
                min_quality=config.min_quality,
                copies_images=config.images,
                num_chunks=-(-len(labels) // CHUNK_LABELS),
            )
            if changed:
                say_error(
                    f"export: {len(changed):,} files of {config.out} are not what this job wrote, "
                    f"such as {printable(changed[0].name)}; the export is made again"
                )
                begin_again(job, changed)
            workers = pool.resolve_workers(
                config.workers, len(labels), ray_address=config.ray_address
            )
            summary = export_all(job, decisions, workers=workers, ray_address=config.ray_address)
            # Workers that were killed, while the command lived, have left some.
            files.remove_temporary(config.out)
        if not summary.num_failures:
            remove_parts(config.out)
    if without := len(data) - np.count_nonzero(sources.data_row_N >= 0):
        say(f"export: {without:,} images of {config.data} have no label")
    return _conclude(config, summary, num_labels=len(labels), is_new=is_new)


def _refuse_foreign(out: Path) -> None:
    """An export begins in an empty folder, so that it can tell its files from those of others."""
    if not out.is_dir() or (out / "config.yaml").exists():
        return
    if others := sorted({entry.name for entry in os.scandir(out)} - _LOCKS):
        raise ConfigError(
            f"export: {out} holds files of others ({', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}); use an empty --out"
        )


def _style(config: ExportConfig) -> Style:
    root = config.image_root
    if root is None:
        root = f"/data/local-files/?d={config.out.resolve().name}/images/"
    return Style(polygons=config.polygons, instances=config.instances, image_root=root)


def _conclude(config: ExportConfig, summary: Summary, *, num_labels: int, is_new: bool) -> int:
    """Say what the folder holds, and what it lacks."""
    out = config.out
    state = "" if is_new else "done already: "
    objects = f" with {summary.num_objects:,} objects" if config.instances else ""
    print(
        f"export: {state}{out} holds {summary.num_labels:,} labels{objects} as {config.format}; "
        f"{out / LABELS} lists them"
    )
    if summary.num_converted:
        print(
            f"export: {summary.num_converted:,} images were turned upright or made JPEGs, which "
            "encodes them again"
        )
    for reason, count in sorted(summary.left_out.items()):
        print(f"export: {count:,} labels {_WORDS[reason]} are left out: {out / LEFT_OUT}")
    failed = summary.num_failures
    if failed:
        say_error(
            f"export: {failed:,} of {num_labels:,} labels failed ({failed / num_labels:.2%}): "
            f"{out / FAILURES}; the same command tries them again"
        )
    print("next: docs/export.md says how to open it in other programs")
    return 3 if failed > config.max_failure_rate * num_labels else 0
