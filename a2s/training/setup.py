"""Network and optimizer of both stages, from the seed or the last commit; features of stage 1."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from a2s.config.base import EncoderConfig
from a2s.config.training import Stage1Config, Stage2Config, Stage2Options
from a2s.data.index import Index
from a2s.errors import CheckpointError, ConfigError
from a2s.models import saved
from a2s.models.activation_net import ActivationNet, random_e5_scale
from a2s.models.bundled import find_start
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.parallel import ranks
from a2s.storage.checkpoints import Commit, recovery_hint
from a2s.training.features.file_cache import fingerprint_tensors
from a2s.training.features.gpu_cache import open_cache
from a2s.training.features.source import CachedFeatures, LiveFeatures
from a2s.training.optimizer import GuardedSGD, unpack_momentum


def start_accelerator(config: Stage1Config | Stage2Config) -> ranks.Accelerator:
    """Join the ranks with the precision and the tracker that the settings ask for."""
    return ranks.start(
        precision=config.precision,
        trackers=() if config.tracker == "none" else (config.tracker,),
        tracker_dir=config.out / "tracker",
        timeout_sec=config.rank_timeout_sec,
    )


def start_stage1(
    config: Stage1Config, commit: Commit | None, *, device: torch.device
) -> tuple[ActivationNet, dict[str, nn.Parameter], GuardedSGD]:
    """Network and optimizer, as the seed or the commit has them; equal on every rank."""
    torch.manual_seed(config.seed)
    encoder, parity = load_encoder(config.encoder.name, config.encoder.weights), config.parity
    encoder.check_side(config.image_size)
    scale_C = random_e5_scale(encoder.channels[4], seed=config.seed) if parity.e5_scale else None
    assert config.heads is not None, "resolved when the settings were read"
    assert config.label_heads is not None, "resolved when the settings were read"
    assert config.frame is not None, "resolved when the settings were read"
    model = ActivationNet(
        encoder,
        fusion_stride=config.fusion_stride,
        width=config.width,
        heads=config.heads,
        label_heads=config.label_heads,
        frame=config.frame,
        boundary_frame=config.boundary_frame,
        e5_scale_C=scale_C,
        boundary=parity.boundary,
        sign_tie=parity.sign_tie,
        encoder_mode=parity.encoder_mode,
    )
    buffers = saved.resume(model, commit) if commit else {}
    model.to(device)
    model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = dict(model.heads.named_parameters(prefix="heads"))
    for name, parameter in model.encoder.named_parameters(prefix="encoder"):
        if parameter.requires_grad:
            parameters[name] = parameter
    first = config.heads - config.label_heads
    with_labels = {p for head in model.heads[first:] for p in head.parameters()}
    groups = [
        {"params": [p for p in parameters.values() if (p in with_labels) == chosen], "scale": scale}
        for chosen, scale in ((False, 1.0), (True, config.label_lr_scale))
    ]
    optimizer = GuardedSGD(
        [group for group in groups if group["params"]],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    if commit:
        _resume_momentum(optimizer, parameters, buffers, commit)
    return model, parameters, optimizer


def _resume_momentum(
    optimizer: GuardedSGD,
    parameters: dict[str, nn.Parameter],
    buffers: dict[str, Tensor],
    commit: Commit,
) -> None:
    try:
        unpack_momentum(optimizer, parameters, tensors=buffers)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint: {commit.folder / 'optimizer.safetensors'} is damaged ({error}). "
            f"{recovery_hint(commit)}"
        ) from None


def start_features(
    config: Stage1Config,
    model: ActivationNet,
    index: Index,
    *,
    prepare: Callable[[nn.Module], nn.Module],
    autocast: Callable[[], AbstractContextManager[object]],
) -> CachedFeatures | LiveFeatures:
    """Choose where stage 1's features come from: a cache if the encoder is frozen."""
    weights, device = fingerprint_tensors(model.encoder), next(model.parameters()).device
    ranks.check_same("encoder weights", weights)
    normalise = model.encoder.normalise
    if config.parity.encoder_mode == "trained":
        return LiveFeatures(prepare(model.encoder), device, normalise, world=ranks.world())

    @torch.no_grad()
    def encode(image_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with autocast():
            e3, e4, e5 = model.encode(image_B3SS)
        return e3.float(), e4.float(), e5.float()

    if config.parity.encoder_mode == "batch_statistics":
        return LiveFeatures(encode, device, normalise, world=ranks.world())
    with ranks.fail_together():
        cache = open_cache(
            device,
            config.cache_dir,
            made_from={
                "data": index.fingerprint,
                "resize_filter": config.parity.resize_filter,
                "encoder": weights,
                "frame": ", ".join(map(str, model.frames)),
                "network": f"{model.encoder.spec()} of {model.encoder.library}",
                "normalisation": str((model.encoder.mean, model.encoder.std)),
                "arithmetic": f"{config.precision} on {device.type}",
            },
            num_images=len(index),
            image_size=config.image_size,
            channels=model.channels,
            dtype=getattr(torch, config.cache_dtype),
            budget_bytes=int(config.cache_gib * 2**30),
        )

    def encode_bytes(image_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return encode(normalise(image_B3SS.contiguous(memory_format=torch.channels_last)))

    return CachedFeatures(cache, encode_bytes)


def batchnorm_mode(config: Stage2Options, *, images_per_rank: int) -> Literal["frozen", "train"]:
    """Whether any BatchNorm normalises with the statistics of the batch; MINet's always does.

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
            f"{config.image_size} its smallest map has one pixel; BatchNorm needs more than one "
            "value per channel: give every rank two images or more"
        )
    return "train"


def load_init(init: Literal["bundled"] | Path, config: Stage2Options) -> Detector:
    """The detector that training starts from, on the CPU.

    Raises:
        CheckpointError: it cannot be read, or is no detector.
        ConfigError: it is another network than the settings ask for.
    """
    found = find_start(init)
    if found.kind != "detector":
        raise CheckpointError(f"stage2: --init {init} is of kind {found.kind}; give a detector")
    model = found.load()
    assert isinstance(model, Detector), found.kind
    name = found.metadata["encoder.name"]
    # The default stands for no wish.
    asked = name if config.encoder == EncoderConfig() else config.encoder.name
    if (name, model.detector) != (asked, config.detector):
        raise ConfigError(
            f"stage2: --init {init} is a detector {model.detector} with the encoder {name}; "
            f"{config.detector} with {asked} was asked for"
        )
    return model


def start_stage2(
    config: Stage2Options, commit: Commit | None, *, device: torch.device
) -> tuple[Detector, dict[str, nn.Parameter], GuardedSGD]:
    """Network and optimizer, as the seed or the commit has them; equal on every rank."""
    torch.manual_seed(config.seed)
    scale = 1.0 if config.init is None else config.init_lr_scale
    if config.init is None:
        encoder = load_encoder(config.encoder.name, config.encoder.weights)
        model = Detector(encoder, detector=config.detector)
    else:
        model = load_init(config.init, config)
    model.encoder.check_side(config.image_size)
    buffers = saved.resume(model, commit) if commit else {}
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = GuardedSGD(
        [
            {"params": list(model.encoder.parameters()), "scale": scale * config.encoder_lr_scale},
            {"params": list(model.decoder.parameters()), "scale": scale},
        ],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    parameters = dict(model.named_parameters())
    if commit:
        _resume_momentum(optimizer, parameters, buffers, commit)
    return model, parameters, optimizer
