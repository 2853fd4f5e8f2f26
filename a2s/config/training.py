"""Settings of both training stages, with their defaults and help texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from a2s.config import schedules
from a2s.config.base import (
    NO_IDENTITY,
    DetectorName,
    EncoderConfig,
    FailureRate,
    Folder,
    Settings,
)
from a2s.config.schedules import DEPENDS_ON_LABELS, Schedule, ScheduleName, scaled_milestones

Milestones = tuple[int, ...] | None

MIN_SIZE_OF_STATISTICS = 64
"""Smallest input side in pixels at which E5, at stride 32, has more than one pixel."""


class TrainParity(Settings):
    """Choices that matter only to reproduce the paper or its authors' code."""

    resize_filter: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """Filter that resizes images, in training and in use; the authors' code takes Pillow's default,
    which is `bicubic` since version 7 and was `nearest` before."""
    schedule: ScheduleName = Field("paper", json_schema_extra=NO_IDENTITY)
    """Default of `milestones`: those in the paper's text, or those of the authors' code."""


class Stage1Parity(TrainParity):
    """Choices of stage 1 that matter only to reproduce the paper or its authors' code."""

    encoder_mode: Literal["frozen", "batch_statistics", "trained"] = "frozen"
    """`batch_statistics` keeps the weights, but BatchNorm uses and stores the statistics of each
    rank's batch (the authors' code); `trained` trains the encoder at the same rate (Table IV)."""
    boundary: Literal["adb", "db1", "db2", "db3", "db4"] = "adb"
    """Decision boundary: `adb` is the adaptive one (Eqn 3), the others are those of Fig. 9."""
    e5_scale: bool = False
    """Multiply E5 by a fixed random factor per channel (the authors' code), drawn from the seed."""
    sign_tie: Literal[1, 0] = 1
    """Sign (Eqn 5) where both sides are equal: 1 in the paper, 0 in the authors' code."""


class Stage2Parity(TrainParity):
    """Choices of stage 2 that matter only to reproduce the paper or its authors' code."""

    flip: Literal["epoch", "once"] = "epoch"
    """Draw whether an image is mirrored in every epoch, or once per run (the authors' code)."""


class TrainOptions(Settings):
    """Settings that both training stages share (Sec. IV-A)."""

    SCHEDULES: ClassVar[Mapping[ScheduleName, Schedule]]

    encoder: EncoderConfig = EncoderConfig()
    """Backbone and its pretrained weights."""
    parity: TrainParity = TrainParity()
    """Choices that matter only to reproduce the paper or its authors' code."""
    image_size: int = Field(320, ge=32, multiple_of=32)
    """Side in pixels of the square to which images are resized."""
    batch_size: int = Field(8, ge=1)
    """Images per optimizer step over all ranks; the learning rate is not rescaled by it."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay of SGD."""
    nesterov: bool = True
    """Use Nesterov momentum."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, sample order, flips, and dropped pixels."""
    window: int = Field(16, ge=1)
    """Shuffle samples within a window of this many (shuffled) shards."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs convolutions in bfloat16 autocast; `fp32` computes in float32 without TF32."""
    compile: bool = False
    """Compile network and loss with torch.compile, with one process only; it takes a minute or so
    at the start and saves GPU time afterwards."""
    until_epoch: int | None = Field(None, ge=1, json_schema_extra=NO_IDENTITY)
    """Stop after the commit of this epoch; the same command with a larger number, or none,
    continues."""
    commit_every: int = Field(0, ge=0, json_schema_extra=NO_IDENTITY)
    """Also write a checkpoint after this many steps; 0 writes them at epoch ends only."""
    log_every: int = Field(20, ge=1, json_schema_extra=NO_IDENTITY)
    """Write a line to the log after this many steps."""
    loader_workers: int = Field(2, ge=0, json_schema_extra=NO_IDENTITY)
    """Number of processes per rank that read and decode images."""
    rank_timeout_sec: int = Field(600, ge=5, json_schema_extra=NO_IDENTITY)
    """End all ranks when one has made no step for this long while the others wait for it."""
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = Field(
        "none", json_schema_extra=NO_IDENTITY
    )
    """Also log to this tracker of Accelerate: `pip install 'a2s[tensorboard]'`, `'a2s[wandb]'` or
    `'a2s[mlflow]'`."""

    @field_validator("milestones", check_fields=False)
    @classmethod
    def _resolved(cls, milestones: Milestones, info: ValidationInfo) -> Milestones:
        """Return the given milestones, or those of the named schedule for this number of epochs."""
        given = info.data
        # Where `epochs` or `parity` is wrong, pydantic complains about that.
        if milestones is None and {"epochs", "parity"} <= given.keys():
            schedule = cls.SCHEDULES[given["parity"].schedule]
            return scaled_milestones(schedule, epochs=given["epochs"])
        return milestones


class Stage1Options(TrainOptions):
    """Settings of stage 1."""

    SCHEDULES = schedules.STAGE1

    parity: Stage1Parity = Stage1Parity()
    """Choices that matter only to reproduce the paper or its authors' code."""
    epochs: int = Field(20, ge=1)
    """Number of passes over the data."""
    lr: float = Field(1.0, ge=0)
    """Learning rate."""
    heads: int | None = Field(None, ge=1, le=9)
    """Sets of blocks with their own initial weights, trained at once. `a2s label` averages those
    that agree with a majority. Default: 1 (the paper's), or 4 with labels."""
    label_heads: int | None = Field(None, ge=0, le=9)
    """How many of them learn from labels, the others by Eqn 4. Default with labels: 2."""
    width: int = Field(64, ge=2, multiple_of=2, json_schema_extra={"before": 64})
    """Channels of a head's blocks."""
    label_lr_scale: float = Field(0.05, ge=0)
    """Learning rate of heads that learn from labels, as a share of `lr`."""
    min_agreement: float = Field(0.54, ge=0, le=1)
    """Two heads agree if their maps overlap by this much (mean IoU over the last epoch); without a
    majority of agreeing heads, or agreement of those with labels, training ends with an error."""
    frame: int | None = Field(None, ge=0, multiple_of=32)
    """Reflected pixels around each image while the encoder runs for heads that learn from labels,
    which hide its zero padding. Default with labels: 64."""
    boundary_frame: int = Field(0, ge=0, multiple_of=32)
    """The same for heads without labels; they find more without (the paper's)."""
    crops: float = Field(0.7, ge=0, le=1)
    """Share of the steps in which heads with labels see a random window of the images, so that
    objects reach its border; not in the last epoch."""
    milestones: Milestones = Field(None, validate_default=True)
    """Epochs after which the learning rate falls to a tenth; default: those of
    `parity.schedule`, scaled to `epochs`."""
    alpha: float = Field(0.1, ge=0)
    """Weight alpha of the L1 distance in Eqn 4 (Table V)."""
    map_weights: tuple[float, float, float, float] = (1.0, 0.1, 0.3, 0.5)
    """Weights of the maps F, F3, F4, F5 in the loss."""
    drop_pixels: bool = True
    """Leave a random half of the pixels out of the loss at each iteration (Sec. III-A)."""
    fusion_stride: Literal[2, 4, 8] = 4
    """Stride at which F3, F4, F5 are fused; smaller is finer and slower."""
    cache_dir: Path | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Node-local folder of the feature cache on a CPU; default: one in the temporary directory."""
    cache_dtype: Literal["float16", "float32"] = "float16"
    """Precision to which encoder features are rounded, whether cached or not."""
    cache_gib: float = Field(16.0, ge=0, json_schema_extra=NO_IDENTITY)
    """Budget of the feature cache in GiB, of a file per node or of memory per GPU; features that do
    not fit are recomputed."""

    @model_validator(mode="after")
    def _room_for_statistics(self) -> Stage1Options:
        mode = self.parity.encoder_mode
        if mode != "frozen" and self.image_size < MIN_SIZE_OF_STATISTICS:
            raise ValueError(
                f"parity.encoder_mode {mode} needs an image_size of at least "
                f"{MIN_SIZE_OF_STATISTICS}: one pixel per channel has no batch statistics"
            )
        return self


class Stage2Options(TrainOptions):
    """Settings of stage 2."""

    SCHEDULES = schedules.STAGE2

    parity: Stage2Parity = Stage2Parity()
    """Choices that matter only to reproduce the paper or its authors' code."""
    epochs: int = Field(25, ge=1)
    """Number of passes over the data."""
    lr: float = Field(0.005, ge=0)
    """Learning rate of the decoder."""
    milestones: Milestones = Field(None, validate_default=True)
    """Epochs after which the learning rate falls to a tenth; default: those of
    `parity.schedule`, scaled to `epochs`."""
    encoder_lr_scale: float = Field(0.1, ge=0)
    """Learning rate of the encoder as a share of `lr`; the paper names a single rate."""
    rectify: Literal["olr", "hma"] = "olr"
    """`olr` corrects labels while the detector trains (Eqn 13); with `hma`, stage 2 stops between
    epochs until `a2s hma` has updated them by a historical moving average (Table VIII)."""
    lam: float = Field(0.4, ge=0, le=1)
    """Share lambda of the old label that `olr` keeps (Eqn 14)."""
    crops: float | None = Field(None, ge=0, le=1, json_schema_extra={"before": 0.0})
    """Share of the images of which an epoch sees a window, so that objects reach its border, until
    `lr` first falls; their labels stay meanwhile. Default: 0.5; 0 with `init`. The paper: 0."""
    warm_epochs: int = Field(2, ge=0)
    """First epochs, which keep the labels as they are."""
    binarise: bool = True
    """Train on label > 0.5 (the authors' code) instead of soft labels."""
    min_quality: float = Field(0.0, ge=0, le=1)
    """Leave out images of whose label a lower F-measure is expected (column `quality`)."""
    batchnorm: Literal["frozen", "train"] = "frozen"
    """`frozen` keeps the encoder's running statistics, so that N ranks compute what one does;
    `train` updates them from each rank's images."""
    init: Annotated[Literal["bundled"] | Path | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Detector to start from, instead of a pretrained encoder and a new decoder: a stage-2 run or
    its `.safetensors` file, or `bundled`, the one inside the package."""
    init_lr_scale: float = Field(0.1, ge=0)
    """Share of `lr` at which training goes on from `init`."""
    detector: DetectorName = "ram"
    """The paper's network, the same with a convolution for RAM, or MINet (Table VII). MINet has its
    own loss (BCE, consistency), and its BatchNorm always trains, on each rank's images."""

    @model_validator(mode="after")
    def _one_start(self) -> Stage2Options:
        if self.init is not None and self.encoder.weights != "none":
            raise ValueError("init: brings an encoder; leave encoder.weights out")
        return self


class Stage1Config(Stage1Options):
    """Train the activation network on unlabelled shards (Sec. III-A)."""

    data: Folder
    """Data shards written by `a2s shard`."""
    labels: Annotated[Path | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Learn from these label shards instead of the paper's loss without labels (Eqn 4): from those
    of `a2s label --model rbd`, or of an earlier round."""
    out: Folder
    """Run folder."""
    max_failure_rate: FailureRate = 0.01
    """Stop with code 3 before training if a larger share of the labels is damaged."""

    @model_validator(mode="before")
    @classmethod
    def _by_labels(cls, data: Any) -> Any:
        """Resolve the defaults that depend on `labels`."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        has_labels = "labels" in given
        defaults = {name: values[has_labels] for name, values in DEPENDS_ON_LABELS.items()}
        if has_labels and given.get("heads") == 1:
            defaults["label_heads"] = 1
        return {**data, **{name: given.get(name, value) for name, value in defaults.items()}}

    @model_validator(mode="after")
    def _paper_without_labels(self) -> Stage1Config:
        """Refuse what works only with labels, or only without them."""
        parity, heads, label_heads = self.parity, self.heads or 1, self.label_heads or 0
        if self.labels is None and label_heads:
            raise ValueError("label_heads: heads that learn from labels need --labels")
        if self.labels is None and self.frame:
            raise ValueError(
                "frame: is that of heads that learn from labels; without --labels give "
                "--boundary-frame"
            )
        if parity.encoder_mode == "trained" and self.boundary_frame:
            raise ValueError("boundary_frame: parity.encoder_mode trained sees images without one")
        if self.labels is None:
            return self
        if not 0 < label_heads <= heads:
            raise ValueError(
                f"label_heads: with labels at least one of the {heads} heads learns from them, not "
                f"{label_heads}"
            )
        if parity.boundary != "adb" or parity.e5_scale or parity.encoder_mode == "trained":
            raise ValueError(
                "labels: parity.boundary, parity.e5_scale and parity.encoder_mode trained are for "
                "training without labels; leave them out"
            )
        if self.compile and self.crops:
            raise ValueError("compile: needs maps of one size; give --crops 0 as well")
        return self


class Stage2Config(Stage2Options):
    """Train the detector on pseudo labels and correct them online (Sec. III-B)."""

    data: Folder
    """Data shards written by `a2s shard`."""
    labels: Folder
    """Label shards written by `a2s label`; read only."""
    out: Folder
    """Run folder."""
    max_failure_rate: FailureRate = 0.01
    """Stop with code 3 before training if a larger share of the labels is damaged."""

    @model_validator(mode="before")
    @classmethod
    def _by_init(cls, data: Any) -> Any:
        """Resolve the default of `crops`: a trained detector goes on at a rate that has fallen."""
        if not isinstance(data, dict) or data.get("crops") is not None:
            return data
        return {**data, "crops": 0.5 if data.get("init") is None else 0.0}
