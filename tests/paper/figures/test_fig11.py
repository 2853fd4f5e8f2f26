"""Figure 11: the maps are the decoder's features, and their product sums to its logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from grid_cells import cells_of, read_png, shows

from a2s.data.images import decode, resize_rgb
from a2s.data.index import Index
from a2s.data.transforms import normalise
from a2s.errors import CheckpointError
from a2s.models import saved
from a2s.models.blocks import upsample
from a2s.models.detector import Detector, DetectorName
from a2s.models.encoders import build_encoder
from a2s.paper.figures.fig11 import fig11, signed


@pytest.mark.parametrize("name", ["ram", "conv"])
def test_the_product_summed_over_channels_is_the_logits(name: DetectorName) -> None:
    torch.manual_seed(0)
    detector = Detector(build_encoder("mobilenet_v2"), detector=name).eval()
    image_B3HW = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        local, regional = detector.decoder.levels(detector.encoder(image_B3HW))
        assert local.shape == regional.shape == (2, 64, 32, 48)
        logits = upsample((local * regional).sum(1, keepdim=True), (64, 96))
        assert torch.equal(logits, detector(image_B3HW))


def test_figure_11(packed: Path, stage2: Path, tmp_path: Path) -> None:
    index = Index.load(packed)
    key = index.key(3)
    drawn = fig11(tmp_path, data=packed, model=stage2, keys=[key], num_channels=4)
    assert not drawn.empty
    detector, metadata = saved.load_model(stage2)
    assert isinstance(detector, Detector)
    side = int(metadata["image_size"])
    image_HW3 = decode(index.read(3))
    small_SS3 = torch.from_numpy(resize_rgb(image_HW3, height=side, width=side))
    with torch.no_grad():
        taps = detector.encoder(normalise(small_SS3.permute(2, 0, 1)[None]))
        local_Chw, regional_Chw = (maps[0].numpy() for maps in detector.decoder.levels(taps))
    product_Chw = local_Chw * regional_Chw
    best = np.argsort(-product_Chw.std((1, 2)), kind="stable")[:4]
    size = image_HW3.shape[:2]
    cells = cells_of(read_png(drawn.path), rows=3, titles=5, captions=True, row_titles=True)
    assert shows(cells[0][0], image_HW3)
    for row, maps in enumerate((local_Chw, regional_Chw, product_Chw)):
        for column, channel in enumerate(best):
            assert shows(cells[row][1 + column], signed(maps[channel], size))


def test_signed_colours() -> None:
    picture_HW3 = signed(np.array([[-2.0, 0.0, 1.0]], np.float32), (1, 3)).astype(int)
    assert (picture_HW3[0, 1] == 255).all()
    blue, red = picture_HW3[0, 0], picture_HW3[0, 2]
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    # Half the distance from zero gives half the colour.
    assert abs((255 - red[1]) - (255 - 24) / 2) <= 1
    assert (signed(np.zeros((2, 2), np.float32), (2, 2)) == 255).all()


def test_a_stage_1_model_is_refused(packed: Path, stage1: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no detector with local and regional modules"):
        fig11(tmp_path, data=packed, model=stage1)
