"""Settings of `a2s run`: its own, and a section for each command that it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from tyro.conf import Positional

from a2s.config.base import NO_IDENTITY, FailureRate, Folder, Settings, Workers
from a2s.config.commands import LabelOptions, ShardOptions
from a2s.config.predict import PredictOptions
from a2s.config.training import Stage1Options, Stage2Options

"""Encoder of the models inside the package."""


class RunConfig(Settings):
    """Run the whole pipeline: shard, stage1, label, stage2, predict, evaluate."""

    # No field belongs to an identity: every step guards its own folder, so that settings of a step
    # that has not begun may still change.

    images: Positional[tuple[str, ...]] = Field(min_length=1, json_schema_extra=NO_IDENTITY)
    """Images to learn from: folders, `.txt` lists, or tars."""
    out: Folder
    """Output folder of all steps."""
    test: Path | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Images to predict after training; default: the images to learn from."""
    truth: Path | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Folder of the test images' masks; if given, every stage is scored."""
    mask_pattern: str | None = Field(None, json_schema_extra=NO_IDENTITY)
    """How these masks are called after their images, such as `{stem}_mask.png` (`a2s shard`)."""
    processes: int = Field(0, ge=0, json_schema_extra=NO_IDENTITY)
    """Number of training processes; 0 means one per GPU, or one without a GPU."""
    seed: int | None = Field(None, ge=0, json_schema_extra=NO_IDENTITY)
    """Seed of both training stages; default: stage1.seed and stage2.seed."""
    seeds: Literal["rbd", "none"] | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Labels that stage 1 learns from: those of RBD (default), a method without training; or
    `none`, then it learns by the paper's loss without labels (Eqn 4)."""
    shard: ShardOptions = Field(ShardOptions(), json_schema_extra=NO_IDENTITY)
    """Packing into shards."""
    stage1: Stage1Options = Field(Stage1Options(), json_schema_extra=NO_IDENTITY)
    """Training of the activation network."""
    label: LabelOptions = Field(LabelOptions(), json_schema_extra=NO_IDENTITY)
    """Making of pseudo labels."""
    stage2: Stage2Options = Field(Stage2Options(), json_schema_extra=NO_IDENTITY)
    """Training of the detector."""
    init: Literal["bundled", "none"] | None = Field(
        None, validate_default=True, json_schema_extra=NO_IDENTITY
    )
    """`bundled` starts from the models inside the package: its activation network labels the
    images, and its detector goes on learning from these labels. `none` trains both stages. Default:
    `none` if the settings name weights, an encoder of timm, or `seeds`; else `bundled`."""
    predict: PredictOptions = Field(PredictOptions(), json_schema_extra=NO_IDENTITY)
    """Prediction of saliency maps."""
    workers: Workers = "auto"
    """Number of Ray workers of packing, labelling, prediction, and evaluation."""
    max_failure_rate: FailureRate = 0.01
    """Exit with code 3 if a larger share of the images fails."""

    @field_validator("init")
    @classmethod
    def _resolved(
        cls, init: Literal["bundled", "none"] | None, info: ValidationInfo
    ) -> Literal["bundled", "none"] | None:
        """Start from the bundled models unless the settings describe another start."""
        given = info.data
        # Where a section is wrong, pydantic complains about that.
        if init is not None or not {"stage1", "stage2", "seeds"} <= given.keys():
            return init
        encoders = [given[stage].encoder for stage in ("stage1", "stage2")]
        # One that is built in, without weights, stands for no wish: nothing good comes of it.
        another = any(one.weights != "none" or one.name.startswith("timm:") for one in encoders)
        another |= given["stage2"].init is not None or given["seeds"] is not None
        return "none" if another else "bundled"
