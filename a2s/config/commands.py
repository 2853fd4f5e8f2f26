"""Settings of every command but `ablate`, with their defaults and help texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from tyro.conf import Positional, arg

from a2s.config.base import (
    NO_IDENTITY,
    BackendName,
    BenchmarkName,
    EncoderConfig,
    FailureRate,
    Folder,
    PoolSettings,
    RayAddress,
    RefineConfig,
    Settings,
    TensorFile,
    Workers,
    shard_ranges,
)
from a2s.config.predict import PredictOptions


class ShardOptions(Settings):
    """Settings of packing."""

    shard_size: int = Field(1000, ge=1)
    """Images per shard."""
    max_side: int | None = Field(None, ge=16)
    """Downscale and re-encode images whose longest side exceeds this many pixels; None keeps the
    bytes of all images."""
    max_pixels: int = Field(178_956_970, ge=1)
    """Set aside images with more pixels as `pixel_bomb`, without decoding them."""


class ShardConfig(PoolSettings, ShardOptions):
    """Pack images (folders, lists, tars) into WebDataset shards with an index."""

    images: Positional[tuple[str, ...]] = Field(min_length=1)
    """Images to pack: folders (recursive), files, `.txt` lists, or `.tar` files (paths or URLs)."""
    out: Folder
    """Output folder of the shards."""
    masks: Path | None = None
    """Folder of masks; each belongs to the image of the same relative path without suffix."""
    mask_pattern: str | None = None
    """How the masks are called after their images, such as `{stem}_mask.png`: `{stem}` is the path
    of the image without suffix, `{parent}` its folder, `{name}` its name, `*` any part of one."""
    limit: int | None = Field(None, ge=1)
    """Pack only the first so many images."""

    @field_validator("images")
    @classmethod
    def _absolute(cls, images: tuple[str, ...]) -> tuple[str, ...]:
        """Make paths absolute, so that they are the same setting however they are written."""
        return tuple(path if "://" in path else os.path.abspath(path) for path in images)


class LabelParity(Settings):
    """Choices of labelling that matter only to reproduce the paper or its authors' code."""

    network_size: Literal["trained", "own"] = "trained"
    """Size at which the network sees images: `trained` is that of its training, `own` the image's
    (the authors' code), so memory grows with the image."""
    crf_input: Literal["hard", "soft"] = "hard"
    """The CRF starts from `hard` labels (min-max, > 0.5, confidence 0.7: the authors' code), or
    from the `soft` map of Eqn 6."""


class LabelOptions(Settings):
    """Settings of labelling."""

    parity: LabelParity = LabelParity()
    """Choices that matter only to reproduce the paper or its authors' code."""
    refine: RefineConfig = RefineConfig()
    """Dense CRF and median filter."""
    min_quality: float = Field(0.0, ge=0, le=1)
    """Leave out labels of which a lower F-measure is expected (`quality`), and list them."""
    batch_size: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)], Field(json_schema_extra=NO_IDENTITY)
    ] = "auto"
    """Images per forward pass on a GPU; auto takes what its memory holds, and a resumed job keeps
    its choice."""


class LabelConfig(PoolSettings, LabelOptions):
    """Turn activation maps into pseudo labels with dense CRF and a median filter (Eqn 6)."""

    model: Annotated[Literal["bundled", "rbd"] | Path, Field(json_schema_extra=NO_IDENTITY)] = (
        "bundled"
    )
    """Run folder (its last commit) or `.safetensors` file of stage 1 or 2; `bundled`, the
    activation network inside the package; or `rbd`, a baseline without training, whose labels can
    seed stage 1. Write `./rbd` for a folder of that name."""
    data: Folder
    """Data shards written by `a2s shard`."""
    out: Folder
    """Output folder of the label shards."""
    limit: int | None = Field(None, ge=1)
    """Label only the first so many images."""
    shards: Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Label only these shards, such as `0-99` or `3,7-9`; other machines may label other shards of
    the same folder meanwhile."""
    dry_run: bool = Field(False, json_schema_extra=NO_IDENTITY)
    """Print what would be done, and do nothing."""

    @field_validator("shards")
    @classmethod
    def _ranges(cls, shards: str | None) -> str | None:
        if shards is not None:
            shard_ranges(shards)
        return shards


class SnapshotConfig(Settings):
    """Save stage 2's labels and predictions of a few images after an epoch (Fig. 7, Fig. 10)."""

    model: Folder
    """Stage-2 run folder; its last commit must be at the end of an epoch."""
    data: Folder
    """Data shards of the run."""
    labels: Folder
    """Label shards of the run, used for images whose labels it has not corrected yet."""
    out: Folder
    """Output folder of `<key>.label.png`, `<key>.prediction.png` and snapshot.json."""
    epoch: int | None = Field(None, ge=1)
    """Fail unless the run is at the end of this epoch."""
    images: int = Field(8, ge=1)
    """Number of images to save, spread evenly over the sorted keys."""
    keys: tuple[str, ...] | None = None
    """Keys of the images to save, instead of a number."""


class HmaConfig(Settings):
    """Update the labels of a stage-2 run by a historical moving average (Table VIII)."""

    out: Annotated[Folder, arg(name="run")]
    """Run folder of `a2s stage2 --rectify hma`, which gets the labels of its next epoch."""
    data: Folder
    """Data shards of the run."""
    labels: Folder
    """Label shards of the run, where the moving averages start."""
    backend: BackendName = "auto"
    """CRF implementation; auto takes torch on a GPU, else numba. Later passes keep the choice."""
    workers: Workers = "auto"
    """Number of Ray workers; 0 runs in this process. auto takes all CPUs, or 0 for few images:
    below 64, on two CPUs `label` and `hma` below 5,000."""
    ray_address: RayAddress = None
    """Join this Ray cluster instead of starting a local one; its nodes must see the run folder."""
    max_failure_rate: FailureRate = 0.01
    """Exit with code 3, and change nothing, if a larger share of the images fails."""


class PredictConfig(PoolSettings, PredictOptions):
    """Write saliency maps, cut-outs, and overlays at the images' own size."""

    model: Annotated[
        Literal["bundled", "bundled-activation", "rbd"] | Path,
        Field(json_schema_extra=NO_IDENTITY),
    ] = "bundled"
    """Run folder (its last commit) or `.safetensors` file of stage 1 or 2; `bundled`, the detector
    inside the package, or `bundled-activation`, its network of stage 1; or `rbd`, a baseline
    without training. Write `./rbd` for a folder of that name."""
    images: Positional[tuple[str, ...]] = Field(min_length=1, json_schema_extra=NO_IDENTITY)
    """Images to predict: files, folders, `.txt` lists, shard folders, tars, URLs of images or tars,
    or `-` for standard input."""
    out: Annotated[Path | None, Field(json_schema_extra=NO_IDENTITY), arg(aliases=("-o",))] = None
    """Output folder; or for one image a file (.png, .jpg, .webp) or `-` (standard output). Default:
    files beside the images."""


class EvaluateParity(Settings):
    """Choices of scoring that matter only to reproduce the paper or its authors' code."""

    convention: Literal["pysodmetrics", "official"] = "pysodmetrics"
    """Definitions of S, weighted F and graded masks: the library's, or the authors' code's."""


class EvaluateConfig(PoolSettings):
    """Score predictions against ground-truth masks; numbers follow pysodmetrics."""

    pred: Folder
    """Folder of predictions, or label shards."""
    truth: Annotated[Path | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Folder of masks, or data shards with masks."""
    mask_pattern: Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """How the masks of --truth are called after the predictions, such as `{stem}_mask.png`, as in
    `a2s shard`."""
    benchmark: Annotated[
        tuple[BenchmarkName, Path] | None, Field(json_schema_extra=NO_IDENTITY)
    ] = None
    """Score on a known benchmark instead of --truth: its name and the folder of its unpacked
    archives."""
    images: Annotated[tuple[str, ...], Field(json_schema_extra=NO_IDENTITY)] = ()
    """Images of the truths (inputs as for `a2s predict`): also score RBD, a baseline without
    training, on them."""
    out: Folder
    """Output folder of scores.json, per-image Parquet, and curves."""
    parity: EvaluateParity = EvaluateParity()
    """Choices that matter only to reproduce the paper or its authors' code."""
    workers: Workers = "auto"
    """Number of Ray workers; 0 scores in child processes, one per CPU, and so does auto, unless
    there is a cluster."""


class ImportWeightsConfig(Settings):
    """Convert a checkpoint of the paper's authors to a model of a2s."""

    file: Positional[Path]
    """The authors' checkpoint of stage 1 or 2: `.pth`, or `.safetensors` with the same names."""
    out: TensorFile
    """Model file to write, for --model of `a2s label` and `a2s predict`."""


class ExportWeightsConfig(Settings):
    """Convert a model of a2s to a checkpoint in the layout of the paper's authors."""

    model: Positional[Path]
    """Run folder (its last commit) or `.safetensors` file of stage 1 or 2."""
    out: TensorFile
    """Checkpoint file to write."""


class EstimateConfig(PoolSettings, LabelOptions):
    """Estimate what labelling a data folder takes: core and GPU hours, bytes, machines."""

    data: Folder
    """Data shards written by `a2s shard`."""
    model: Path | None = None
    """Run folder; without one, an untrained network with `encoder` is timed, with all heads that
    `a2s run` trains."""
    encoder: EncoderConfig = EncoderConfig()
    """Backbone of the network that is timed when there is no model."""
    image_size: int = Field(320, ge=32, multiple_of=32)
    """Side in pixels of the input of that network."""
    sample: int = Field(64, ge=2)
    """Number of images that are timed, spread evenly over the folder."""
    images: int | None = Field(None, ge=1)
    """Number of images to estimate for; default: those in the data folder."""
