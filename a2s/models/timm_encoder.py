"""Networks of timm as encoders, and timm's published weights; the only importer of timm.

Every network of timm gives feature maps of its stages or blocks (`forward_intermediates`); five of
them become the taps:

- Several strides (ResNet, ConvNeXt, EfficientNet, Swin): a tap is the last map of its stride. Where
  the finest map has a stride above 2, it is enlarged for the finer taps.
- One stride (ViT, DINO, DINOv2, DINOv3): the maps of five blocks, spread evenly over the depth and
  normalised by the network's last layer norm, are resized from the grid of patches to the strides.

Shape suffixes: B images, C channels, H W the image's size, h w a map's size.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a2s.data.transforms import Rgb
from a2s.errors import A2SError, ConfigError, WeightsError
from a2s.models.blocks import Size, upsample
from a2s.models.encoder_base import Encoder, Taps
from a2s.models.timm_name import PREFIX
from a2s.models.torchvision_nets import lazy_compiler

with lazy_compiler():
    import timm

_RANDOM = (
    nn.modules.dropout._DropoutNd,
    *(timm.layers.DropPath, timm.layers.DropBlock2d, timm.layers.PatchDropout),
)
"""Random layers; those with an attribute `aug_active` are DINOv3's positions, shifted at random."""


class Sources(NamedTuple):
    """Which of a network's feature maps the taps E1..E5 are made from."""

    maps: tuple[int, ...]
    """Number of the feature map of each tap; one map may serve several."""
    patch: int | None
    """Stride of all feature maps in pixels, if they share one: the patch size of a ViT."""


class TimmEncoder(Encoder):
    """Any network of timm that has five taps.

    The name is `timm:` and timm's own, with or without the tag of published weights, such as
    `timm:resnet50.a1_in1k`. The tag decides the images' mean and deviation, unless they are given.
    Nothing is random in training: what timm would draw there stays off.
    """

    library: ClassVar[str] = f"timm {timm.__version__}"
    registers_in_order: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        *,
        mean: Rgb | None = None,
        std: Rgb | None = None,
        pretrained: bool = False,
    ) -> None:
        """Build it with random weights, or with timm's published ones.

        Raises:
            ConfigError: timm has no such network, or it has no five taps.
            WeightsError: the published weights cannot be had.
        """
        super().__init__(variant="timm")
        self.name = name
        published = _find(name)
        self.mean, self.std = mean or published.mean, std or published.std
        self.own_size: Size = (published.input_size[1], published.input_size[2])
        with _weights_of(name, published) if pretrained else nullcontext():
            net, takes_any_size = _create(name, published, pretrained=pretrained)
        self.is_fixed = published.fixed_input_size and not takes_any_size
        infos = list(net.feature_info) if hasattr(net, "forward_intermediates") else []
        strides = [info["reduction"] for info in infos]
        self.sources = choose(name, strides)
        is_vit = self.sources.patch is not None
        e1, e2, e3, e4, e5 = (
            infos[index].get("num_chs_norm" if is_vit else "num_chs", infos[index]["num_chs"])
            for index in self.sources.maps
        )
        self.channels = e1, e2, e3, e4, e5
        self.multiple = self.least = self.sources.patch or max(self.strides)
        """Sides of images are resized up to a multiple of this, and up to `least`."""
        names = set(net.state_dict())
        self.indices = sorted(set(self.sources.maps))
        net.prune_intermediate_layers(self.indices, prune_norm=not is_vit, prune_head=True)
        self.net = net
        self.unused_names = frozenset(names - set(net.state_dict()))
        """Names of the tensors of timm's network that no tap needs, such as the classifier's."""
        # Without padding, some networks lose small images on the way.
        while not is_vit and self.least < max(self.own_size) and self._refusal(self.least):
            self.least = 96 if self.least < 96 else max(self.own_size)

    def forward(self, image_B3HW: Tensor) -> Taps:
        """Compute the five taps of normalised images of any size."""
        height, width = image_B3HW.shape[-2:]
        features = self.net.forward_intermediates(
            self._in_its_size(image_B3HW),
            indices=self.indices,
            norm=self.sources.patch is not None,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        by_index = dict(zip(self.indices, features, strict=True))
        e1, e2, e3, e4, e5 = (
            resize(by_index[index], (-(-height // stride), -(-width // stride)))
            for index, stride in zip(self.sources.maps, self.strides, strict=True)
        )
        return e1, e2, e3, e4, e5

    def _in_its_size(self, image_B3HW: Tensor) -> Tensor:
        """Resize images to the network's fixed size, or up to whole patches."""
        height, width = (
            max(self.least, -(-side // self.multiple) * self.multiple)
            for side in image_B3HW.shape[2:]
        )
        return resize(image_B3HW, self.own_size if self.is_fixed else (height, width))

    def train(self, mode: bool = True) -> TimmEncoder:
        """Set the mode of all layers but the random ones, which stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _RANDOM) or hasattr(module, "aug_active"):
                module.train(False)
        return self

    def check_side(self, side: int) -> None:
        """Check that it takes square images of this side.

        Raises:
            ConfigError: it refuses them, or they are a single patch, whose map says nothing.
        """
        patch = self.sources.patch
        if patch is not None and not self.is_fixed and side <= patch:
            raise ConfigError(
                f"image_size: images of {side} px are one patch of {self.name}, whose patches have "
                f"{patch} px; use --image-size {2 * patch} or more"
            )
        if reason := self._refusal(side):
            raise ConfigError(
                f"image_size: {self.name} takes no images of {side} px ({reason}); use another "
                f"--image-size (its own is {max(self.own_size)}) or another encoder"
            )

    @torch.no_grad()
    def _refusal(self, side: int) -> str:
        """Why the network does not take square images of this side; empty if it does."""
        if self.is_fixed:
            return ""
        was_training = self.training
        try:
            self.eval()(torch.zeros(1, 3, side, side))
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")[:120]
        finally:
            self.train(was_training)
        return ""

    def spec(self) -> dict[str, str]:
        """Name, mean and deviation, from which `rebuild` makes this encoder again."""
        mean, std = (",".join(map(repr, values)) for values in (self.mean, self.std))
        return {"name": self.name, "mean": mean, "std": std}


def rebuild(name: str, *, mean: str, std: str) -> TimmEncoder:
    """Build an encoder from its `spec()`, with random weights.

    Raises:
        ConfigError: timm has no such network.
        ValueError: mean or deviation are not three numbers, the deviations above 0.
    """
    values = []
    for text in (mean, std):
        first, second, third = map(float, text.split(","))
        values.append((first, second, third))
    if min(values[1]) <= 0:
        raise ValueError(std)
    return TimmEncoder(name, mean=values[0], std=values[1])


def choose(name: str, strides: Sequence[int]) -> Sources:
    """Choose the feature maps that become the taps; `strides` are those of all of them.

    Raises:
        ConfigError: there are none for some tap.
    """
    if strides and min(strides) == max(strides):
        depth, taps = len(strides), len(Encoder.strides)
        spread = (-(-depth * number // taps) - 1 for number in range(1, taps + 1))
        return Sources(tuple(spread), strides[0])
    last = {stride: index for index, stride in enumerate(strides)}
    finest = min(last, default=0)
    wanted = [max(stride, finest) for stride in Encoder.strides]
    if not last.keys() >= set(wanted):
        found = ", ".join(map(str, sorted(last))) or "none"
        raise ConfigError(
            f"encoder: {name} is an encoder without five taps (the strides of its feature maps: "
            f"{found}); take one with maps at strides 8, 16 and 32, or a ViT"
        )
    return Sources(tuple(last[stride] for stride in wanted), None)


def resize(x_BChw: Tensor, size: Size) -> Tensor:
    """Resize bilinearly; where the result is smaller, every pixel counts (antialias).

    Shape: [B, C, h, w] -> [B, C, *size]
    """
    if x_BChw.shape[2] <= size[0] and x_BChw.shape[3] <= size[1]:
        return upsample(x_BChw, size)
    return F.interpolate(
        x_BChw.float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )


def _find(name: str) -> Any:
    """Timm's `PretrainedCfg` of a network: mean, deviation, input size, source of the weights.

    Raises:
        ConfigError: timm has no such network, or no weights with this tag.
    """
    text = name.removeprefix(PREFIX)
    network, _, tag = text.partition(".")
    if not timm.is_model(network):
        close = difflib.get_close_matches(network, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise ConfigError(f"encoder: timm {timm.__version__} has no network {network}; {hint}")
    try:
        published = timm.get_pretrained_cfg(text)
    except RuntimeError:
        raise ConfigError(
            f"encoder: timm {timm.__version__} has no {tag} of {network}; {_tags(network)}"
        ) from None
    return published or timm.models.PretrainedCfg()


def _tags(network: str) -> str:
    names = timm.list_pretrained(f"{network}.*")
    return f"published are {', '.join(names)}" if names else "nothing is published"


def _create(name: str, published: Any, *, pretrained: bool) -> tuple[Any, bool]:
    """Timm's whole network, and whether it takes any size although timm's default is fixed."""
    text = name.removeprefix(PREFIX)
    if published.fixed_input_size:
        try:
            return timm.create_model(text, pretrained=pretrained, dynamic_img_size=True), True
        except TypeError:
            pass  # no ViT: it has no such argument, and a size that stays
    return timm.create_model(text, pretrained=pretrained), False


@contextmanager
def _weights_of(name: str, published: Any) -> Iterator[None]:
    """Name source and licence of published weights; failures in the block are about them."""
    network = name.removeprefix(PREFIX).partition(".")[0]
    source = published.hf_hub_id or published.url
    if not source:
        raise WeightsError(
            f"weights: timm publishes none of {name} ({_tags(network)}); give a file, or none"
        )
    print(
        f"weights: {name} from {source}; licence {published.license or 'not stated'}",
        file=sys.stderr,
    )
    # It would report every attempt to reach the network.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except A2SError:
        raise
    except Exception as error:  # the clients of hub, HTTP and TLS raise any exception
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"weights: those of {name} cannot be had ({type(error).__name__}: "
            f"{reason[:200]}). Get model.safetensors of {source} from the Hugging Face hub and "
            "pass --encoder.weights FILE, or copy the hub's cache ($HF_HOME) of a machine that has "
            "them"
        ) from None
    finally:
        logger.setLevel(level)
