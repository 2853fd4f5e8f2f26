"""Settings of every command: frozen models, unknown keys refused, defaults with their source.

A field marked `NO_IDENTITY` may change between two runs in the same folder without changing what
is written there (number of workers, where the cache lies); every other field is part of a run's
identity. Paths are marked as well: what they hold is compared by its content (`rundir.claim`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from tyro.conf import Positional

NO_IDENTITY: dict[str, Any] = {"identity": False}

Workers = Annotated[int | Literal["auto"], Field(json_schema_extra=NO_IDENTITY)]
Folder = Annotated[Path, Field(json_schema_extra=NO_IDENTITY)]
FailureRate = Annotated[float, Field(ge=0, le=1, json_schema_extra=NO_IDENTITY)]
RayAddress = Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)]


class Settings(BaseModel):
    """Base: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PoolSettings(Settings):
    """What the jobs share that map over shards."""

    workers: Workers = "auto"
    """Ray workers; 0 runs in this process; auto is 0 below 64 images."""
    ray_address: RayAddress = None
    """Join this Ray cluster instead of starting a local one."""
    max_failure_rate: FailureRate = 0.01
    """Exit code 3 when a larger share of the images failed."""


class EncoderConfig(Settings):
    """The backbone and where its weights come from."""

    name: Literal["resnet50", "mobilenet_v2"] = "resnet50"
    """Architecture; five taps E1..E5 at strides 2, 4, 8, 16, 32."""
    weights: str = "none"
    """A file (.safetensors, .pth), a name such as `resnet50/moco_v2_800ep`, or `none`."""

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: str) -> str:
        """A file is one identity however its path is written; a name stays a name."""
        return os.path.abspath(weights) if os.path.isfile(weights) else weights


class RefineConfig(Settings):
    """Dense CRF and median filter (Eqn 6)."""

    crf_input: Literal["hard", "soft"] = "hard"
    """`hard`: min-max, > 0.5, confidence 0.7 (the authors' code); `soft`: Eqn 6 as written."""
    iterations: int = Field(10, ge=0)
    """Mean-field iterations."""
    median: int = Field(7, ge=1)
    """Side of the median window in pixels, odd; 1 switches it off."""
    max_side: int = Field(640, ge=16)
    """Longest side in pixels at which CRF and median run; larger images are reduced for them."""

    @model_validator(mode="after")
    def _odd_median(self) -> RefineConfig:
        if self.median % 2 == 0:
            raise ValueError(f"median must be odd, not {self.median}")
        return self


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
    batch_size: int = Field(16, ge=1)
    """Images per activation batch and refinement chunk; on a GPU a map's last bits depend on it."""


class LabelConfig(PoolSettings, LabelOptions):
    """Turn activation maps into pseudo labels with dense CRF and a median filter (Eqn 6)."""

    model: Folder
    """Stage-1 run folder (its last commit) or a `.safetensors` file."""
    data: Folder
    """Data shards written by `a2s shard`."""
    out: Folder
    """Folder for the label shards."""


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
