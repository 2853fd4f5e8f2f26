"""`.safetensors` files: atomic, deterministic writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from a2s.errors import CheckpointError, ConfigError
from a2s.storage import files
from a2s.storage.objects import cache

if TYPE_CHECKING:
    from torch import Tensor


def read(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU.

    Raises:
        CheckpointError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(cache.bring(file))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"model: {file} cannot be read as safetensors: {error}") from None


def read_metadata(file: Path) -> dict[str, str]:
    """Read the metadata in a file's header. Imports no torch.

    Raises:
        CheckpointError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(cache.bring(file), framework="np") as handle:
            return dict(handle.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"model: {file} cannot be read as safetensors: {error}") from None


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a file's tensors from its header. Imports no torch.

    Raises:
        CheckpointError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(cache.bring(file), framework="np") as handle:
            names = handle.keys()
            return {name: tuple(handle.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"model: {file} cannot be read as safetensors: {error}") from None


def is_written(file: Path, metadata: Mapping[str, str]) -> bool:
    """Whether a file with these metadata entries exists. Imports no torch.

    Raises:
        ConfigError: the path exists, with other metadata.
    """
    if not file.exists() and not files.is_there(file):
        return False
    found = read_metadata(file) if files.is_there(file) else {}
    if metadata.items() <= found.items():
        return True
    raise ConfigError(f"{file} exists and was made from something else; use another --out")


def write(file: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write a file atomically.

    Raises:
        ConfigError: its folder cannot be created because a file is in the way.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{file.parent} is a file, or inside one; use another --out") from None
    files.remove_abandoned([file])
    files.atomic_write(file, to_bytes(tensors, metadata=metadata))


def to_bytes(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialise tensors; metadata is sorted because the library writes it in random order."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    file = save(plain, dict(metadata) if metadata else None)
    if not metadata:
        return file
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(file)[8 + length :]))
