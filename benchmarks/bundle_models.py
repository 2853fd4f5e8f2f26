"""Write the models inside the package from a run of each stage.

    python benchmarks/bundle_models.py --stage1 RUN --heads 0 1 --stage2 RUN --out FOLDER

Everything is stored in half precision but the statistics of BatchNorm, which it may not hold. The
encoder of the activation network is frozen, so it is the encoder that others train from, and is
stored once. FOLDER is a2s/models/weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from a2s.models.activation_net import ActivationNet
from a2s.models.saved import SavedNetwork
from a2s.storage import hashing, tensors
from a2s.storage.files import atomic_write

ENCODER = "encoder."


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Half precision for all but counters, statistics of BatchNorm, and the heads' agreement."""
    return {
        name: value.half() if value.dtype == torch.float32 and ".running_" not in name else value
        for name, value in state.items()
    }


def only_heads(state: dict[str, Tensor], heads: list[int]) -> dict[str, Tensor]:
    """The tensors of some heads, numbered anew; agreement among them."""
    kept: dict[str, Tensor] = {}
    for number, head in enumerate(heads):
        first = f"heads.{head}."
        for name, value in state.items():
            if name.startswith(first):
                kept[f"heads.{number}.{name.removeprefix(first)}"] = value
    kept["agreement_2KK"] = state["agreement_2KK"][:, heads][:, :, heads].contiguous()
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage1", type=Path, required=True)
    parser.add_argument("--heads", type=int, nargs="+", required=True)
    parser.add_argument("--stage2", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    first, second = SavedNetwork.find_for_labels(args.stage1), SavedNetwork.find(args.stage2)
    network = first.load()
    assert isinstance(network, ActivationNet)
    boundaries = len(network.heads) - network.label_heads
    numbers = {
        "heads": str(len(args.heads)),
        "label_heads": str(sum(head >= boundaries for head in args.heads)),
        "kept_heads": ",".join(map(str, range(len(args.heads)))),
    }
    state = tensors.read(first.file)
    encoder = {k.removeprefix(ENCODER): v for k, v in state.items() if k.startswith(ENCODER)}
    description = {k: v for k, v in first.metadata.items() if k.startswith(ENCODER)}
    detector = dict(second.metadata)
    files = {
        "encoder": (encoder, {"kind": "encoder", **description}),
        "activation": (only_heads(state, args.heads), {**first.metadata, **numbers}),
        "detector": (tensors.read(second.file), detector),
    }
    checksums = {}
    for name, (values, metadata) in files.items():
        file = args.out / f"{name}.safetensors"
        tensors.write(file, halved(values), metadata=metadata)
        checksums[file.name] = hashing.sha256_file(file)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    text = json.dumps(checksums, indent=1, sort_keys=True) + "\n"
    atomic_write(args.out / "checksums.json", text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
