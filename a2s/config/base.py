"""What several commands' settings are made of.

A field marked `NO_IDENTITY` may change between two runs in the same folder without changing what
is written there (number of workers, where the cache lies); every other field is part of a run's
identity. Paths are marked as well: what they hold is compared by its content (`run_folder.claim`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

NO_IDENTITY: dict[str, Any] = {"identity": False}

Workers = Annotated[int | Literal["auto"], Field(json_schema_extra=NO_IDENTITY)]
Folder = Annotated[Path, Field(json_schema_extra=NO_IDENTITY)]
FailureRate = Annotated[float, Field(ge=0, le=1, json_schema_extra=NO_IDENTITY)]
EncoderName = Literal["resnet50", "mobilenet_v2"]
DetectorName = Literal["ram", "conv", "minet"]
BackendName = Literal["auto", "numba", "torch", "pydensecrf"]
BenchmarkName = Literal["ECSSD", "PASCAL-S", "HKU-IS", "DUTS-TE", "DUT-OMRON", "MSRA-B"]
RayAddress = Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)]


def _named_safetensors(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors, as what is written is")
    return path


TensorFile = Annotated[Path, AfterValidator(_named_safetensors)]


def shard_ranges(text: str) -> list[range]:
    """Numbers of shards from `0-99` or `3,7-9`.

    Raises:
        ValueError: it says what is wrong.
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise ValueError(f"shards {text!r}: give numbers and ranges such as 0-99 or 3,7-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"shards {text!r}: {first} comes after {last}")
        ranges.append(range(first, last + 1))
    return ranges


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

    name: EncoderName = "resnet50"
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

    backend: BackendName = "auto"
    """Who computes the CRF; auto: torch on a GPU, else numba; a resumed job keeps what it had."""
    iterations: int = Field(10, ge=0)
    """Mean-field iterations."""
    median: int = Field(7, ge=1)
    """Side of the median window in pixels, odd; 1 switches it off."""
    max_side: int | None = Field(640, ge=16)
    """Longest side in pixels at which CRF and median run; larger images are reduced for them. None
    is every image's own size (the authors' code)."""

    @model_validator(mode="after")
    def _odd_median(self) -> RefineConfig:
        if self.median % 2 == 0:
            raise ValueError(f"median must be odd, not {self.median}")
        return self
