"""The models inside the package: activation network and detector on one encoder. No torch here.

`weights/CARD.md` is their card. They are in half precision but for statistics of BatchNorm, and
become float32 when they are loaded. The encoder is a file of its own, which both of them need.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from a2s.errors import CheckpointError
from a2s.models.saved import Model, SavedNetwork
from a2s.storage import hashing
from a2s.storage.files import read_json
from a2s.storage.tensors import read_metadata

FOLDER = Path(__file__).parent / "weights"
CHECKSUMS = "checksums.json"

Kind = Literal["activation", "detector"]
ModelName = Literal["rbd", "bundled", "bundled-activation"]
"""What `--model` may name instead of a file: a baseline without training, or a bundled model."""


@functools.cache
def bundled_file(name: str) -> Path:
    """Path of a file of the package, whose bytes are those that were published.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    file = FOLDER / name
    try:
        wanted = read_json(FOLDER / CHECKSUMS)[name]
        found = hashing.sha256_file(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"model: {file}, a part of a2s, cannot be read ({error}); install a2s again"
        ) from None
    if found != wanted:
        raise CheckpointError(f"model: {file}, a part of a2s, is damaged; install a2s again")
    return file


def bundled_encoder() -> Path:
    """Weights of the bundled encoder, EfficientNet-Lite2.

    Raises:
        CheckpointError: as `bundled_file`.
    """
    return bundled_file("encoder.safetensors")


def bundled(kind: Kind) -> SavedNetwork:
    """One of the bundled networks.

    Raises:
        CheckpointError: as `bundled_file`.
    """
    file = bundled_file(f"{kind}.safetensors")
    return SavedNetwork(file, read_metadata(file), bundled_encoder())


def find_start(init: Literal["bundled"] | Path) -> SavedNetwork:
    """Find the network that training starts from.

    Raises:
        CheckpointError: as `SavedNetwork.find`.
    """
    return bundled("detector") if init == "bundled" else SavedNetwork.find(init)


def find_model(
    model: ModelName | Path, *, for_labels: bool = False
) -> tuple[Model, dict[str, str]]:
    """Find what `--model` means, and what identifies it as an input.

    `bundled` is the activation network where labels are made of its maps, else the detector.

    Raises:
        CheckpointError: as `SavedNetwork.find`, or `find_for_labels`.
        ConfigError: as these.
    """
    if model == "rbd":
        return "rbd", {"baseline": "rbd"}
    if isinstance(model, Path):
        found = SavedNetwork.find_for_labels(model) if for_labels else SavedNetwork.find(model)
    else:
        wants_maps = for_labels or model == "bundled-activation"
        found = bundled("activation" if wants_maps else "detector")
    return found, found.identity()
