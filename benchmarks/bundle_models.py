"""Write the models inside the package from a run of each stage, which share their encoder.

    python benchmarks/bundle_models.py --stage2 RUN --encoder FILE
    a2s stage1 --encoder.name NAME --encoder.weights FILE ...
    python benchmarks/bundle_models.py --stage2 RUN --stage1 RUN --heads 0 1 --out FOLDER

The first call writes the detector's encoder, on which stage 1 trains its heads. Everything is
stored in half precision but the statistics of BatchNorm, which it may not hold, and the encoder
once. FOLDER is a2s/models/weights.
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


def split(saved: SavedNetwork) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of a network's encoder, by the encoder's own names, and all others."""
    state = tensors.read(saved.file)
    encoder = {k.removeprefix(ENCODER): v for k, v in state.items() if k.startswith(ENCODER)}
    return encoder, {k: v for k, v in state.items() if not k.startswith(ENCODER)}


def heads_of(saved: SavedNetwork, heads: list[int]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of some heads of stage 1, and the metadata of a network with only these."""
    network = saved.load()
    assert isinstance(network, ActivationNet)
    boundaries = len(network.heads) - network.label_heads
    numbers = {
        "heads": str(len(heads)),
        "label_heads": str(sum(head >= boundaries for head in heads)),
        "kept_heads": ",".join(map(str, range(len(heads)))),
    }
    return only_heads(tensors.read(saved.file), heads), {**saved.metadata, **numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage2", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="write only the detector's encoder there")
    parser.add_argument("--stage1", type=Path)
    parser.add_argument("--heads", type=int, nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    second = SavedNetwork.find(args.stage2)
    encoder, decoder = split(second)
    description = {k: v for k, v in second.metadata.items() if k.startswith(ENCODER)}
    if args.encoder:
        tensors.write(args.encoder, encoder, metadata={"kind": "encoder", **description})
        return
    first = SavedNetwork.find_for_labels(args.stage1)
    for name, value in split(first)[0].items():
        assert torch.equal(value, encoder[name]), f"{name} differs: two encoders"
    files = {
        "encoder": (encoder, {"kind": "encoder", **description}),
        "activation": heads_of(first, args.heads),
        "detector": (decoder, dict(second.metadata)),
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
    main()
