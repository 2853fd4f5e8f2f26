"""Convert checkpoints between the layout of the paper's authors and that of a2s.

A released file is the whole `state_dict` of one stage's network: `encoder.*`, a ResNet-50 with
torchvision's names and its classifier, and `decoder.*`. A file with any other tensor is refused.
Tensors that a2s does not use are kept separately, so that the conversion back is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from a2s.errors import CheckpointError, WeightsError
from a2s.models.activation_net import ActivationNet
from a2s.models.build import build_from_spec
from a2s.models.detector import Detector
from a2s.models.encoder_weights import require_coverage

IMAGE_SIZE = 320
"""Side in pixels of the square to which the authors resize images, in both stages."""

# Stage 1: our SE block to theirs; their numbers count the encoder's stages from 0.
_SE_BLOCKS = {"se3": "ad2", "se4": "ad3", "se5": "ad4", "se0": "fusion"}
_SE_LAYERS = {"conv": "ad0.0", "norm": "ad0.1", "gate": "se.conv"}
# Stage 2, both residual attention modules; without `res_conv*` it is the † variant of Table VII.
_RAMS = {"regional": "region", "local": "local"}
_RAM_LAYERS = {
    "context.0": "gconv.0",
    "context.1": "gconv.1",
    "attention_a": "res_conv1",
    "attention_b": "res_conv2",
    "fuse": "fuse",
}
_MODULES = {
    **{
        f"heads.0.{our_block}.{our_layer}": f"decoder.{block}.{layer}"
        for our_block, block in _SE_BLOCKS.items()
        for our_layer, layer in _SE_LAYERS.items()
    },
    **{f"decoder.adapters.{i}.{j}": f"decoder.adapter{i}.{j}" for i in range(5) for j in (0, 1)},
    "decoder.descend_a.0": "decoder.gb_conv.0",
    "decoder.descend_a.1": "decoder.gb_conv.1",
    "decoder.descend_b.0": "decoder.gb_conv.4",
    "decoder.descend_b.1": "decoder.gb_conv.5",
    **{
        f"decoder.{our_ram}.{our_layer}": f"decoder.{ram}.{layer}"
        for our_ram, ram in _RAMS.items()
        for our_layer, layer in _RAM_LAYERS.items()
    },
}
_E5_SCALE = "heads.0.e5_scale_C"
_CLASSIFIER = {"encoder.fc.weight": (1000, 2048), "encoder.fc.bias": (1000,)}
# Their SE blocks create a second normalisation layer and never call it.
_SECOND_NORMS = {
    f"decoder.{block}.se.gn.{part}": (64,)
    for block in _SE_BLOCKS.values()
    for part in ("weight", "bias")
}
# The prefix of DataParallel, and the prefix that the authors' deployment script removes.
_PREFIXES = ("module.", "model.")
# Spec of the authors' networks, where a2s has a choice.
_THEIRS = {
    "encoder.name": "resnet50",
    "encoder.variant": "torchvision",
    "width": "64",
    "heads": "1",
    "label_heads": "0",
    "frame": "0",
    "boundary_frame": "0",
    "fusion_stride": "2",
    "boundary": "adb",
}
_NAMED = 3


@dataclass(frozen=True)
class Released:
    """A network from a released file, and the tensors that it does not use, by their names."""

    network: ActivationNet | Detector
    unused: dict[str, Tensor]


def from_released(entries: Mapping[str, object], *, source: str) -> Released:
    """Build a network from a checkpoint's `entries`; `source` names the file in errors.

    E5 is scaled by the column sums of the classifier. The authors' stage 1 computes them in every
    forward pass, from weights that are never trained.

    Raises:
        WeightsError: it is no network of the authors, or a tensor is missing, unexpected, or of
            another shape or type.
    """
    entries = _without_prefix(entries)
    network, title = _empty_network(entries, source)
    names, empty = _names_of(network), network.state_dict()
    assert empty.keys() - names.keys() <= {_E5_SCALE}, (
        "a tensor without a name in the authors' layout"
    )
    unused = _unused_of(network)
    wanted = {theirs: _described(empty[ours]) for ours, theirs in names.items()}
    wanted |= {name: _described(torch.empty(shape)) for name, shape in unused.items()}
    found = {name: _described(value) for name, value in entries.items()}
    require_coverage(found, wanted, source=source, network=title)

    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    state = {ours: tensors[theirs] for ours, theirs in names.items() if theirs in tensors}
    if isinstance(network, ActivationNet):
        state[_E5_SCALE] = tensors["encoder.fc.weight"].sum(dim=0)
    # Strict except for BatchNorm's batch counters, which old torch files lack and which stay 0.
    network.load_state_dict(state, strict=False)
    return Released(network.eval(), {name: tensors[name] for name in unused})


def to_released(network: nn.Module, unused: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a network's tensors to the authors' layout and add the tensors that only theirs have.

    Missing ones that are not in `unused` are created: normalisations with initial values, and a
    classifier of which their stage 1 uses only the column sums. Its first row is the scale of E5
    (ones if ours has none), all other entries are 0.

    Raises:
        CheckpointError: the authors' network differs; the message names the differences.
    """
    state, names = network.state_dict(), _names_of(network)
    spec = network.spec() if isinstance(network, ActivationNet | Detector) else {}
    differing = [
        f"{key} {spec[key]} instead of {value}"
        for key, value in _THEIRS.items()
        if spec.get(key, value) != value
    ] or [f"no place for {key}" for key in state if key not in names and key != _E5_SCALE]
    if differing:
        more = f", … {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise CheckpointError(
            f"model: the authors' networks differ from it: {', '.join(differing[:_NAMED])}{more}"
        )
    created = {
        name: torch.full(shape, float(name.endswith("gn.weight")))
        for name, shape in _unused_of(network).items()
    }
    created["encoder.fc.weight"][0] = state.get(_E5_SCALE, torch.ones(2048))
    kept = {name: unused[name] for name in created if name in unused}
    return {theirs: state[ours] for ours, theirs in names.items()} | created | kept


def _without_prefix(entries: Mapping[str, object]) -> Mapping[str, object]:
    for prefix in _PREFIXES * 2:
        if entries and all(name.startswith(prefix) for name in entries):
            entries = {name.removeprefix(prefix): value for name, value in entries.items()}
    return entries


def _empty_network(
    entries: Mapping[str, object], source: str
) -> tuple[ActivationNet | Detector, str]:
    """Build the network that fits the names, and return its title for messages."""
    spec = {**_THEIRS, "e5_scale": "true", "sign_tie": "0"}
    if any(name.startswith("decoder.fusion.") for name in entries):
        return build_from_spec({**spec, "kind": "activation"}), "the authors' stage 1"
    if any(name.startswith("decoder.adapter0.") for name in entries):
        # If any of the four attention convolutions exists, missing ones are reported as errors.
        has_attention = any(".res_conv" in name for name in entries)
        spec["detector"] = "ram" if has_attention else "conv"
        return build_from_spec({**spec, "kind": "detector"}), "the authors' stage 2"
    raise WeightsError(
        f"weights: {source} is no checkpoint of the authors: among its {len(entries)} names "
        f"({', '.join([*entries][:_NAMED])}, …) is neither decoder.fusion.* of stage 1 nor "
        "decoder.adapter0.* of stage 2"
    )


def _unused_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    is_stage1 = isinstance(network, ActivationNet)
    return _CLASSIFIER | (_SECOND_NORMS if is_stage1 else {})


def _names_of(network: nn.Module) -> dict[str, str]:
    """Map our names of the shared tensors to the authors' names."""
    names = {}
    for ours in network.state_dict():
        module, _, part = ours.rpartition(".")
        if ours.startswith("encoder."):
            names[ours] = ours
        elif module in _MODULES:
            names[ours] = f"{_MODULES[module]}.{part}"
    return names


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
