"""Settings of `a2s export`, `import-masks` and `export-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from tyro.conf import Positional

from a2s.config.base import FailureRate, Folder, PoolSettings, Settings

FormatName = Literal["coco", "yolo", "voc", "labelstudio", "cvat", "hf", "fiftyone", "png"]


def _exportable(path: Path) -> Path:
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"{path} must end in .onnx or .pt2 (torch.export)")
    return path


class ExportModelConfig(Settings):
    """Write a detector for other programs: ONNX, or a graph of torch.export."""

    model: Positional[Literal["bundled"] | Path]
    """Stage-2 run folder (its last commit) or `.safetensors` file, or `bundled`, the detector
    inside the package; write `./bundled` for a folder of that name."""
    out: Annotated[Path, AfterValidator(_exportable)]
    """File to write: `.onnx` (needs a2s[onnx]) or `.pt2` (torch.export)."""


class ExportConfig(PoolSettings):
    """Write labels in the format of another program, with their images."""

    labels: Positional[Folder]
    """Label shards written by `a2s label`, or `rectified/` of a stage-2 run."""
    data: Folder
    """Data shards of the labels."""
    format: FormatName
    """Format: `coco`, `yolo` (Ultralytics), `voc`, `labelstudio` (tasks with predictions), `cvat`,
    `hf` (Hugging Face), `fiftyone`, or `png` (masks only)."""
    out: Folder
    """Output folder: a new or empty one, or that of the same export."""
    min_quality: float = Field(0.0, ge=0, le=1)
    """Leave out labels of which a lower F-measure is expected (`quality`), unless a person accepted
    or fixed them."""
    instances: bool = False
    """Make an object of every connected component, instead of one of all that stands out."""
    polygons: bool = False
    """Write outlines instead of run lengths (`coco`, `cvat`)."""
    images: bool = True
    """Copy the images too (`coco`, `labelstudio`, `cvat`; `png` never does, the others always)."""
    image_root: str | None = None
    """What stands before the path of an image in a task of Label Studio, such as `s3://bucket/`;
    default: its local files, served from the folder above `out`."""

    @model_validator(mode="after")
    def _fits_the_format(self) -> ExportConfig:
        if self.polygons and self.format not in ("coco", "cvat"):
            raise ValueError(f"polygons: {self.format} has no choice; leave it out")
        if self.image_root is not None and self.format != "labelstudio":
            raise ValueError(f"image_root: {self.format} names images by their path; leave it out")
        if not self.images and self.format not in ("coco", "labelstudio", "cvat", "png"):
            raise ValueError(f"images: {self.format} is nothing without them; leave it out")
        return self


class ImportMasksConfig(Settings):
    """Read masks that people corrected elsewhere, as decisions about labels."""

    file: Positional[Path]
    """Export of Label Studio (JSON), or a COCO file with run lengths or polygons."""
    labels: Folder
    """Label shards that the masks belong to; the decisions go into its `review.jsonl`."""
    max_failure_rate: FailureRate = 0.01
    """Exit with code 3 if a larger share of the masks cannot be used."""
