"""Settings of every command: frozen models, unknown keys refused, defaults with their source."""

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
    DetectorName,
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
from a2s.config.training import Stage1Options, Stage2Options


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
    limit: int | None = Field(None, ge=1)
    """Pack only the first so many images."""

    @field_validator("images")
    @classmethod
    def _absolute(cls, images: tuple[str, ...]) -> tuple[str, ...]:
        """`photos`, `photos/` and its absolute path are one identity, from any folder."""
        return tuple(path if "://" in path else os.path.abspath(path) for path in images)


class Stage1Config(Stage1Options):
    """Train the activation network on unlabelled shards (Sec. III-A)."""

    data: Folder
    """Data shards written by `a2s shard`."""
    out: Folder
    """Run folder."""


class Stage2Config(Stage2Options):
    """Train the detector on pseudo labels that it rectifies online (Sec. III-B)."""

    data: Folder
    """Data shards written by `a2s shard`."""
    labels: Folder
    """Label shards written by `a2s label`; read only."""
    out: Folder
    """Run folder."""


class LabelParity(Settings):
    """Choices of labelling that matter only to reproduce the paper or its authors' code."""

    network_size: Literal["trained", "own"] = "trained"
    """Size at which the network sees images: `trained` is that of its training, `own` the image's
    (the authors' code), so memory grows with the image."""
    crf_input: Literal["hard", "soft"] = "hard"
    """The CRF starts from `hard` labels (min-max, > 0.5, confidence 0.7: the authors' code), or
    from the `soft` map of Eqn 6."""


class LabelOptions(Settings):
    """What may be set about labelling."""

    parity: LabelParity = LabelParity()
    """Choices that matter only to reproduce the paper or its authors' code."""
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


class SnapshotConfig(Settings):
    """Keep what stage 2 makes of some images at the end of an epoch (Fig. 7, Fig. 10)."""

    model: Folder
    """Stage-2 run folder; its last commit must be the end of an epoch."""
    data: Folder
    """Its data shards."""
    labels: Folder
    """Its label shards, which are the labels until they are rectified."""
    out: Folder
    """Folder for `<key>.label.png`, `<key>.prediction.png` and snapshot.json."""
    epoch: int | None = Field(None, ge=1)
    """Refuse a run that is at another epoch."""
    images: int = Field(8, ge=1)
    """How many, spread evenly over the sorted keys."""
    keys: tuple[str, ...] | None = None
    """These images instead."""


class HmaConfig(Settings):
    """Make the next labels of a stage-2 run by a historical moving average (Table VIII)."""

    out: Annotated[Folder, arg(name="run")]
    """Run folder of `a2s stage2 --rectify hma`."""
    data: Folder
    """Its data shards."""
    labels: Folder
    """Its label shards, from which the moving averages start."""
    backend: BackendName = "auto"
    """Who computes the CRFs; auto: torch on a GPU, else numba; later passes keep what it was."""
    workers: Workers = "auto"
    """Ray workers; 0 runs in this process; auto is 0 below 64 images."""
    ray_address: RayAddress = None
    """Join this Ray cluster instead of starting a local one; it must see the run's folder."""


class PredictOptions(Settings):
    """What may be set about prediction."""

    cutout: bool = False
    """Also write `<key>.cutout.png`: the image with the map as alpha channel."""
    overlay: bool = False
    """Also write `<key>.overlay.jpg`: the map drawn over the image."""
    max_pixels: int = Field(178_956_970, ge=1)
    """Images with more pixels are refused as `pixel_bomb` before they are decoded."""
    batch_size: int = Field(8, ge=1, json_schema_extra=NO_IDENTITY)
    """Images per task, and on a GPU per forward pass."""


class PredictConfig(PoolSettings, PredictOptions):
    """Write saliency maps, and on request cut-outs and overlays, at the images' own size."""

    model: Annotated[Literal["rbd"] | Path, Field(json_schema_extra=NO_IDENTITY)]
    """Run folder (its last commit) or `.safetensors` file of stage 1 or 2; or `rbd`, a baseline
    that needs no training (a folder of this name is written `./rbd`)."""
    images: Positional[tuple[str, ...]] = Field(min_length=1, json_schema_extra=NO_IDENTITY)
    """Images, folders, `.txt` lists, shard folders, or tars."""
    out: Folder
    """Folder for the predictions."""


class EvaluateParity(Settings):
    """Choices of scoring that matter only to reproduce the paper or its authors' code."""

    convention: Literal["pysodmetrics", "official"] = "pysodmetrics"
    """Definitions of S, weighted F and graded masks: the library's, or the authors' code's."""


class EvaluateConfig(PoolSettings):
    """Score predictions against ground truth; numbers follow pysodmetrics."""

    pred: Folder
    """Folder of predictions, or label shards."""
    truth: Annotated[Path | None, Field(json_schema_extra=NO_IDENTITY)] = None
    """Folder of masks, or data shards with masks."""
    benchmark: Annotated[
        tuple[BenchmarkName, Path] | None, Field(json_schema_extra=NO_IDENTITY)
    ] = None
    """In place of --truth: a known benchmark and the folder that its archives were unpacked to."""
    out: Folder
    """Folder for scores.json, per-image Parquet, and curves."""
    parity: EvaluateParity = EvaluateParity()
    """Choices that matter only to reproduce the paper or its authors' code."""


class ImportWeightsConfig(Settings):
    """Turn a checkpoint in the layout of the paper's authors into a model of ours."""

    file: Positional[Path]
    """Their checkpoint of stage 1 or stage 2: `.pth`, or `.safetensors` with the same names."""
    out: TensorFile
    """Model to write; `--model` of label and predict takes it."""


class ExportWeightsConfig(Settings):
    """Turn a model of ours into a checkpoint in the layout of the paper's authors."""

    model: Positional[Path]
    """Run folder (its last commit) or a `.safetensors` file; stage 1 or stage 2."""
    out: TensorFile
    """Checkpoint to write."""


class DoctorConfig(Settings):
    """Say what works on this machine and what does not."""

    encoder: EncoderConfig = EncoderConfig()
    """Weights whose key coverage is checked."""
    detector: DetectorName = "ram"
    """Network of stage 2 that is built and counted."""
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
