"""Base class and field types that the settings of several commands share.

A run's identity is the set of all settings that decide what it writes; an output folder accepts
only runs of the identity that began it. Fields marked `NO_IDENTITY` do not belong to it, because
they change no result (number of workers, folder of the cache), or because they are paths to
inputs, which `run_folder.claim` compares by content.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from a2s.storage.objects import urls

MAX_INT = 2**53
NO_IDENTITY: dict[str, Any] = {"identity": False}

Workers = Annotated[int | Literal["auto"], Field(json_schema_extra=NO_IDENTITY)]
Folder = Annotated[Path, Field(json_schema_extra=NO_IDENTITY)]
FailureRate = Annotated[float, Field(ge=0, le=1, json_schema_extra=NO_IDENTITY)]
EncoderName = Literal["resnet50", "mobilenet_v2", "efficientnet_lite2"]
DetectorName = Literal["ram", "conv", "minet"]
BackendName = Literal["auto", "numba", "torch", "pydensecrf"]
BenchmarkName = Literal["ECSSD", "PASCAL-S", "HKU-IS", "DUTS-TE", "DUT-OMRON", "MSRA-B"]
RayAddress = Annotated[str | None, Field(json_schema_extra=NO_IDENTITY)]


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""A URL, also after `Path` has made one slash of two. One letter is no scheme."""


def _path_of(value: Any) -> Any:
    if isinstance(value, str | Path):
        urls.check_written(_as_written(value))
    match = _URL.match(str(value)) if isinstance(value, Path) else None
    if match is None:
        return value
    if match[1].lower() == "file":
        return Path(f"/{str(value)[len(match[0]) :].lstrip('/')}")
    if not urls.is_url(str(value)):
        known = ", ".join(f"{scheme}://" for scheme in urls.SCHEMES)
        raise ValueError(f"{value} is a URL; give a local path, or one of {known}")
    return urls.local_path(str(value))


def _as_written(value: str | Path) -> str:
    """A value with the two slashes of a URL, of which `Path` has made one."""
    return str(value) if isinstance(value, str) else re.sub(r"^(\w+):/(?!/)", r"\1://", str(value))


def _named_safetensors(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors")
    return path


TensorFile = Annotated[Path, AfterValidator(_named_safetensors)]


def shard_ranges(text: str) -> list[range]:
    """Parse shard numbers such as `0-99` or `3,7-9`.

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
    """Base class of all settings: frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        """Refuse a number that no counter of the libraries below takes."""
        if isinstance(value, int) and abs(value) > MAX_INT:
            raise ValueError(f"must not be over {MAX_INT:,} in size")
        return value

    @field_validator("*")
    @classmethod
    def _local(cls, value: Any) -> Any:
        """Take the path that stands for a URL (`storage.objects`), or refuse it.

        As a path, it would make a folder `s3:`.
        """
        if isinstance(value, tuple):
            return tuple(map(_path_of, value))
        return _path_of(value)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Unwrap the docstrings of the fields, since `--help` would keep their line breaks."""
        for field in cls.model_fields.values():
            if field.description:
                field.description = " ".join(field.description.split())


class PoolSettings(Settings):
    """Settings of the commands that map over shards with Ray."""

    workers: Workers = "auto"
    """Number of Ray workers; 0 runs in this process. auto takes all CPUs, or 0 for few images:
    below 64, on two CPUs `label` and `hma` below 5,000."""
    ray_address: RayAddress = None
    """Join this Ray cluster instead of starting a local one."""
    max_failure_rate: FailureRate = 0.01
    """Exit with code 3 if a larger share of the images fails."""


class EncoderConfig(Settings):
    """The backbone and its pretrained weights."""

    name: EncoderName | str = "resnet50"
    """Architecture of the backbone, built in or any of timm's as `timm:NAME`; it gives features
    E1..E5 at strides 2, 4, 8, 16, 32."""
    weights: str = "none"
    """Pretrained weights: a file (.safetensors, .pth), a name such as `resnet50/moco_v2_800ep`,
    `bundled` for those of EfficientNet-Lite2 inside the package, `pretrained` for those that
    timm publishes as `timm:NAME`, or `none`."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        """Refuse what is neither built in nor meant for timm; timm itself is asked later."""
        built_in = get_args(EncoderName)
        if name in built_in or re.fullmatch(r"timm:[\w.-]+", name):
            return name
        raise ValueError(
            f"{name} is unknown; known are {', '.join(built_in)} and timm:NAME, such as "
            "timm:convnext_tiny"
        )

    @field_validator("weights")
    @classmethod
    def _absolute(cls, weights: str) -> str:
        """Make a file's path absolute, so that it is the same setting however it is written."""
        return os.path.abspath(weights) if os.path.isfile(weights) else weights


class RefineConfig(Settings):
    """Dense CRF and median filter (Eqn 6)."""

    backend: BackendName = "auto"
    """CRF implementation; auto takes torch on a GPU, else numba. A resumed job keeps its choice."""
    iterations: int = Field(10, ge=0)
    """Number of mean-field iterations of the CRF."""
    median: int = Field(7, ge=1)
    """Side of the median window in pixels, an odd number; 1 switches the filter off."""
    max_side: int | None = Field(640, ge=16)
    """Longest side in pixels at which CRF and median run; larger images are downscaled for them.
    None keeps every image's own size (the authors' code)."""

    @model_validator(mode="after")
    def _odd_median(self) -> RefineConfig:
        if self.median % 2 == 0:
            raise ValueError(f"median must be odd, not {self.median}")
        return self
