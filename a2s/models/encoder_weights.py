"""Pretrained encoder weights from files or registered downloads; every key must match."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from a2s.errors import WeightsError
from a2s.models.bundled import bundled_encoder
from a2s.models.encoder_base import Encoder
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.published_weights import REGISTRY, PublishedWeights
from a2s.models.timm_name import PRETRAINED, is_timm, require_timm
from a2s.storage import places
from a2s.storage.files import atomic_path, open_file, remove_abandoned

DOWNLOAD_TIMEOUT_SEC = 30.0
BUNDLED = "bundled"
"""Weights inside the package, those of EfficientNet-Lite2."""

# Classifier heads of the published files, which encoders omit; every other key must match.
_HEADS = frozenset(
    f"{layer}.{part}"
    for layer in ("fc", "fc.0", "fc.2", "classifier.1")
    for part in ("weight", "bias")
)
# DINOv2's files hold the token that stood for hidden patches in its training.
_TRAINING_ONLY = frozenset({"mask_token"})
# A MoCo checkpoint holds two encoders and a queue; the query encoder is the trained one.
_MOCO_ENCODER = "module.encoder_q."
# Training scripts store the tensors under one of these keys, next to epoch and optimizer.
_WRAPPERS = ("state_dict", "model")
_NAMED_KEYS = 10


def load_encoder(name: str, weights: str | None) -> Encoder:
    """Build an encoder with the given weights: a file, a published name, or none.

    Raises:
        ConfigError: there is no such encoder, or timm is not installed.
        WeightsError: the weights are not available, are damaged, or do not fit this encoder.
    """
    if is_timm(name) and weights == PRETRAINED:
        require_timm(name)
        from a2s.models.timm_encoder import TimmEncoder

        return TimmEncoder(name, pretrained=True)
    if weights is None or weights == "none":
        encoder = build_encoder(name)
        calibrate_batchnorm(encoder)
        return encoder
    published = REGISTRY.get(weights)
    if weights == BUNDLED:
        path = bundled_encoder()
    elif published is None:
        path = Path(weights).expanduser()
        if not path.is_file():
            known = f"{BUNDLED} or a registered name ({', '.join(REGISTRY)})"
            if is_timm(name):
                known = f"`{PRETRAINED}`, which means those that timm publishes as {name}"
            raise WeightsError(f"weights: {weights} is neither a file nor {known}")
    else:
        if published.encoder != name:
            raise WeightsError(
                f"weights: {weights} are weights of {published.encoder}, not of {name}"
            )
        print(
            f"weights: {weights}, trained on {published.trained_on}; licence {published.licence}",
            file=sys.stderr,
        )
        path = fetch(weights, published)
    return fill_encoder(name, read_state(path), source=str(path))


def cache_folder() -> Path:
    """Folder of downloaded weights: $A2S_CACHE/weights or ~/.cache/a2s/weights."""
    return places.cache() / "weights"


def fetch(name: str, published: PublishedWeights) -> Path:
    """Return the cached file of registered weights, downloaded if needed, and verified.

    Raises:
        WeightsError: no network, or the bytes are not the published ones.
    """
    path = cache_folder() / published.file_name
    if path.exists():
        _verify(path, published, advice=f"delete {path} to download it again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned([path])
        with atomic_path(path) as temporary:
            reply = urllib.request.urlopen(published.url, timeout=DOWNLOAD_TIMEOUT_SEC)
            with reply, temporary.open("wb") as file:
                shutil.copyfileobj(reply, file, 1 << 20)
            _verify(temporary, published, advice=f"try again, or put {published.url} at {path}")
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"weights: {name} could not be downloaded ({error}). Put the file at {path} "
            "or pass --encoder.weights PATH. A2S_CACHE names another folder for downloads."
        ) from None
    return path


def _verify(path: Path, published: PublishedWeights, *, advice: str) -> None:
    with open_file(path) as file:
        found = hashlib.file_digest(file, published.algorithm).hexdigest()
    if not found.startswith(published.digest_prefix):
        raise WeightsError(
            f"weights: {published.file_name} is not the published file ({published.algorithm} "
            f"{found[:16]}…, expected {published.digest_prefix}…); {advice}"
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or torch file, without running pickled code.

    Raises:
        WeightsError: the file is neither, or does not map names to tensors.
    """
    return {key: value for key, value in read_entries(path).items() if isinstance(value, Tensor)}


def read_entries(path: Path) -> dict[str, object]:
    """Read all named entries of such a file, tensors or not, without their wrapper.

    Raises:
        WeightsError: the file is neither, is damaged, or is no mapping from names.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # Files from before torch 1.6 are no zip archives: they allow neither mmap nor checksums.
        is_archive = zipfile.is_zipfile(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
        damaged = _damaged_member(path) if is_archive else None
    except Exception as error:  # on arbitrary bytes these parsers raise any exception
        if type(error).__name__ == "UnpicklingError":
            raise WeightsError(
                f"weights: {path} is damaged, or holds Python objects besides tensors, which may "
                "run code and are refused; give tensors by name, best as .safetensors"
            ) from None
        reason = str(error).strip().partition("\n")[0] or "nothing there to read"
        raise WeightsError(
            f"weights: {path} cannot be read as {path.suffix or 'a torch file'} "
            f"({type(error).__name__}: {reason[:120]})"
        ) from None
    if damaged:
        raise WeightsError(f"weights: {path} is damaged (checksum of its {damaged}); get it again")
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"weights: {path} holds a {type(loaded).__name__}, not tensors by name")
    return {str(key): value for key, value in loaded.items()}


def _damaged_member(path: Path) -> str | None:
    """Return the first member with a wrong checksum; torch itself does not verify checksums."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def fill_encoder(name: str, state: Mapping[str, Tensor], *, source: str) -> Encoder:
    """Build an encoder from `state`, in any published layout; `source` names it in errors.

    Raises:
        WeightsError: a tensor is missing, unexpected, or of another shape.
    """
    if any(key.startswith(_MOCO_ENCODER) for key in state):
        state = {
            key.removeprefix(_MOCO_ENCODER): value
            for key, value in state.items()
            if key.startswith(_MOCO_ENCODER)
        }
    if is_timm(name):
        return _fill_timm(name, state, source=source)
    if name == "mobilenet_v2":  # files of the bare `features` start at the block number
        state = {f"features.{k}" if k[:1].isdigit() else k: v for k, v in state.items()}
    is_onnx_zoo = name == "mobilenet_v2" and "features.1.0.0.weight" in state
    encoder = build_encoder(name, variant="onnx_zoo" if is_onnx_zoo else None)
    unused = _HEADS | encoder.classifier_names
    state = {key: value for key, value in state.items() if key not in unused}
    require_coverage(_shapes(state), _shapes(encoder.state_dict()), source=source, network=name)
    encoder.load_state_dict(dict(state), strict=False)
    return encoder


def _fill_timm(name: str, state: Mapping[str, Tensor], *, source: str) -> Encoder:
    """Build one of timm's networks from tensors with timm's names."""
    from a2s.models.timm_encoder import TimmEncoder

    encoder = build_encoder(name)
    assert isinstance(encoder, TimmEncoder)
    wanted = encoder.net.state_dict()
    unused = _HEADS | _TRAINING_ONLY | encoder.unused_names
    state = {key: value for key, value in state.items() if key in wanted or key not in unused}
    require_coverage(_shapes(state), _shapes(wanted), source=source, network=name)
    encoder.net.load_state_dict(state, strict=False)
    return encoder


def _shapes(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {key: str(list(value.shape)) for key, value in state.items()}


def require_coverage(
    found: Mapping[str, str], wanted: Mapping[str, str], *, source: str, network: str
) -> None:
    """Require that names and descriptions (such as shapes) of all tensors match.

    Raises:
        WeightsError: a tensor is missing, unexpected, or described differently.
    """
    # BatchNorm needs this counter only with momentum None, which is unused; some files lack it.
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in found]
    unexpected = [key for key in found if key not in wanted]
    misfits = [key for key in wanted if key in found and found[key] != wanted[key]]
    if missing or unexpected or misfits:
        covered = len(needed) - len(missing) - len(set(needed).intersection(misfits))
        raise WeightsError(
            f"weights: {source} covers {covered} of the {len(needed)} tensors of {network}"
            + _listed("missing", missing)
            + _listed("unexpected", unexpected)
            + _listed(
                "of wrong shape or type",
                [f"{key} {found[key]} instead of {wanted[key]}" for key in misfits],
            )
        )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f", … {len(names) - _NAMED_KEYS} more" if len(names) > _NAMED_KEYS else ""
    return f"; {len(names)} {what}: {', '.join(names[:_NAMED_KEYS])}{more}"
