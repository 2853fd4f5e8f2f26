"""Settings of `a2s export-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator
from tyro.conf import Positional

from a2s.config.base import Settings


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
