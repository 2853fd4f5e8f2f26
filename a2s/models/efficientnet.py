"""EfficientNet-Lite2, the encoder of the bundled models: weights of TensorFlow, names of timm.

Blocks without squeeze-and-excitation, ReLU6, and TensorFlow's padding, which is larger at the right
and the bottom where a convolution strides.

Shape suffixes: B images, C channels, H W the image's size.
Reference: Tan, Le, "EfficientNet: Rethinking Model Scaling for CNNs", ICML 2019;
Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow Blog, 2020
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from a2s.data.transforms import Rgb
from a2s.models.encoder_base import Encoder, Taps

_EXPANSION = 6
_STAGES = (
    # blocks, channels, stride, kernel
    (1, 16, 1, 3),
    (3, 24, 2, 3),
    (3, 48, 2, 5),
    (4, 88, 2, 3),
    (4, 120, 1, 5),
    (5, 208, 2, 5),
    (1, 352, 1, 3),
)
_STEM = 32


def pad_as_tensorflow(x_BCHW: Tensor, kernel: int) -> Tensor:
    """Pad for a convolution of stride 2 without padding, whose output has ceil(side / 2) pixels.

    The convolution begins as TensorFlow's does on even sides, which those of images of whole 32
    pixels are. Of even sides it does not reach the last pixel; odd ones need it.
    """
    before, after = kernel // 2 - 1, kernel // 2 + 1
    return F.pad(x_BCHW, (before, after, before, after))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Depthwise convolution between two of 1x1; the first block of the network has no first one."""

    def __init__(self, before: int, after: int, *, stride: int, kernel: int, expands: bool) -> None:
        super().__init__()
        self.stride, self.kernel, self.expands = stride, kernel, expands
        self.is_residual = stride == 1 and before == after
        inner = before * _EXPANSION if expands else before
        padding = 0 if stride > 1 else kernel // 2
        depthwise = nn.Conv2d(
            inner, inner, kernel, stride=stride, padding=padding, groups=inner, bias=False
        )
        if expands:
            self.conv_pw = nn.Conv2d(before, inner, 1, bias=False)
            self.bn1 = _norm(inner)
            self.conv_dw = depthwise
            self.bn2 = _norm(inner)
            self.conv_pwl = nn.Conv2d(inner, after, 1, bias=False)
            self.bn3 = _norm(after)
        else:
            self.conv_dw = depthwise
            self.bn1 = _norm(inner)
            self.conv_pw = nn.Conv2d(inner, after, 1, bias=False)
            self.bn2 = _norm(after)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Compute the block.

        Shape: [B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]
        """
        x = F.relu6(self.bn1(self.conv_pw(x_BCHW))) if self.expands else x_BCHW
        if self.stride > 1:
            x = pad_as_tensorflow(x, self.kernel)
        if self.expands:
            x = self.bn3(self.conv_pwl(F.relu6(self.bn2(self.conv_dw(x)))))
        else:
            x = self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))
        result: Tensor = x + x_BCHW if self.is_residual else x
        return result


class EfficientNetLite2(Encoder):
    """EfficientNet-Lite2; the taps are the last block of each stride."""

    name = "efficientnet_lite2"
    variants = ("timm",)
    channels = (16, 24, 48, 120, 352)
    mean: Rgb = (0.5, 0.5, 0.5)
    std: Rgb = (0.5, 0.5, 0.5)
    classifier_names = frozenset(
        {
            *("conv_head.weight", "classifier.weight", "classifier.bias"),
            *("bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var"),
            "bn2.num_batches_tracked",
        }
    )

    def __init__(self, *, variant: str = "timm") -> None:
        super().__init__(variant=variant)
        self.conv_stem = nn.Conv2d(3, _STEM, 3, stride=2, bias=False)
        self.bn1 = _norm(_STEM)
        stages, before = [], _STEM
        for number, (blocks, after, stride, kernel) in enumerate(_STAGES):
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(
                    Block(
                        before,
                        after,
                        stride=stride if block == 0 else 1,
                        kernel=kernel,
                        expands=number > 0,
                    )
                )
                before = after
            stages.append(stage)
        self.blocks = nn.Sequential(*stages)

    def forward(self, image_B3HW: Tensor) -> Taps:
        """Compute the five taps of normalised images."""
        blocks = self.blocks
        padded = pad_as_tensorflow(image_B3HW, 3)
        e1 = blocks[0](F.relu6(self.bn1(self.conv_stem(padded))))
        e2 = blocks[1](e1)
        e3 = blocks[2](e2)
        e4 = blocks[3:5](e3)
        return e1, e2, e3, e4, blocks[5:](e4)
