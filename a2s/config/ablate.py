"""Settings of `a2s ablate`: which table, on what data, with what sections of other commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from tyro.conf import Positional, UseAppendAction

from a2s.config.base import NO_IDENTITY, FailureRate, Folder, Settings, Workers
from a2s.config.commands import LabelOptions
from a2s.config.training import Stage1Options, Stage2Options

Named = Annotated[tuple[str, ...], UseAppendAction, Field(json_schema_extra=NO_IDENTITY)]
"""`NAME=FOLDER`, the flag once per name."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class AblateConfig(Settings):
    """One table or figure of the paper: its rows as runs, their numbers beside the paper's.

    Nothing here is an identity: every run that a table is made of guards its own folder, so tables
    that need other flags may share the runs that they have in common.
    """

    name: Annotated[Positional[str], Field(json_schema_extra=NO_IDENTITY)]
    """The table or figure, such as tab4 or fig9; an unknown name lists the known ones."""
    out: Folder
    """Folder for everything; tables with the same settings share it, and the runs in it."""
    data: Annotated[Path | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """What the networks learn from: a folder of images, or of data shards."""
    test: Named = ()
    """NAME=IMAGES, a folder of images or of data shards to score on; repeat it for more sets."""
    truth: Named = ()
    """NAME=MASKS of a test set, or train=MASKS of --data; shards may hold their masks."""
    maps: Named = ()
    """METHOD=FOLDER or METHOD/TEST=FOLDER of saliency maps made elsewhere, a row of tab2."""
    rows: Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Only these rows, such as A1,A3; the table shows all rows that are done."""
    limit: int | None = Field(None, ge=1, json_schema_extra=NO_IDENTITY)
    """Learn from only the first so many images."""
    quick: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Laptop form: 24 images, 12 per test set, MobileNetV2, 64 px, 2 epochs, where not given."""
    runs: Annotated[tuple[Path, ...], Field(json_schema_extra=NO_IDENTITY)] = ()
    """tab3: folders in which finished runs are looked for; default: --out."""
    processes: int = Field(0, ge=0, json_schema_extra=NO_IDENTITY)
    """Training processes; 0 means one per GPU, else one."""
    stage1: Stage1Options = Field(Stage1Options(), json_schema_extra=NO_IDENTITY)
    """Activation network, in every row that does not say otherwise."""
    label: LabelOptions = Field(LabelOptions(), json_schema_extra=NO_IDENTITY)
    """Pseudo labels."""
    stage2: Stage2Options = Field(Stage2Options(), json_schema_extra=NO_IDENTITY)
    """Detector, in every row that does not say otherwise."""
    workers: Workers = "auto"
    """Ray workers of the packing, labelling, prediction, and evaluation jobs."""
    max_failure_rate: FailureRate = 0.01
    """Exit code 3 when a larger share of the images failed."""

    @field_validator("test", "truth")
    @classmethod
    def _sets(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(pairs, _NAME, "NAME=FOLDER")

    @field_validator("maps")
    @classmethod
    def _methods(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(pairs, f"{_NAME}(/{_NAME})?", "METHOD=FOLDER or METHOD/TEST=FOLDER")


def by_name(pairs: tuple[str, ...]) -> dict[str, str]:
    """Folders by name; the last of a name counts, as with other flags."""
    return dict(pair.split("=", 1) for pair in pairs)


def _checked(pairs: tuple[str, ...], name: str, form: str) -> tuple[str, ...]:
    for pair in pairs:
        if not re.fullmatch(f"{name}=.+", pair):
            raise ValueError(f"{pair!r} is not {form} (names of letters, digits, and . _ -)")
    return pairs
