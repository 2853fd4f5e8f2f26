"""Settings of `a2s ablate`: the table, its data, and the settings of the commands that it calls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from tyro.conf import Positional, UseAppendAction

from a2s.config.base import NO_IDENTITY, FailureRate, Folder, Settings, Workers
from a2s.config.commands import LabelOptions
from a2s.config.training import Stage1Options, Stage2Options

Named = Annotated[tuple[str, ...], UseAppendAction, Field(json_schema_extra=NO_IDENTITY)]
"""`NAME=FOLDER`, the flag once per name."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class AblateConfig(Settings):
    """Reproduce a table or figure of the paper and compare the numbers."""

    # No field belongs to an identity: every run of a table guards its own folder, so that tables
    # with different flags share the runs that they have in common.

    name: Annotated[Positional[str], Field(json_schema_extra=NO_IDENTITY)]
    """Table or figure, such as tab4 or fig9; an unknown name lists the known ones."""
    out: Folder
    """Output folder; tables with the same settings may share it, and then share their runs."""
    data: Annotated[Path | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Images to learn from: a folder of images, or of data shards."""
    test: Named = ()
    """Test set as NAME=FOLDER of images or data shards; repeat the flag for more sets."""
    truth: Named = ()
    """Masks as NAME=FOLDER of a test set, or train=FOLDER of --data; not needed for shards with
    masks."""
    maps: Named = ()
    """Saliency maps of another method for tab2, as METHOD=FOLDER or METHOD/TEST=FOLDER."""
    rows: Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Run only these rows, such as A1,A3, and RBD; the table shows all finished rows."""
    limit: int | None = Field(None, ge=1, json_schema_extra=NO_IDENTITY)
    """Learn only from the first so many images."""
    quick: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Use defaults for a laptop: 24 images, 12 per test set, MobileNetV2, 64 px, 2 epochs."""
    runs: Annotated[tuple[Path, ...], Field(json_schema_extra=NO_IDENTITY)] = ()
    """Folders that tab3 searches for finished runs; default: --out."""
    processes: int = Field(0, ge=0, json_schema_extra=NO_IDENTITY)
    """Number of training processes; 0 means one per GPU, or one without a GPU."""
    stage1: Stage1Options = Field(Stage1Options(), json_schema_extra=NO_IDENTITY)
    """Training of the activation network, where a row does not change it."""
    label: LabelOptions = Field(LabelOptions(), json_schema_extra=NO_IDENTITY)
    """Making of pseudo labels."""
    stage2: Stage2Options = Field(Stage2Options(crops=0), json_schema_extra=NO_IDENTITY)
    """Training of the detector, where a row does not change it; by default without crops."""
    workers: Workers = "auto"
    """Number of Ray workers of packing, labelling, prediction, and evaluation."""
    max_failure_rate: FailureRate = 0.01
    """Exit with code 3 if a larger share of the images fails."""

    @field_validator("stage2", mode="before")
    @classmethod
    def _whole_images(cls, given: Any) -> Any:
        """The paper's detectors see whole images."""
        return {"crops": 0, **given} if isinstance(given, dict) else given

    @field_validator("test", "truth")
    @classmethod
    def _sets(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(pairs, _NAME, "NAME=FOLDER")

    @field_validator("maps")
    @classmethod
    def _methods(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(pairs, f"{_NAME}(/{_NAME})?", "METHOD=FOLDER or METHOD/TEST=FOLDER")


def by_name(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return folders by name; a name given twice has its last folder."""
    return dict(pair.split("=", 1) for pair in pairs)


def _checked(pairs: tuple[str, ...], name: str, form: str) -> tuple[str, ...]:
    for pair in pairs:
        if not re.fullmatch(f"{name}=.+", pair):
            raise ValueError(f"{pair!r} is not {form} (names of letters, digits, and . _ -)")
    return pairs
