"""Mapping between our layer names and those of the authors' code."""

from __future__ import annotations

from torch import Tensor, nn

STAGE1_MODULES = {
    f"{ours}.{our_layer}": f"stage1.decoder.{theirs}.{their_layer}"
    for ours, theirs in {"se3": "ad2", "se4": "ad3", "se5": "ad4", "se0": "fusion"}.items()
    for our_layer, their_layer in {"conv": "ad0.0", "norm": "ad0.1", "gate": "se.conv"}.items()
}
RAM_MODULES = {
    "context.0": "gconv.0",
    "context.1": "gconv.1",
    "attention_a": "res_conv1",
    "attention_b": "res_conv2",
    "fuse": "fuse",
}
STAGE2_MODULES = {
    **{f"adapters.{i}.{j}": f"stage2.decoder.adapter{i}.{j}" for i in range(5) for j in (0, 1)},
    "descend_a.0": "stage2.decoder.gb_conv.0",
    "descend_a.1": "stage2.decoder.gb_conv.1",
    "descend_b.0": "stage2.decoder.gb_conv.4",
    "descend_b.1": "stage2.decoder.gb_conv.5",
    **{f"regional.{o}": f"stage2.decoder.region.{t}" for o, t in RAM_MODULES.items()},
    **{f"local.{o}": f"stage2.decoder.local.{t}" for o, t in RAM_MODULES.items()},
}


def load(
    module: nn.Module, theirs: dict[str, Tensor], names: dict[str, str], **extra: Tensor
) -> None:
    """Load the authors' tensors into one of our modules."""
    state = {
        f"{ours}.{part}": theirs[f"{name}.{part}"]
        for ours, name in names.items()
        for part in ("weight", "bias")
    }
    module.load_state_dict({**state, **extra})


def renamed(ours: dict[str, Tensor], names: dict[str, str], *, prefix: str) -> dict[str, Tensor]:
    """Copies of our tensors under the authors' names, without the stage and `decoder.`."""
    return {
        f"{theirs.split('.decoder.')[1]}.{part}": ours[f"{prefix}{name}.{part}"].detach().clone()
        for name, theirs in names.items()
        for part in ("weight", "bias")
    }
