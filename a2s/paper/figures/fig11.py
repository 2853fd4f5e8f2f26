"""Figure 11: what the detector's two modules see, channel by channel.

Shape suffixes: C channels, S the network's input size, h w the size of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from a2s.data.arrays import F32, U8
from a2s.errors import CheckpointError
from a2s.evaluation.pairs import find_images, find_truths
from a2s.evaluation.pictures.cells import (
    Drawn,
    Size,
    choose,
    image_cell,
    map_cell,
    resized,
    write_grid,
)
from a2s.evaluation.pictures.grid import Cell
from a2s.models.detector import Detector, DetectorDecoder
from a2s.models.predict import Logits, to_map
from a2s.models.saved import NetworkInput, SavedNetwork

_LOW, _HIGH = np.array([33.0, 90.0, 172.0]), np.array([178.0, 24.0, 43.0])
"""Blue and red of equal lightness, for the two ends of a signed scale."""


def fig11(
    out: Path,
    *,
    data: Path,
    model: Path,
    truth: Path | None = None,
    keys: Sequence[str] | None = None,
    num_images: int = 1,
    num_channels: int = 6,
) -> Drawn:
    """Draw channels of R_l, R_r and their product, which summed over channels is the prediction.

    The channels are those whose product varies most over the image. The first column has the image,
    truth and prediction, from top to bottom.

    Raises:
        CheckpointError: the model is no detector with these modules.
    """
    detector, network_input = _load(model)
    num_channels = min(num_channels, detector.width)
    images = find_images(data)
    truths = find_truths(truth) if truth is not None else None
    rows: list[list[Cell]] = []
    row_titles: list[str] = []
    names: list[str] = []
    chosen = choose(images.keys, num_images=num_images, given=keys)
    for key in chosen:
        image = image_cell(images, key)
        truth_cell = map_cell(truths, key, like=image) if truths else Cell()
        first_column = [image, truth_cell, Cell(None, "no image")]
        lines = [[Cell(None, "no image"), *[Cell()] * (num_channels - 1)]] * 3
        if image.picture is not None:
            size = (image.picture.shape[0], image.picture.shape[1])
            local_Chw, regional_Chw = _levels(detector, network_input.resize(image.picture))
            product_Chw = local_Chw * regional_Chw
            first_column[2] = Cell(to_map(Logits(product_Chw.sum(0), *size)))
            order_C = np.argsort(-product_Chw.std((1, 2)), kind="stable")
            channels = [int(channel) for channel in order_C[:num_channels]]
            lines = [
                [Cell(signed(maps[c], size), f"channel {c}") for c in channels]
                for maps in (local_Chw, regional_Chw, product_Chw)
            ]
        for what, first, line in zip(("R_l", "R_r", "R_l ⊙ R_r"), first_column, lines, strict=True):
            rows.append([first, *line])
            row_titles.append(what)
            names.append(f"{key} {what}")
    titles = ["image, truth, prediction" if truths else "image, prediction"]
    titles += ["channels that vary most", *[""] * (num_channels - 1)]
    note = (
        "Each map on its own scale: white 0, red positive, blue negative, full colour its largest."
    )
    return write_grid(
        out / "fig11.png", rows, titles=titles, row_names=names, row_titles=row_titles, note=note
    )


def signed(values_hw: NDArray[np.floating], size: Size) -> U8:
    """Colour a map of both signs: white at 0, red above, blue below, full at its largest distance.

    Shape: [h, w] -> [*size, 3], RGB
    """
    largest = float(np.abs(values_hw).max())
    share_HW1 = resized(values_hw / (largest or 1.0), size)[..., None]
    ends_HW3 = np.where(share_HW1 < 0, _LOW, _HIGH)
    picture_HW3: U8 = np.rint(255 + np.abs(share_HW1) * (ends_HW3 - 255)).astype(np.uint8)
    return picture_HW3


def _load(model: Path) -> tuple[Detector, NetworkInput]:
    """The network as it was trained: what is drawn are its own maps, not those of a folded one."""
    saved = SavedNetwork.find(model)
    network = saved.load()
    if isinstance(network, Detector) and isinstance(network.decoder, DetectorDecoder):
        return network, saved.trained_input
    raise CheckpointError(
        f"fig11: {saved.file} is no detector with local and regional modules; give the --out of a "
        "stage2 that has them"
    )


@torch.inference_mode()
def _levels(detector: Detector, image_SS3: U8) -> tuple[F32, F32]:
    """Shape: [S, S, 3] -> twice [C, h, w]."""
    image_13SS = detector.encoder.normalise(torch.from_numpy(image_SS3).permute(2, 0, 1)[None])
    assert isinstance(detector.decoder, DetectorDecoder)
    levels = detector.decoder.levels(detector.encoder(image_13SS))
    return levels.local[0].numpy(), levels.regional[0].numpy()
