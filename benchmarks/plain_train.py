"""Plain training loops, the baseline of `gpu_train.py`.

PIL decodes images in a DataLoader, everything runs eagerly in float32, and every step prints its
loss, so the host waits for the device. Networks and losses are those of a2s: the comparison is
about the loop.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from a2s.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from a2s.models.activation_net import ActivationNet
from a2s.models.blocks import upsample
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.training.losses import adb_loss, adb_terms, binarise, detection_loss_per_image

WEIGHTS = (1.0, 0.1, 0.3, 0.5)


class Photographs(Dataset[tuple[Tensor, Tensor, int]]):
    """Normalised float images and labels of a folder, randomly mirrored."""

    def __init__(self, images: Path, masks: Path, side: int) -> None:
        self.paths = sorted(images.glob("*.jpg"))
        self.masks = masks
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, int]:
        size = (self.side, self.side)
        image = Image.open(self.paths[item]).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        mask = Image.open(self.masks / f"{self.paths[item].stem}.png").convert("L").resize(size)
        label = torch.from_numpy(np.array(mask)).float()[None] / 255
        return (pixels - mean) / std, label, item


def stage1_step(model: ActivationNet, image: Tensor) -> Tensor:
    size = (image.shape[2], image.shape[3])
    maps = model(image)
    terms = []
    for theta in (upsample(maps.theta, size), maps.theta3, maps.theta4, maps.theta5):
        terms.append(adb_terms(theta, torch.rand_like(theta) > 0.5, alpha=0.1))
    columns = [torch.stack(column) for column in zip(*terms, strict=True)]
    return adb_loss(*columns, torch.tensor(WEIGHTS, device=image.device))


def run(cell: dict[str, Any], images: Path, masks: Path) -> dict[str, float]:
    """Train for two epochs; the second is timed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = cell["tf32"]
    encoder = load_encoder(cell["encoder"], "none")
    model: nn.Module = (
        ActivationNet(encoder, fusion_stride=4) if cell["stage"] == "stage1" else Detector(encoder)
    )
    model.to(device).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, lr=0.005, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    dataset = Photographs(images, masks, cell["side"])
    workers = cell["workers"]
    loader = DataLoader(
        dataset, batch_size=8, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    labels: dict[int, Tensor] = {}
    start = waited = 0.0
    for _epoch in range(2):
        start, waited = time.perf_counter(), 0.0
        before = start
        for image, label, items in loader:
            waited += time.perf_counter() - before
            image = image.to(device)
            if cell["stage"] == "stage1":
                assert isinstance(model, ActivationNet)
                loss = stage1_step(model, image)
            else:
                rows = items.tolist()
                label = torch.stack(
                    [labels.get(r, one) for r, one in zip(rows, label, strict=True)]
                )
                label = label.to(device)
                logits = model(image)
                terms_B = detection_loss_per_image(logits, binarise(label))
                loss = (terms_B.bce_B + terms_B.ssim_B + terms_B.iou_B).mean()
                corrected = (0.4 * label + 0.6 * logits.detach().sigmoid()).cpu()
                labels.update(zip(rows, corrected, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"\rloss {loss.item():.4f}", end="", flush=True)
            before = time.perf_counter()
    elapsed = time.perf_counter() - start
    return {
        "images_per_sec": round(len(dataset) / elapsed, 1),
        "data_wait_share": round(waited / elapsed, 3),
    }
