"""Model files: find, load, compare and identify them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from a2s.data import images
from a2s.data.arrays import U8
from a2s.errors import CheckpointError
from a2s.models.timm_name import require_timm
from a2s.storage import checkpoints, hashing
from a2s.storage.checkpoints import Commit, last_commit, verify
from a2s.storage.files import is_there
from a2s.storage.tensors import read, read_metadata

if TYPE_CHECKING:
    from torch import Tensor, nn

    from a2s.models.activation_net import ActivationNet
    from a2s.models.detector import Detector

UNUSED = "unused."
"""Prefix of an imported checkpoint's extra tensors, which `a2s export-weights` writes back."""
MAX_SIDE = 8192
"""Of training images in pixels; a file must not ask for memory without bounds."""


@dataclass(frozen=True)
class NetworkInput:
    """Input of a network: a square of `side` pixels, or (None) the image at its own size."""

    side: int | None
    resize_filter: str = "bilinear"

    def resize(self, image_HW3: U8) -> U8:
        """Resize an image without keeping its aspect ratio. Shape: H W 3 -> S S 3, or H W 3."""
        if self.side is None:
            return image_HW3
        return images.resize_rgb(
            image_HW3, height=self.side, width=self.side, resize_filter=self.resize_filter
        )


@dataclass(frozen=True)
class SavedNetwork:
    """A model file and its metadata. Imports no torch, and is small enough to send to workers."""

    file: Path
    metadata: Mapping[str, str] = field(compare=False, repr=False)
    encoder_file: Path | None = None
    """Weights of the encoder, where the file itself has none."""

    @staticmethod
    def find(path: Path) -> SavedNetwork:
        """Find and describe what `--model` means: a `.safetensors` file, or a run's last commit.

        Raises:
            CheckpointError: neither, or the file cannot be read.
            ConfigError: its encoder needs timm, which is not installed.
        """
        file = Path(os.path.abspath(resolve_model(path)))
        saved = SavedNetwork(file, read_metadata(file))
        require_timm(saved.metadata.get("encoder.name", ""))
        return saved

    @staticmethod
    def find_for_labels(path: Path) -> SavedNetwork:
        """Find a network whose maps become labels: of stage 1, or a detector.

        Raises:
            CheckpointError: it cannot be read, does not say how it was trained, or has heads that
                nobody has compared yet.
            ConfigError: as `find`.
        """
        file = Path(os.path.abspath(resolve_model(path)))
        try:
            saved = SavedNetwork.find(file)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; if it is a checkpoint of the paper's authors, convert it with a2s "
                "import-weights"
            ) from None
        if saved.kind not in ("activation", "detector"):
            raise CheckpointError(
                f"label: {file} is of kind {saved.kind}; labels come from a model of a2s stage1 or "
                "stage2"
            )
        _ = saved.trained_input
        is_vote = saved.sign_tie is None and saved.kind == "activation"
        if is_vote and "kept_heads" not in saved.metadata:
            raise CheckpointError(
                f"label: {file} is of an unfinished training, whose heads have not been "
                "compared; continue it with the same a2s stage1 command"
            )
        return saved

    @property
    def kind(self) -> str:
        """`activation` (stage 1) or `detector` (stage 2)."""
        return self.metadata.get("kind", "unknown")

    @property
    def image_size(self) -> int:
        """Side in pixels of the square training images.

        Raises:
            CheckpointError: the file does not say, or says what cannot be.
        """
        text = self._entry("image_size")
        # Python refuses to read thousands of digits.
        if not (text.isdecimal() and 0 < int(text[:9]) <= MAX_SIDE):
            raise self._impossible("image_size", f"a number up to {MAX_SIDE}")
        return int(text)

    @property
    def sign_tie(self) -> int | None:
        """Sign (Eqn 5) where both sides of a map are equal; None if the positive side is salient.

        So it is in a vote of stage 1's heads (`ActivationNet.votes`), and in a detector's logits.

        Raises:
            CheckpointError: as `image_size`.
        """
        if self.kind == "detector":
            return None
        if (tie := self._entry("sign_tie")) not in ("0", "1"):
            raise self._impossible("sign_tie", "0 or 1")
        votes = self._entry("heads") != "1" or self._entry("label_heads") != "0"
        return None if votes else int(tie)

    @property
    def num_voters(self) -> int:
        """Number of heads of stage 1 whose vote is the map; 1 for a single head or a detector."""
        return self.metadata.get("kept_heads", "").count(",") + 1

    @property
    def trained_input(self) -> NetworkInput:
        """Square images as in training: the same size and resize filter.

        Raises:
            CheckpointError: as `image_size`.
        """
        if (name := self._entry("resize_filter")) not in images.RESIZE_FILTERS:
            raise self._impossible("resize_filter", f"one of {', '.join(images.RESIZE_FILTERS)}")
        return NetworkInput(self.image_size, name)

    def _entry(self, name: str) -> str:
        if name not in self.metadata:
            raise CheckpointError(
                f"model: {self.file} does not say with which {name} it was trained"
            )
        return self.metadata[name]

    def _impossible(self, name: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"model: {self.file} says {self.metadata[name]!r:.80} for {name}, must be {wanted}; "
            "take the original file"
        )

    def identity(self) -> dict[str, str]:
        """What identifies this model as the input of a job.

        The checksum alone would do; the other entries let the message say what differs.
        """
        described = {f"model.{key}": value for key, value in self.metadata.items()}
        files = {"model_sha256": self.file, "encoder_sha256": self.encoder_file}
        sums = {name: hashing.sha256_file(file) for name, file in files.items() if file}
        return {**sums, **described}

    def load(self) -> nn.Module:
        """Build the network, weights loaded, on the CPU.

        Raises:
            CheckpointError: an unknown kind, or tensors that do not fit.
        """
        from a2s.models.build import build_from_spec

        tensors = read(self.file)
        if self.encoder_file is not None:
            encoder = read(self.encoder_file)
            tensors |= {f"encoder.{name}": tensor for name, tensor in encoder.items()}
        try:
            model = build_from_spec(self.metadata)
            fill(model, {k: v for k, v in tensors.items() if not k.startswith(UNUSED)})
        except (CheckpointError, ValueError) as error:
            raise CheckpointError(
                f"model: {self.file} is not a model that a2s wrote ({error})"
            ) from None
        return model.eval()


Model = SavedNetwork | Literal["rbd"]
"""A saved network, or the name of the baseline that needs none."""


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network its tensors.

    Raises:
        ValueError: they are not those of this network, or not finite.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        # torch lists every tensor, a line each.
        reason = " ".join(str(error).split())
        raise ValueError(reason if len(reason) <= 200 else f"{reason[:200]}…") from None
    own = model.state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise ValueError(f"{name} has numbers of another kind")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")


def resume(model: ActivationNet | Detector, commit: Commit) -> dict[str, Tensor]:
    """Give a network the weights of a commit; return the optimizer's tensors.

    Raises:
        CheckpointError: a file is damaged, or of another network.
    """
    tensors, buffers, _ = checkpoints.load(commit)
    check_network(commit, model.spec())
    try:
        fill(model, tensors)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint: {commit.folder / 'model.safetensors'} is damaged ({error}). "
            f"{checkpoints.recovery_hint(commit)}"
        ) from None
    return buffers


def check_network(commit: Commit, spec: Mapping[str, str]) -> None:
    """Check that a commit holds the network that these settings build.

    Raises:
        CheckpointError: it holds another one; the message says what differs.
    """
    file = commit.folder / "model.safetensors"
    there = read_metadata(file)
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
    if is_there(path):
        return path
    commit = last_commit(path) if path.is_dir() else None
    if commit is None:
        raise CheckpointError(
            f"model: {path} is neither a .safetensors file nor a run folder with a commit; give "
            "the --out of stage1 or stage2"
        )
    verify(commit, ["model.safetensors"])
    return commit.folder / "model.safetensors"


def load_model(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """Network and metadata of a run folder or `.safetensors` file, weights loaded, on the CPU.

    Raises:
        CheckpointError: no such model, an unknown kind, or tensors that do not fit.
    """
    saved = SavedNetwork.find(path)
    return saved.load(), dict(saved.metadata)


def load_unused(path: Path) -> dict[str, Tensor]:
    """Extra tensors of an imported checkpoint, by their original names.

    Raises:
        CheckpointError: no such model.
    """
    tensors = read(resolve_model(path))
    return {k.removeprefix(UNUSED): v for k, v in tensors.items() if k.startswith(UNUSED)}
