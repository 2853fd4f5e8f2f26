"""Encoders: five taps E1..E5 of an image classifier, at strides 2, 4, 8, 16, 32.

Shape suffixes: B images, H W the image's size.
"""

from __future__ import annotations

import threading
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from a2s.data.transforms import normalise
from a2s.errors import ConfigError
from a2s.models.classifiers import Conv2dNormActivation, mobilenet_v2, resnet50

Taps = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Channels = tuple[int, int, int, int, int]

# The two MobileNetV2 differ in block 1: the ONNX model zoo's has a 1x1 convolution in front.
VARIANTS: dict[str, tuple[str, ...]] = {
    "resnet50": ("torchvision",),
    "mobilenet_v2": ("torchvision", "onnx_zoo"),
}


class Encoder(nn.Module):
    """An image classifier without its head.

    Shape: normalised image [B, 3, H, W] -> E1..E5, [B, channels[i], ceil(H / strides[i]), ...]
    Reference: Sec. III-A, III-B
    """

    name: str
    variant: str = "torchvision"
    channels: Channels
    strides = (2, 4, 8, 16, 32)

    def forward(self, image_B3HW: Tensor) -> Taps:
        """Compute the five taps of normalised images."""
        raise NotImplementedError

    def spec(self) -> dict[str, str]:
        """Return the arguments with which `build_encoder` makes this encoder again."""
        return {"name": self.name, "variant": self.variant}


class ResNet50(Encoder):
    """ResNet-50; E1 is the stem before pooling, E2..E5 the four layers."""

    name = "resnet50"
    channels = (64, 256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
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
    """MobileNetV2; the taps are the last block of each stride."""

    name = "mobilenet_v2"
    channels = (16, 24, 32, 96, 1280)

    def __init__(self, *, variant: str) -> None:
        super().__init__()
        self.variant = variant
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


def build_encoder(name: str, *, variant: str = "torchvision") -> Encoder:
    """Build an encoder with random weights.

    Raises:
        ConfigError: no such encoder or variant.
    """
    if variant not in VARIANTS.get(name, ()):
        known = ", ".join(f"{n} ({'|'.join(v)})" for n, v in VARIANTS.items())
        raise ConfigError(f"encoder: {name} ({variant}) is unknown; known are {known}")
    return ResNet50() if name == "resnet50" else MobileNetV2(variant=variant)


@torch.no_grad()
def settle(encoder: Encoder) -> None:
    """Give an untrained encoder the batch statistics of noise, in place.

    Frozen at the statistics it is built with (0 and 1), an untrained MobileNetV2 fades to 1e-9 at
    E5, where no block can learn anything from it.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the statistics of this one batch, not a share of them
    encoder.train()
    encoder(torch.randn(8, 3, 96, 96))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def exact_on_gpu() -> None:
    """Have inference give the same on CUDA whatever this process did before, a training for one.

    Float32 without TF32, as in training, and no search for the fastest kernel at every new size.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def inference_format(module: nn.Module, device: str) -> torch.memory_format:
    """Memory format of a network for inference in float32 on a device.

    Channels last; but not with depthwise convolutions on CUDA, which in this format go to cuDNN,
    and it compiles kernels for each of their shapes.
    """
    convs = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    depthwise = any(conv.groups > 1 and conv.groups == conv.in_channels for conv in convs)
    return torch.contiguous_format if depthwise and device == "cuda" else torch.channels_last


def fold_batchnorm(module: nn.Module) -> None:
    """Fold BatchNorm in evaluation mode into the convolution before it, in place.

    The same function but for rounding. A BatchNorm belongs to the convolution that is registered
    just before it in the same parent, as in torchvision's networks.
    """
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        fold_batchnorm(child)
        before = (name, child)


_KEEP_LAYOUTS = 4
_KEEP_SHAPES = 4096
_layout_lock = threading.Lock()


class _OneDnnConv2d(nn.Module):
    """The convolution of another module, by oneDNN, its weights laid out once.

    Which layout is best depends on the input's shape. In another the result is the same, but the
    weights are brought into the right one at every call. Most shapes share one; a few are kept.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.padding_mode == "zeros", conv
        assert not isinstance(conv.padding, str), conv
        self.weight, self.bias = conv.weight, conv.bias
        self.arguments = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.layout_of: dict[torch.Size, bytes] = {}
        self.laid_out: dict[bytes, Tensor] = {}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve."""
        weight = self.laid_out.get(self.layout_of.get(x_BCHW.shape, b""))
        if weight is None:
            weight = self._lay_out(x_BCHW.shape)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_BCHW, weight, self.bias, *self.arguments, "none", [], ""
        )
        return result

    def _lay_out(self, shape: torch.Size) -> Tensor:
        onednn = torch.ops.mkldnn
        weight: Tensor = onednn._reorder_convolution_weight(self.weight, *self.arguments, shape)
        layout = bytes(onednn._get_mkldnn_serialized_md(weight).numpy())
        with _layout_lock:
            if len(self.layout_of) >= _KEEP_SHAPES:
                self.layout_of.clear()
            self.layout_of[shape] = layout
            while len(self.laid_out) >= _KEEP_LAYOUTS and layout not in self.laid_out:
                del self.laid_out[next(iter(self.laid_out))]
            return self.laid_out.setdefault(layout, weight)


def use_onednn(module: nn.Module) -> None:
    """Have oneDNN compute all convolutions on a CPU, in place; for inference.

    For a single image on a single thread torch takes a plain matrix product for most of them, and
    brings the weights into oneDNN's layout anew for every call of the others; both are slower.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            setattr(module, name, _OneDnnConv2d(child))
        use_onednn(child)


def for_inference(network: nn.Module, device: str) -> None:
    """Put a network with an encoder on a device, in place, ready for inference and nothing else.

    The same function but for rounding: evaluation mode, BatchNorm of the encoder folded, the memory
    format of `inference_format` (`as_input` gives images the same), on a CPU oneDNN's convolutions.
    """
    exact_on_gpu()
    fold_batchnorm(network.eval().get_submodule("encoder"))
    memory_format = inference_format(network, device)
    if device == "cpu":
        use_onednn(network)
    network.to(device, memory_format=memory_format)  # type: ignore[call-overload]


def as_input(network: nn.Module, image_BHW3: Tensor) -> Tensor:
    """Bytes of images on any device as what a network of `for_inference` takes.

    They go to a GPU without the host waiting for it.

    Shape: uint8 B H W 3 -> float32 B 3 H W.
    """
    weight = next(network.parameters())
    if weight.is_cuda and not image_BHW3.is_cuda:
        image_BHW3 = image_BHW3.pin_memory().to(weight.device, non_blocking=True)
    image_B3HW = normalise(image_BHW3.permute(0, 3, 1, 2))
    # In the weights' format; else the images' own, channels last, would decide.
    return image_B3HW.contiguous() if weight.is_cuda and weight.is_contiguous() else image_B3HW


def set_batchnorm(module: nn.Module, mode: Literal["frozen", "train"]) -> None:
    """Freeze or train the batch normalisations' running statistics; `module.train()` undoes it.

    Frozen, every image is normalised by the stored statistics, so that the result does not depend
    on which images share its batch or rank. Scale and shift are parameters and stay trainable.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.train(mode == "train")
