"""Checkpoints, and the commit files that make them valid.

`checkpoints/00003/{model,optimizer}.safetensors, state.json` are written to a temporary folder,
fsynced and renamed. `commits/00003.json` with their checksums is written last. Readers only open
checkpoints that have a commit file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from a2s.errors import CheckpointError
from a2s.storage import files, hashing, tensors
from a2s.storage.parsing import first_problem

if TYPE_CHECKING:
    from torch import Tensor

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
RESULT = ("model.safetensors", "state.json")
"""What of a finished run's checkpoint is still of use."""
KEPT_COMMITS = 2
_MOST = 10**9
"""Epochs and steps that no run has."""
_CHECKPOINT_NAME = re.compile(r"\d{5,}|\.\d{5,}\.tmp")


@dataclass(frozen=True)
class Commit:
    """A durable checkpoint of a run: number, folder, commit file, checksums and `state`."""

    number: int
    folder: Path
    path: Path
    sha256: dict[str, str]
    state: dict[str, Any]


class _State(BaseModel):
    """What every commit's state has; each command adds its own."""

    model_config = ConfigDict(strict=True)

    epoch: int = Field(ge=0, le=_MOST)
    step: int = Field(ge=0, le=_MOST)
    finished: bool
    generation: int = Field(0, ge=0, le=_MOST)
    part: str | None = None


class _Record(BaseModel):
    """Content of a commit file."""

    model_config = ConfigDict(strict=True)

    sha256: dict[str, str]
    state: dict[str, Any]


def save(
    run: Path,
    commit: int,
    *,
    model: dict[str, Tensor],
    metadata: dict[str, str],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
) -> Commit:
    """Write checkpoint and commit number `commit`, then delete all but the last two.

    `metadata` is the network's `spec()` plus what inference needs, such as `image_size`. `state` is
    JSON: epoch, step, seed, world size and any other value that a resumed run needs.
    """
    contents = {
        "model.safetensors": tensors.to_bytes(model, metadata=metadata),
        "optimizer.safetensors": tensors.to_bytes(optimizer),
    }
    return _write(run, commit, contents, state)


def save_again(run: Path, commit: Commit, *, state: dict[str, Any]) -> Commit:
    """Write a new commit with the weights of `commit` and a new `state`.

    Raises:
        CheckpointError: the weights are missing or damaged.
    """
    verify(commit)
    contents = {name: files.read_bytes(commit.folder / name) for name in FILES[:2]}
    return _write(run, commit.number + 1, contents, state)


def last_commit(run: Path) -> Commit | None:
    """Return the newest commit of a run folder, None before the first. Imports no torch.

    Raises:
        CheckpointError: the commit file cannot be read.
    """
    numbers = _commit_numbers(run)
    return read_commit(_commit_path(run, numbers[-1])) if numbers else None


def read_commit(path: Path) -> Commit:
    """Read a commit file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        number = int(path.stem)
        record = _Record.model_validate(files.read_json(path))
        _State.model_validate(record.state)
    except (OSError, ValueError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(
            f"checkpoint: {path} is damaged ({why}). {_recovery_hint(path)}"
        ) from None
    folder = _checkpoint_folder(path.parents[1], number)
    return Commit(number, folder, path, record.sha256, record.state)


def check_state(state: object) -> None:
    """Check that a commit's state has what every state has.

    Raises:
        ValueError: it has not.
    """
    _State.model_validate(state)


def load(commit: Commit) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Load model tensors, optimizer tensors and state of a commit, and verify the checksums.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    verify(commit)
    model = tensors.read(commit.folder / "model.safetensors")
    optimizer = tensors.read(commit.folder / "optimizer.safetensors")
    return model, optimizer, commit.state


def verify(commit: Commit, names: Iterable[str] = FILES) -> None:
    """Verify the checksums of a commit's files.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for name in names:
        path = commit.folder / name
        if not files.is_there(path):
            raise CheckpointError(f"checkpoint: {path} is missing. {_recovery_hint(commit.path)}")
        if hashing.sha256_file(path) != commit.sha256.get(name):
            raise CheckpointError(
                f"checkpoint: {path} is damaged (its sha256 is not the one in {commit.path}). "
                f"{_recovery_hint(commit.path)}"
            )
    # By the state in the commit file a run goes on; the other one has a checksum.
    if "state.json" in names and not _is_state(commit.folder / "state.json", commit.state):
        raise CheckpointError(
            f"checkpoint: {commit.path} is damaged (its state is not that of the checkpoint). "
            f"{_recovery_hint(commit.path)}"
        )


def _is_state(path: Path, state: dict[str, Any]) -> bool:
    try:
        return hashing.digest(files.read_json(path)) == hashing.digest(state)
    except ValueError:
        return False


def _write(run: Path, commit: int, contents: dict[str, bytes], state: dict[str, Any]) -> Commit:
    folder, path = _checkpoint_folder(run, commit), _commit_path(run, commit)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    for leftover in (temporary, folder):
        # A leftover of an interrupted attempt at this commit.
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    contents = {**contents, "state.json": json.dumps(state, indent=1, sort_keys=True).encode()}
    try:
        for name in FILES:
            with files.naming(folder / name), open(temporary / name, "wb") as file:
                file.write(contents[name])
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        # Free the space of an incomplete checkpoint, for example on a full disk.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files.fsync_dir(temporary)
    temporary.rename(folder)
    files.fsync_dir(folder.parent)
    sha256 = {name: hashing.sha256_file(folder / name) for name in FILES}
    files.write_json(path, {"commit": commit, "sha256": sha256, "state": state})
    _drop_old(run)
    return Commit(commit, folder, path, sha256, state)


def _checkpoint_folder(run: Path, number: int) -> Path:
    return run / "checkpoints" / f"{number:05d}"


def _commit_path(run: Path, number: int) -> Path:
    return run / "commits" / f"{number:05d}.json"


def _commit_numbers(run: Path) -> list[int]:
    return sorted(int(p.stem) for p in (run / "commits").glob("*.json") if p.stem.isdigit())


def recovery_hint(commit: Commit) -> str:
    """What to do about a commit that is damaged."""
    return _recovery_hint(commit.path)


def _recovery_hint(path: Path) -> str:
    return (
        f"Restore it from a copy, or delete {path} and run the same command again: it continues "
        "from the previous commit"
    )


def _drop_old(run: Path) -> None:
    """Delete all but the last two commits: first the commit files, then their checkpoints."""
    kept = _commit_numbers(run)[-KEPT_COMMITS:]
    for number in _commit_numbers(run)[:-KEPT_COMMITS]:
        _commit_path(run, number).unlink()
    files.fsync_dir(run / "commits")
    kept_names = {f"{number:05d}" for number in kept}
    for folder in (run / "checkpoints").iterdir():
        # Keep other folders: the user may have copied a checkpoint.
        if _CHECKPOINT_NAME.fullmatch(folder.name) and folder.name not in kept_names:
            shutil.rmtree(folder)
