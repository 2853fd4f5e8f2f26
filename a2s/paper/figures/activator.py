"""Activation maps and the cues they give, of networks that stage 1 trained or only began with.

Shape suffixes: H W an image's own size; h w a map's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from a2s.data.images import Image8, resize_rgb
from a2s.labels.making.chunk import activate, input_size, load_network
from a2s.labels.refine import probability, sign
from a2s.models.activation_net import ActivationNet
from a2s.models.encoder_weights import load_encoder
from a2s.models.inference import fold_batchnorm
from a2s.models.saved import resolve_model
from a2s.storage.tensors import read_metadata

Theta = NDArray[np.float32]


class Cue(NamedTuple):
    """Probability of foreground at an image's own size, and the sign that it took (Eqn 5)."""

    picture_HW: Image8
    sign: int


class Activator(NamedTuple):
    """A stage-1 network, the side in pixels of its input, and how images are squashed to it."""

    network: ActivationNet
    image_size: int
    resize_filter: str = "bilinear"

    def __call__(self, image_HW3: Image8) -> Theta:
        """Compute theta (Eqn 3): the activation map M less its mean. Shape: [H, W, 3] -> [h, w]."""
        side = self.image_size
        small_SS3 = resize_rgb(image_HW3, height=side, width=side, resize_filter=self.resize_filter)
        theta_hw: Theta = activate(self.network, small_SS3[None])[0]
        return theta_hw

    def cue(self, theta_hw: Theta, *, height: int, width: int) -> Cue:
        """Turn theta into a cue (Eqn 6 before the CRF). Shape: [h, w] -> [height, width]."""
        tie = self.network.sign_tie
        p_HW = probability(theta_hw, height=height, width=width, tie=tie)
        return Cue(np.rint(p_HW * 255).astype(np.uint8), sign(theta_hw, tie=tie)[0])


def trained(model: Path) -> Activator:
    """Load the network of a stage-1 run folder (its last commit) or of a file.

    Raises:
        CheckpointError: it is none.
    """
    file = resolve_model(model)
    side = input_size(file)
    metadata = read_metadata(file)
    return Activator(load_network(file, _device()), side, metadata["resize_filter"])


def untrained(
    *, encoder: str, weights: str, seed: int = 0, fusion_stride: int = 4, image_size: int = 320
) -> Activator:
    """Make the network that stage 1 begins with when it has these settings.

    Raises:
        WeightsError: the encoder's weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ActivationNet(load_encoder(encoder, weights), fusion_stride=fusion_stride)
    fold_batchnorm(network.eval().encoder)
    return Activator(network.to(_device()), image_size)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
