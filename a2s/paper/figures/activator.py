"""Activation maps and the cues they give, of networks that stage 1 trained or only began with.

Shape suffixes: H W an image's own size; h w a map's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from a2s.data.arrays import F32, U8
from a2s.errors import CheckpointError
from a2s.labels.refine import probability, sign
from a2s.models.activation_net import ActivationNet
from a2s.models.encoder_weights import load_encoder
from a2s.models.inference import InferenceModel, local_device, on_gpu_or_cpu
from a2s.models.prepare import folded
from a2s.models.saved import NetworkInput, SavedNetwork


class Cue(NamedTuple):
    """Probability of foreground at an image's own size, and the sign that it took (Eqn 5)."""

    picture_HW: U8
    sign: int


class Activator(NamedTuple):
    """A stage-1 network, how it sees images, and the sign that it gives a tie."""

    model: InferenceModel
    network_input: NetworkInput
    sign_tie: int | None = 1

    def __call__(self, image_HW3: U8) -> F32:
        """Compute theta (Eqn 3): the activation map M less its mean. Shape: [H, W, 3] -> [h, w]."""
        theta_hw: F32 = self.model.maps(self.network_input.resize(image_HW3)[None])[0]
        return theta_hw

    def cue(self, theta_hw: F32, *, height: int, width: int) -> Cue:
        """Turn theta into a cue (Eqn 6 before the CRF). Shape: [h, w] -> [height, width]."""
        tie = self.sign_tie
        p_HW = probability(theta_hw, height=height, width=width, tie=tie)
        return Cue(np.rint(p_HW * 255).astype(np.uint8), sign(theta_hw, tie=tie)[0])


def trained(model: Path) -> Activator:
    """Load the network of a stage-1 run folder (its last commit) or of a file.

    Raises:
        CheckpointError: it is none.
    """
    saved = SavedNetwork.find_for_labels(model)
    if saved.kind != "activation":
        raise CheckpointError(
            f"model: {saved.file} is of kind {saved.kind}; activation maps come from a2s stage1"
        )
    return Activator(on_gpu_or_cpu(saved, batch_size=1), saved.trained_input, saved.sign_tie)


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
    network.eval().encoder = folded(network.encoder)
    device = local_device()
    model = InferenceModel(network.to(device), device)
    return Activator(model, NetworkInput(image_size), network.sign_tie)
