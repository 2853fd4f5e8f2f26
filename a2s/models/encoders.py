"""Encoders by name: three that are built in, and `timm:NAME`, any network of timm.

Shape suffixes: B images, H W the image's size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from a2s.errors import ConfigError
from a2s.models.efficientnet import EfficientNetLite2
from a2s.models.encoder_base import Encoder, Taps
from a2s.models.timm_name import is_timm, require_timm
from a2s.models.torchvision_nets import Conv2dNormActivation, mobilenet_v2, resnet50


class ResNet50(Encoder):
    """ResNet-50; E1 is the stem before pooling, E2..E5 the four layers."""

    name = "resnet50"
    channels = (64, 256, 512, 1024, 2048)

    def __init__(self, *, variant: str = "torchvision") -> None:
        super().__init__(variant=variant)
        net = resnet50(weights=None)
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.relu, self.maxpool = net.relu, net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4

    def forward(self, image_B3HW: Tensor) -> Taps:
        """Compute the five taps of normalised images."""
        e1 = self.relu(self.bn1(self.conv1(image_B3HW)))
        e2 = self.layer1(self.maxpool(e1))
        e3 = self.layer2(e2)
        e4 = self.layer3(e3)
        return e1, e2, e3, e4, self.layer4(e4)


class MobileNetV2(Encoder):
    """MobileNetV2; the taps are the last block of each stride.

    The variants differ in block 1: the ONNX model zoo's has a 1x1 convolution in front.
    """

    name = "mobilenet_v2"
    variants = ("torchvision", "onnx_zoo")
    channels = (16, 24, 32, 96, 1280)

    def __init__(self, *, variant: str = "torchvision") -> None:
        super().__init__(variant=variant)
        self.features: nn.Sequential = mobilenet_v2(weights=None).features
        if variant == "onnx_zoo":
            expand = Conv2dNormActivation(32, 32, kernel_size=1, activation_layer=nn.ReLU6)
            self.features[1] = nn.Sequential(expand, self.features[1])

    def forward(self, image_B3HW: Tensor) -> Taps:
        """Compute the five taps of normalised images."""
        blocks = self.features
        e1 = blocks[:2](image_B3HW)
        e2 = blocks[2:4](e1)
        e3 = blocks[4:7](e2)
        e4 = blocks[7:14](e3)
        return e1, e2, e3, e4, blocks[14:](e4)


ENCODERS: dict[str, type[Encoder]] = {
    encoder.name: encoder for encoder in (ResNet50, MobileNetV2, EfficientNetLite2)
}


def build_encoder(name: str, *, variant: str | None = None) -> Encoder:
    """Build an encoder with random weights; without `variant` the first one that it has.

    Raises:
        ConfigError: no such encoder or variant, or timm is not installed.
    """
    if is_timm(name):
        require_timm(name)
        from a2s.models.timm_encoder import TimmEncoder

        return TimmEncoder(name)
    if name in ENCODERS and variant is None:
        variant = ENCODERS[name].variants[0]
    if name not in ENCODERS or variant not in ENCODERS[name].variants:
        known = ", ".join(f"{n} ({'|'.join(e.variants)})" for n, e in ENCODERS.items())
        raise ConfigError(
            f"encoder: {name} ({variant}) is unknown; known are {known}, and timm:NAME"
        )
    return ENCODERS[name](variant=variant)


@torch.no_grad()
def calibrate_batchnorm(encoder: Encoder) -> None:
    """Set the BatchNorm statistics of an untrained encoder from a batch of noise, in place.

    With the initial statistics (0 and 1) the activations of an untrained MobileNetV2 shrink to 1e-9
    at E5, and no block can learn from them. An encoder without BatchNorm stays as it is.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the statistics of this one batch, not a share of them
    encoder.train()
    encoder(torch.randn(8, 3, 96, 96))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def set_batchnorm(module: nn.Module, mode: Literal["frozen", "train"]) -> None:
    """Freeze or train the batch normalisations' running statistics; `module.train()` undoes it.

    Frozen, BatchNorm uses the stored statistics, so an image's result does not depend on its batch
    or rank. Scale and shift are parameters and stay trainable.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.train(mode == "train")
