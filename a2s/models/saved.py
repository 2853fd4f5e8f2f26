"""Networks as they are saved: find, load, compare and identify a model file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from a2s.errors import CheckpointError
from a2s.storage import hashing
from a2s.storage.tensors import read, read_metadata

if TYPE_CHECKING:
    from torch import Tensor, nn
from a2s.storage.checkpoints import Commit, last_commit, verify

UNUSED = "unused."
"""Prefix of tensors that a model file carries for its way back to where it came from."""


def check_network(commit: Commit, spec: Mapping[str, str]) -> None:
    """Compare the network that a commit holds with the one that its tensors are meant for.

    Raises:
        CheckpointError: it is another one; it says what differs.
    """
    from safetensors import safe_open

    file = commit.folder / "model.safetensors"
    with safe_open(file, framework="pt") as handle:
        there = handle.metadata() or {}
    differing = [
        f"{key}: {there.get(key, 'unset')} there, {spec[key]} now"
        for key in sorted(spec)
        if there.get(key) != spec[key]
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint: {file} is of another network ({'; '.join(differing)}); use another --out"
        )


def resolve_model(path: Path) -> Path:
    """The `.safetensors` file that `--model` means: the file itself, or a run's last commit.

    Raises:
        CheckpointError: neither.
    """
    if path.is_file():
        return path
    commit = last_commit(path) if path.is_dir() else None
    if commit is None:
        raise CheckpointError(
            f"model: {path} is neither a .safetensors file nor a run folder with a commit; give "
            "the --out of stage1 or stage2"
        )
    verify(commit, ["model.safetensors"])
    return commit.folder / "model.safetensors"


def inputs_of(model: Path) -> dict[str, str]:
    """What a job whose input is this model file compares when it is resumed. Imports no torch.

    The checksum would be enough; the entries say what is different about another model.

    Raises:
        CheckpointError: the file cannot be read.
    """
    described = {f"model.{key}": value for key, value in read_metadata(model).items()}
    return {"model_sha256": hashing.sha256_file(model), **described}


def load_model(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """Build the network that a run folder or `.safetensors` file holds, weights loaded, on the CPU.

    Raises:
        CheckpointError: no such model, an unknown kind, or tensors that do not fit.
    """
    from a2s.models.build import build_from_spec

    file = resolve_model(path)
    metadata, tensors = read_metadata(file), read(file)
    try:
        model = build_from_spec(metadata)
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(UNUSED)})
    except (CheckpointError, RuntimeError) as error:
        raise CheckpointError(f"model: {file} is not a model that a2s wrote ({error})") from None
    return model.eval(), metadata


def load_unused(path: Path) -> dict[str, Tensor]:
    """Tensors beside those of the network, by the names that they had where they came from.

    Raises:
        CheckpointError: no such model.
    """
    tensors = read(resolve_model(path))
    return {k.removeprefix(UNUSED): v for k, v in tensors.items() if k.startswith(UNUSED)}
