"""Settings of every command: frozen models, unknown keys refused, defaults with their source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from tyro.conf import Positional, arg

from a2s.options import (
    NO_IDENTITY,
    EncoderConfig,
    FailureRate,
    Folder,
    PoolSettings,
    RefineConfig,
    Settings,
    Workers,
    shard_ranges,
)


class ShardOptions(Settings):
    """What may be set about packing."""

    shard_size: int = Field(1000, ge=1)
    """Images per shard."""
    max_side: int | None = Field(None, ge=16)
    """Re-encode images whose longest side exceeds this many pixels; without it bytes are kept."""
    max_pixels: int = Field(178_956_970, ge=1)
    """Images with more pixels are quarantined as `pixel_bomb` before they are decoded."""


class ShardConfig(PoolSettings, ShardOptions):
    """Pack images (folders, lists, tars) into WebDataset shards with an index."""

    images: Positional[tuple[str, ...]] = Field(min_length=1)
    """Folders (recursive), image files, `.txt` lists, or `.tar` files (paths or URLs)."""
    out: Folder
    """Folder for the shards."""
    masks: Path | None = None
    """Folder of masks, paired with the images by relative path without suffix."""

    @field_validator("images")
    @classmethod
    def _absolute(cls, images: tuple[str, ...]) -> tuple[str, ...]:
        """`photos`, `photos/` and its absolute path are one identity, from any folder."""
        return tuple(path if "://" in path else os.path.abspath(path) for path in images)


class TrainOptions(Settings):
    """What both training stages share (Sec. IV-A)."""

    encoder: EncoderConfig = EncoderConfig()
    """Backbone and weights."""
    image_size: int = Field(320, ge=32, multiple_of=32)
    """Side in pixels to which images are squashed."""
    batch_size: int = Field(8, ge=1)
    """Images per optimizer step, over all ranks; the learning rate is never rescaled."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD momentum."""
    weight_decay: float = Field(5e-4, ge=0)
    """SGD weight decay."""
    nesterov: bool = True
    """Nesterov momentum."""
    seed: int = Field(0, ge=0)
    """Decides initial weights, sample order, flips, and dropped pixels."""
    window: int = Field(16, ge=1)
    """Samples are shuffled within a window of this many (shuffled) shards."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs convolutions in bfloat16 autocast; `fp32` is exact, without TF32."""
    compile: bool = False
    """torch.compile for network and loss: a minute or so at the start, then faster on a GPU."""
    commit_every: int = Field(0, ge=0, json_schema_extra=NO_IDENTITY)
    """Also commit after this many steps within an epoch; 0 commits at epoch ends only."""
    log_every: int = Field(20, ge=1, json_schema_extra=NO_IDENTITY)
    """Steps per line of the log."""
    loader_workers: int = Field(2, ge=0, json_schema_extra=NO_IDENTITY)
    """Processes per rank that read and decode images."""
    tracker: Literal["none", "tensorboard"] = Field("none", json_schema_extra=NO_IDENTITY)
    """Also log through Accelerate's tracker of this name."""


class Stage1Options(TrainOptions):
    """What may be set about stage 1."""

    epochs: int = Field(20, ge=1)
    """Passes over the data."""
    lr: float = Field(1.0, ge=0)
    """Learning rate."""
    milestones: tuple[int, ...] = (10, 16)
    """Epochs after which the learning rate falls to a tenth."""
    alpha: float = Field(0.1, ge=0)
    """Weight of the L1 distance in Eqn 4 (Table V)."""
    map_weights: tuple[float, float, float, float] = (1.0, 0.1, 0.3, 0.5)
    """Loss weights of the maps F, F3, F4, F5."""
    drop_pixels: bool = True
    """Leave half of the pixels out of the loss at each iteration (Sec. III-A)."""
    fusion_stride: Literal[2, 4, 8] = 4
    """Stride at which F3, F4, F5 are fused."""
    cache_dir: Path | None = Field(None, json_schema_extra=NO_IDENTITY)
    """On a CPU: node-local folder for encoder features; default: one in the temporary directory."""
    cache_dtype: Literal["float16", "float32"] = "float16"
    """Precision to which encoder features are rounded, cached or not."""
    cache_gib: float = Field(16.0, ge=0, json_schema_extra=NO_IDENTITY)
    """Budget of the feature cache in GiB, a file per node or memory per GPU; beyond it features are
    recomputed."""


class Stage1Config(Stage1Options):
    """Train the activation network on unlabelled shards (Sec. III-A)."""

    data: Folder
    """Data shards written by `a2s shard`."""
    out: Folder
    """Run folder."""


class Stage2Options(TrainOptions):
    """What may be set about stage 2."""

    epochs: int = Field(25, ge=1)
    """Passes over the data."""
    lr: float = Field(0.005, ge=0)
    """Learning rate of the decoder."""
    milestones: tuple[int, ...] = (15, 20)
    """Epochs after which the learning rate falls to a tenth."""
    encoder_lr_scale: float = Field(0.1, ge=0)
    """Encoder learning rate as a share of `lr` (the authors' code; the paper names one rate)."""
    lam: float = Field(0.4, ge=0, le=1)
    """OLR: share of the old label that is kept (Eqn 14)."""
    warm_epochs: int = Field(2, ge=0)
    """Epochs before labels are rectified."""
    binarise: bool = True
    """Targets are label > 0.5 (the authors' code); otherwise soft labels."""
    batchnorm: Literal["frozen", "train"] = "frozen"
    """`frozen` keeps the encoder's running statistics: the only choice where N ranks equal one."""
    ram: bool = True
    """Residual attention (Eqn 9); False is the paper's variant with a plain convolution."""


class Stage2Config(Stage2Options):
    """Train the detector on pseudo labels that it rectifies online (Sec. III-B)."""

    data: Folder
    """Data shards written by `a2s shard`."""
    labels: Folder
    """Label shards written by `a2s label`; read only."""
    out: Folder
    """Run folder."""


class LabelOptions(Settings):
    """What may be set about labelling."""

    refine: RefineConfig = RefineConfig()
    """CRF and median."""
    batch_size: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)], Field(json_schema_extra=NO_IDENTITY)
    ] = "auto"
    """Images per forward pass on a GPU; auto: what its memory takes, kept when resumed."""


class LabelConfig(PoolSettings, LabelOptions):
    """Turn activation maps into pseudo labels with dense CRF and a median filter (Eqn 6)."""

    model: Folder
    """Stage-1 run folder (its last commit) or a `.safetensors` file."""
    data: Folder
    """Data shards written by `a2s shard`."""
    out: Folder
    """Folder for the label shards."""
    limit: int | None = Field(None, ge=1)
    """Label only the first so many images."""
    shards: Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Label only these shards, `0-99` or `3,7-9`; others may do other shards at the same time."""
    dry_run: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Say what would be done, and do nothing."""

    @field_validator("shards")
    @classmethod
    def _ranges(cls, shards: str | None) -> str | None:
        if shards is not None:
            shard_ranges(shards)
        return shards


class PredictOptions(Settings):
    """What may be set about prediction."""

    cutout: bool = False
    """Also write `<key>.cutout.png`: the image with the map as alpha channel."""
    overlay: bool = False
    """Also write `<key>.overlay.jpg`: the map drawn over the image."""
    max_pixels: int = Field(178_956_970, ge=1)
    """Images with more pixels are refused as `pixel_bomb` before they are decoded."""
    batch_size: int = Field(8, ge=1, json_schema_extra=NO_IDENTITY)
    """Images per forward pass."""


class PredictConfig(PoolSettings, PredictOptions):
    """Write saliency maps, and on request cut-outs and overlays, at the images' own size."""

    model: Folder
    """Run folder (its last commit) or a `.safetensors` file; stage 1 or stage 2."""
    images: Positional[tuple[str, ...]] = Field(min_length=1, json_schema_extra=NO_IDENTITY)
    """Images, folders, `.txt` lists, shard folders, or tars."""
    out: Folder
    """Folder for the predictions."""


class EvaluateConfig(PoolSettings):
    """Score predictions against ground truth; numbers follow pysodmetrics."""

    pred: Folder
    """Folder of predictions, or label shards."""
    truth: Folder
    """Folder of masks, or data shards with masks."""
    out: Folder
    """Folder for scores.json, per-image Parquet, and curves."""


class DoctorConfig(Settings):
    """Say what works on this machine and what does not."""

    encoder: EncoderConfig = EncoderConfig()
    """Weights whose key coverage is checked."""
    out: Path | None = None
    """Folder whose disk space is checked; default: the current folder."""


class StatusConfig(Settings):
    """Say how far a job is: shards, images, rate, time left, failures by reason."""

    out: Positional[str] = Field(description="Its --out: a folder or URL (s3, gs, http, file).")
    as_json: Annotated[bool, arg(name="json")] = Field(False, description="Print one JSON object.")


class RunConfig(Settings):
    """The whole job on one machine: shard, stage1, label, stage2, predict, evaluate."""

    images: Positional[tuple[str, ...]] = Field(min_length=1, json_schema_extra=NO_IDENTITY)
    """Images to learn from: folders, lists, or tars."""
    out: Folder
    """Folder for everything."""
    test: Path | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Images to predict after training; default: the images themselves."""
    truth: Path | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Masks of the test images; with them every stage is scored."""
    processes: int = Field(0, ge=0, json_schema_extra=NO_IDENTITY)
    """Training processes; 0 means one per GPU, else one."""
    seed: int | None = Field(None, ge=0)
    """Seed of both training stages; default: the one in their sections."""
    shard: ShardOptions = ShardOptions()
    """Packing."""
    stage1: Stage1Options = Stage1Options()
    """Activation network."""
    label: LabelOptions = LabelOptions()
    """Pseudo labels."""
    stage2: Stage2Options = Stage2Options()
    """Detector."""
    predict: PredictOptions = PredictOptions()
    """Predictions."""
    workers: Workers = "auto"
    """Ray workers of the labelling, prediction, and evaluation jobs."""
    max_failure_rate: FailureRate = 0.01
    """Exit code 3 when a larger share of the images failed."""


class EstimateConfig(PoolSettings, LabelOptions):
    """Say what labelling a data folder will take: hours of cores and GPUs, bytes, machines."""

    data: Folder
    """Data shards written by `a2s shard`."""
    model: Path | None = None
    """Stage-1 run folder; without it an untrained network of `encoder` takes the same time."""
    encoder: EncoderConfig = EncoderConfig()
    """Backbone of the network when there is no model yet."""
    image_size: int = Field(320, ge=32, multiple_of=32)
    """Side of its input in pixels."""
    sample: int = Field(64, ge=2)
    """Images that are timed, taken evenly from the whole folder."""
    images: int | None = Field(None, ge=1)
    """Images of the dump that it is about; default: what the data folder holds."""
