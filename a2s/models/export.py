"""Detectors for other programs: a graph of `torch.export`, and ONNX.

Shape suffixes: B images, H W their size; all three may differ at every call.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from a2s.errors import ConfigError
from a2s.models.detector import Detector
from a2s.models.prepare import folded

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SUFFIXES = (".onnx", ".pt2")
MIN_SIDE = 33
"""Smallest side in pixels of an image: E5 of a smaller one is a single pixel."""
TOLERANCE = 1e-4
"""Largest difference in saliency (0..1) between an exported network and its original."""
Run = Callable[[Tensor], Tensor]
_ENTRY = "a2s.json"
"""Name under which a file says how it was made."""
_CHECKED = ((1, 320, 320), (3, 97, 131), (2, 64, 200))
"""Batches (B, H, W) on which an exported network is compared with its original."""


class Saliency(nn.Module):
    """A detector with everything around it but the resizing: pixels in, saliency out.

    Shape: RGB [B, 3, H, W] -> [B, 1, H, W]. Range: 0..1 -> 0..1
    """

    mean_1311: Tensor
    std_1311: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        for name, values in (("mean", detector.encoder.mean), ("std", detector.encoder.std)):
            self.register_buffer(f"{name}_1311", torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the saliency of images; the argument's name is that of the graph's input."""
        logits_B1HW: Tensor = self.detector((image - self.mean_1311) / self.std_1311)
        return logits_B1HW.sigmoid()


def require_onnx() -> None:
    """Check that what writes and checks ONNX files is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"export-model: ONNX needs {error.name}; pip install 'a2s[onnx]'"
        ) from None


def export(detector: Detector, suffix: str, *, metadata: Mapping[str, str]) -> tuple[bytes, float]:
    """Bytes of a file with one of `SUFFIXES`, and the largest difference in saliency.

    BatchNorm of the encoder is folded in place: fewer steps to trace, run and store. The exported
    network is run and compared with the original.

    Raises:
        ConfigError: the network cannot be exported for images of any size, ONNX is not installed,
            or the difference is above `TOLERANCE`.
    """
    if suffix == ".onnx":
        require_onnx()
    detector.encoder = folded(detector.encoder)
    network = Saliency(detector).eval()
    with warnings.catch_warnings():
        # Of torch about itself.
        warnings.simplefilter("ignore")
        program = _traced(network)
        encode = _as_onnx if suffix == ".onnx" else _as_program
        data, run = encode(program, json.dumps(dict(metadata), sort_keys=True))
    difference = _largest_difference(network, run)
    # Also where it is no number.
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"export-model: the exported network differs by {difference:.1e} from its original, "
            f"more than {TOLERANCE:.0e}; nothing was written. Please report the model's encoder "
            "and the versions of torch and onnxruntime"
        )
    return data, difference


def _any_size() -> dict[str, Any]:
    from torch.export import Dim

    sides = {axis: Dim(name, min=MIN_SIDE) for axis, name in ((2, "height"), (3, "width"))}
    return {"image": {0: Dim("batch"), **sides}}


def _traced(network: Saliency) -> ExportedProgram:
    # Sizes that no two axes share, or they would be taken for the same one.
    example_B3HW = torch.zeros(2, 3, 160, 224)
    try:
        return torch.export.export(network, (example_B3HW,), dynamic_shapes=_any_size())
    except RuntimeError as error:
        why = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        kind = f"{network.detector.detector} with {network.detector.encoder.name}"
        raise ConfigError(
            f"export-model: the detector {kind} cannot be exported for images of any size ({why})"
        ) from None


def _as_program(program: ExportedProgram, metadata: str) -> tuple[bytes, Run]:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={_ENTRY: metadata})
    data = file.getvalue()
    return data, torch.export.load(io.BytesIO(data)).module()


def _as_onnx(program: ExportedProgram, metadata: str) -> tuple[bytes, Run]:
    import onnxruntime

    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["image"],
        output_names=["saliency"],
        dynamic_shapes=_any_size(),
        verbose=False,
    )
    assert written is not None
    written.model.metadata_props[_ENTRY] = metadata
    data: bytes = written.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(image_B3HW: Tensor) -> Tensor:
        (saliency_B1HW,) = session.run(["saliency"], {"image": image_B3HW.numpy()})
        return torch.from_numpy(saliency_B1HW)

    return data, run


@torch.inference_mode()
def _largest_difference(network: Saliency, run: Run) -> float:
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(b, 3, h, w, generator=generator) for b, h, w in _CHECKED)
    return max(float((run(image) - network(image)).abs().max()) for image in images)


def made_from(file: Path) -> dict[str, str]:
    """What an exported file says about how it was made; empty if it says nothing.

    Raises:
        ConfigError: ONNX is not installed.
    """
    if file.suffix == ".onnx":
        require_onnx()
        import onnx

        try:
            entries = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
        except Exception:  # Of protobuf, which has many kinds: then a2s did not write the file.
            return {}
        text = entries.get(_ENTRY, "{}")
    else:
        try:
            with zipfile.ZipFile(file) as archive:
                inside = [name for name in archive.namelist() if name.endswith(f"extra/{_ENTRY}")]
                text = archive.read(inside[0]).decode() if inside else "{}"
        except (OSError, zipfile.BadZipFile):
            return {}
    found: dict[str, str] = json.loads(text)
    return found
