"""Read the output folders of a table's jobs and write the table as Markdown, CSV and SVG."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from a2s.data.index import Index
from a2s.evaluation.score_files import read_scores
from a2s.evaluation.table import baseline, border_note
from a2s.paper import numbers
from a2s.paper.tables.charts import bars, curve
from a2s.paper.tables.format import Line, Table, csv_text, differences, markdown
from a2s.paper.tables.hours import wall_sec
from a2s.paper.tables.rows import Material, Row
from a2s.storage.checkpoints import last_commit
from a2s.storage.files import atomic_write, read_text
from a2s.storage.parsing import parse_json, parse_yaml
from a2s.storage.tensors import read_shapes

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "e5_scale_C")
_WITH_PARAMETERS = ("tab7",)


class _Record(BaseModel):
    """What is read of a log; each command writes some of it."""

    time_unix_sec: float
    epoch: int = 0
    step: int = 0
    images_per_sec: float = 0.0
    wall_sec: float = 0.0
    elapsed_sec: float = 0.0
    exit_code: int | None = None


CENTRE = "one Gaussian in the middle"
"""Title of the row of the baseline that is the same for every image."""


def write_table(
    material: Material, rows: Sequence[Row], *, name: str, title: str, x_name: str = ""
) -> str:
    """Write NAME.md, NAME.csv and NAME.svg; return the first."""
    log = read_log(material.out)
    sets = [s.name for s in material.scored if any(s.name in row.scores for row in rows)]
    ours = {row.name: scores_of(row.scores) for row in rows}
    scored = [pair for found in ours.values() for pair in found.items()]
    lines = [_line(material, row, ours[row.name], sets, log, table=name) for row in rows]
    table = Table(
        title,
        tuple(sets),
        (*lines, Line("centre", CENTRE, ours=centre_of(scored))),
        notes=(*notes_of(material, rows, scored, name), *_border_notes(scored)),
        paper_sets=_paper_sets(sets, table=name),
        x_name=x_name,
    )
    text = markdown(table)
    write_if_new(material.out / f"{name}.md", text)
    write_if_new(material.out / f"{name}.csv", csv_text(table))
    write_if_new(material.out / f"{name}.svg", curve(table) if x_name else bars(table))
    return text


def centre_of(scored: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Scores of the Gaussian by set, from any scores.json of the set: all of them have it."""
    found = ((name, baseline(values, "centre")) for name, values in reversed(scored))
    return {name: values for name, values in found if values is not None}


def _border_notes(scored: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    # All rows of a set have the same truths.
    notes = {name: border_note(values) for name, values in scored if "num_touching" in values}
    return [f"{name}: {note}." for name, note in notes.items()]


def notes_of(
    material: Material,
    rows: Sequence[Row],
    scores: Sequence[tuple[str, Mapping[str, Any]]],
    name: str,
) -> tuple[str, ...]:
    """Return a table's notes: which F it shows, differences from the paper, remarks on its numbers.

    `scores` are pairs (set, content of a scores.json).
    """
    settings: dict[str, list[dict[str, Any]]] = {}
    for stage, run in dict.fromkeys(run for row in rows for run in row.trained):
        if (resolved := read_settings(run, stage)) is not None:
            settings.setdefault(stage, []).append(resolved)
    data = material.data
    num_train = len(Index.load(data)) if data and any(data.glob("shard-*.json")) else None
    num_test = {set_: values["num_images"] for set_, values in scores}
    which_f = dict.fromkeys(f"F is adaptive F. {v['which_f']}." for _, v in scores)
    differs = differences(settings, num_train=num_train, num_test=num_test)
    return (*which_f, differs, *numbers.NOTES.get(name, ()))


def scores_of(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Read the scores.json of every set; sets that are not scored yet are left out."""
    files = {name: folder / "scores.json" for name, folder in folders.items()}
    return {name: read_scores(file) for name, file in files.items() if file.is_file()}


def read_settings(run: Path, command: str) -> dict[str, Any] | None:
    """Read the resolved settings of a run; None: the folder holds no run of this command."""
    try:
        record = parse_yaml(read_text(run / "config.yaml"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(known := record.get("identity"), dict):
        return None
    settings = record.get(command)
    # Those that were compared when the run went on stand above the others.
    return {**settings, **known} if isinstance(settings, dict) else None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, without lines that a kill has truncated, and what is no record."""
    records = []
    path = folder / "metrics.jsonl"
    for line in read_text(path, errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            values = parse_json(line)
            _Record.model_validate(values)
            records.append(values)
    return records


def hours_of(
    material: Material, folders: Sequence[Path], log: Sequence[Mapping[str, Any]]
) -> float:
    """Sum the hours of the jobs that wrote these folders, over all attempts."""
    total = 0.0
    for folder in folders:
        alive = [float(record["time_unix_sec"]) for record in read_log(folder)]
        out = folder.relative_to(material.out).as_posix()
        total += wall_sec(log, out, alive_sec=alive) or 0.0
    return total / 3600


def num_parameters(run: Path) -> int | None:
    """Count the parameters of a run's last commit from the file header; None: no commit yet.

    Raises:
        CheckpointError: the commit or its model cannot be read.
    """
    commit = last_commit(run)
    if commit is None:
        return None
    shapes = read_shapes(commit.folder / "model.safetensors")
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if name.rpartition(".")[2] not in _BUFFERS
    )


def write_if_new(path: Path, text: str) -> None:
    """Write a file unless it already has this content."""
    if not path.is_file() or read_text(path) != text:
        atomic_write(path, text)


def _line(
    material: Material,
    row: Row,
    ours: Mapping[str, Mapping[str, Any]],
    sets: Sequence[str],
    log: Sequence[Mapping[str, Any]],
    *,
    table: str,
) -> Line:
    known = numbers.SCORES.get(table, {}).get(row.paper, {})
    names = {name: numbers.set_name(name) for name in sets}
    theirs = {name: known[title] for name, title in names.items() if title in known}
    extras: dict[str, float] = {}
    if row.timed and (hours := hours_of(material, row.timed, log)):
        extras["hours"] = hours
    if table in _WITH_PARAMETERS and row.timed and (count := num_parameters(row.timed[0])):
        extras["parameters_m"] = count / 1e6
    return Line(
        row.name,
        row.title,
        ours=ours,
        paper={**known, **theirs},
        extras=extras,
        paper_extras=numbers.EXTRAS.get(table, {}).get(row.paper, {}),
        x=row.x,
    )


def _paper_sets(sets: Sequence[str], *, table: str) -> tuple[str, ...]:
    """Return the paper's sets if we scored none of them, so that its numbers are shown anyway."""
    scored = [name for row in numbers.SCORES.get(table, {}).values() for name in row]
    known = tuple(dict.fromkeys(scored))
    return () if {numbers.set_name(name) for name in sets} & {*known} else known
