"""From runs to one HTML file. Jinja2 escapes every text, and the page allows no scripts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from a2s.evaluation.page.charts import placed
from a2s.evaluation.page.compare import compare
from a2s.evaluation.page.one_run import gather
from a2s.evaluation.page.parts import find_parts
from a2s.evaluation.table import RUN_COLUMNS, border_note

_HERE = Path(__file__).parent
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def page(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """Make the page about one run, or about several; and say what is missing from it.

    Raises:
        ConfigError: a folder is not one that `find_parts` knows.
        DataError: scores or labels of a run cannot be read.
    """
    parts = [find_parts(folder) for folder in folders]
    views = [gather(one, letter) for one, letter in zip(parts, LETTERS, strict=False)]
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count(1)
    environment.filters["placed"] = lambda chart: placed(chart, next(numbers))
    text = environment.get_template("page.html").render(
        views=views,
        comparison=compare(views) if len(views) > 1 else None,
        columns=[title for title, _ in RUN_COLUMNS],
        border_note=border_note,
    )
    return text, [*dict.fromkeys(note for view in views for note in view.notes)]
