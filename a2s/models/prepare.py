"""Networks prepared for inference: folded BatchNorm, memory format, oneDNN convolutions."""

from __future__ import annotations

import copy
import threading
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from a2s.models.encoder_base import Encoder, Taps

_ROUNDING = 1e-3
"""Largest difference of a tap, as a share of its largest value, that is taken for rounding."""


def disable_tf32() -> None:
    """Make CUDA inference independent of what ran in this process before, such as training.

    Float32 without TF32, as in training, and no benchmark of kernels at every new size.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def inference_format(module: nn.Module, device: str) -> torch.memory_format:
    """Memory format of a network for inference in float32 on a device.

    Channels last, except for depthwise convolutions on CUDA: in this format they go to cuDNN, which
    compiles kernels for each of their shapes.
    """
    convs = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    depthwise = any(conv.groups > 1 and conv.groups == conv.in_channels for conv in convs)
    return torch.contiguous_format if depthwise and device == "cuda" else torch.channels_last


def fold_batchnorm(module: nn.Module) -> None:
    """Fold BatchNorm in evaluation mode into the convolution before it, in place.

    Outputs change only by rounding. A BatchNorm belongs to the convolution that is registered
    just before it in the same parent, as in torchvision's networks. What it does besides, such as
    the activation in timm's `BatchNormAct2d`, stays.
    """
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, getattr(child, "act", nn.Identity()))
        fold_batchnorm(child)
        before = (name, child)


def folded(encoder: Encoder) -> Encoder:
    """The encoder in evaluation mode with BatchNorm folded, where that changes only rounding.

    An encoder that does not register its layers in their order is folded on trial: it stays as it
    is if a tap of a noise image then differs. One that is built in is changed in place.
    """
    encoder.eval()
    if encoder.registers_in_order:
        fold_batchnorm(encoder)
        return encoder
    if not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
        return encoder
    trial = copy.deepcopy(encoder)
    fold_batchnorm(trial)
    return trial if _same_function(encoder, trial) else encoder


@torch.inference_mode()
def _same_function(encoder: Encoder, trial: Encoder) -> bool:
    generator = torch.Generator().manual_seed(0)
    image_13SS = torch.randn(1, 3, 96, 96, generator=generator)
    expected = encoder(image_13SS)
    try:
        found: Taps = trial(image_13SS)
    except (AttributeError, RuntimeError):
        # Its code looks into a layer that is now another one.
        return False
    return all(
        bool((tap - other).abs().max() <= _ROUNDING * other.abs().max())
        for tap, other in zip(found, expected, strict=True)
    )


_KEEP_LAYOUTS = 4


_KEEP_SHAPES = 4096


_layout_lock = threading.Lock()


class _OneDnnConv2d(nn.Module):
    """A convolution by oneDNN whose weights are reordered once.

    The best memory layout of the weights depends on the input's shape. With another layout the
    result is the same, but oneDNN reorders the weights at every call. Most shapes share one layout;
    a few are kept.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.padding_mode == "zeros", conv
        assert not isinstance(conv.padding, str), conv
        self.weight, self.bias = conv.weight, conv.bias
        # Some of timm's networks read these of their convolutions.
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
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
    """Replace all plain convolutions by oneDNN's for inference on a CPU, in place.

    For one image on one thread torch computes most convolutions by a plain matrix product, and
    reorders the weights of the others at every call; both are slower. Subclasses of `Conv2d` pad or
    scale in their own way, and padding "same" depends on the image; both are left as they are.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for name, child in list(module.named_children()):
        if _is_plain(child):
            setattr(module, name, _OneDnnConv2d(child))
        use_onednn(child)


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def prepare_for_inference(network: nn.Module, device: str) -> None:
    """Prepare a network with an encoder for inference on a device, in place; it cannot train then.

    Evaluation mode, BatchNorm of the encoder folded, the memory format of `inference_format`
    (`as_input` gives images the same), and on a CPU oneDNN's convolutions. Outputs change only by
    rounding.
    """
    disable_tf32()
    encoder = network.eval().get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    network.add_module("encoder", folded(encoder))
    memory_format = inference_format(network, device)
    if device == "cpu":
        use_onednn(network)
    network.to(device, memory_format=memory_format)  # type: ignore[call-overload]


def as_input(network: nn.Module, image_BHW3: Tensor) -> Tensor:
    """Normalise image bytes for a network of `prepare_for_inference`, on its device.

    The copy to a GPU is asynchronous.

    Shape: uint8 B H W 3 -> float32 B 3 H W.
    """
    weight = next(network.parameters())
    if weight.is_cuda and not image_BHW3.is_cuda:
        image_BHW3 = image_BHW3.pin_memory().to(weight.device, non_blocking=True)
    encoder = network.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    image_B3HW = encoder.normalise(image_BHW3.permute(0, 3, 1, 2))
    # In the weights' format; else the images' own, channels last, would decide.
    return image_B3HW.contiguous() if weight.is_cuda and weight.is_contiguous() else image_B3HW
