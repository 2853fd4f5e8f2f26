"""What training starts from: network and optimizer, as the seed or the last commit has them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from a2s import checkpoint
from a2s.checkpoint import Commit
from a2s.errors import ConfigError
from a2s.models.activation import ActivationNet
from a2s.models.detector import Detector
from a2s.models.weights import load_encoder
from a2s.stepping import GuardedSGD
from a2s.train_options import Stage1Options, Stage2Options


def start_stage1(
    config: Stage1Options, commit: Commit | None, *, device: torch.device
) -> tuple[ActivationNet, dict[str, nn.Parameter], GuardedSGD]:
    """Network and optimizer, as the seed or the commit has them; equal on every rank."""
    torch.manual_seed(config.seed)
    encoder = load_encoder(config.encoder.name, config.encoder.weights)
    model = ActivationNet(encoder, fusion_stride=config.fusion_stride)
    tensors, buffers, _ = checkpoint.load(commit) if commit else (model.state_dict(), {}, {})
    model.load_state_dict(tensors)
    model.to(device)
    model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = dict(model.blocks.named_parameters())
    optimizer = GuardedSGD(
        [{"params": list(parameters.values())}],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    checkpoint.unpack_momentum(optimizer, parameters, tensors=buffers)
    return model, parameters, optimizer


def batch_statistics(config: Stage2Options, *, images_per_rank: int) -> Literal["frozen", "train"]:
    """Whether any BatchNorm learns from the images that go through together: MINet's always does.

    Raises:
        ConfigError: a rank has one image at a time, and its smallest map one pixel to learn from.
    """
    side = config.image_size // 32
    if config.detector == "minet":
        side = -(-side // 2)
    elif config.batchnorm == "frozen":
        return "frozen"
    if images_per_rank == 1 and side == 1:
        raise ConfigError(
            f"batch_size: {config.batch_size} leaves one image per rank, and at image_size "
            f"{config.image_size} BatchNorm finds a single pixel of it to take statistics of; give "
            "every rank two images or more"
        )
    return "train"


def start_stage2(
    config: Stage2Options, commit: Commit | None, *, device: torch.device
) -> tuple[Detector, dict[str, nn.Parameter], GuardedSGD]:
    """Network and optimizer, as the seed or the commit has them; equal on every rank."""
    torch.manual_seed(config.seed)
    encoder = load_encoder(config.encoder.name, config.encoder.weights)
    model = Detector(encoder, detector=config.detector)
    tensors, buffers, _ = checkpoint.load(commit) if commit else (model.state_dict(), {}, {})
    model.load_state_dict(tensors)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = GuardedSGD(
        [
            {"params": list(model.encoder.parameters()), "scale": config.encoder_lr_scale},
            {"params": list(model.decoder.parameters()), "scale": 1.0},
        ],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    parameters = dict(model.named_parameters())
    checkpoint.unpack_momentum(optimizer, parameters, tensors=buffers)
    return model, parameters, optimizer
