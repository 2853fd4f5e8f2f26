"""Review of real labels of 200 photographs in a browser, and what fixes do to a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from browser_session import Tab, browser
from http_server import serving
from numpy.typing import NDArray
from PIL import Image

import a2s
from a2s.data.images import decode_mask
from a2s.labels.review import read_decisions

NUM_FIXED, SIDE = 40, 160
TRAINING: dict[str, Any] = {
    **{"init": "bundled", "init_lr_scale": 1, "lr": 0.01, "image_size": 96, "batch_size": 4},
    **{"epochs": 3, "warm_epochs": 1, "loader_workers": 0},
}
Bool = NDArray[np.bool_]


def write_small(data: Path, out: Path) -> None:
    """Write the photographs and their masks with at most 160 pixels a side."""
    for kind, resample in (
        ("images", Image.Resampling.LANCZOS),
        ("masks", Image.Resampling.NEAREST),
    ):
        (out / kind).mkdir(parents=True)
        for path in sorted((data / kind).iterdir()):
            with Image.open(path) as image:
                scale = SIDE / max(image.size)
                width, height = (round(side * scale) for side in image.size)
                small = image.convert("RGB" if kind == "images" else "L").resize(
                    (width, height), resample
                )
                small.save(out / kind / f"{path.stem}.png")


def runs_of(mask_HW: Bool, *, step: int) -> list[tuple[int, int, int]]:
    """Runs (y, first x, last x) of a mask in every `step`-th line."""
    found = []
    for y in range(step // 2, len(mask_HW), step):
        edges = np.diff(np.concatenate([[0], mask_HW[y].astype(np.int8), [0]]))
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        found += [(y, int(x0), int(x1) - 1) for x0, x1 in zip(starts, ends, strict=True)]
    return found


def draw(tab: Tab, truth_HW: Bool) -> None:
    """Erase the label with a broad eraser, then paint the object line by line, as a person."""
    left, top, scale = tab.run(
        "(() => { const b = document.querySelector('#canvas').getBoundingClientRect();"
        "return [b.left, b.top, b.width / edit.width]; })()"
    )
    height, width = truth_HW.shape

    def strokes(key: str, size_px: float, lines: list[tuple[int, int, int]]) -> None:
        tab.press(key)
        tab.run(f"document.querySelector('#size').value = {size_px * scale}; 0")
        for y, x0, x1 in lines:
            ends = [(left + (x + 0.5) * scale, top + (y + 0.5) * scale) for x in (x0, x1)]
            tab.drag(*ends)

    broad = 120 / scale
    every = int(broad * 0.7)
    strokes("e", broad, [(y, 0, width - 1) for y in range(0, height + every, every) if y < height])
    strokes("b", 3, runs_of(truth_HW, step=2))


def f_of(scores: Path, names: set[str]) -> tuple[float, float]:
    """Mean adaptive F of the images of these names, and of the others."""
    rows = pq.read_table(scores / "images.parquet").to_pylist()
    chosen = [
        [r["adaptive_f"] for r in rows if (r["key"] in names) is own] for own in (True, False)
    ]
    return float(np.mean(chosen[0])), float(np.mean(chosen[1]))


@pytest.mark.slow
def test_forty_fixed_labels_teach_the_detector(shared: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    write_small(shared / "data" / "ecssd200", photographs)
    data = a2s.shard(photographs / "images", tmp_path / "data", workers=0)
    labels = tmp_path / "labels"
    a2s.label(data, labels, workers=0)
    truths = {
        path.stem: decode_mask(path.read_bytes()) > 127
        for path in (photographs / "masks").iterdir()
    }

    def train_and_score(name: str) -> Path:
        detector = a2s.train(data, labels, tmp_path / name, **TRAINING)
        maps = tmp_path / f"maps-{name}"
        maps.mkdir()
        for path in sorted((photographs / "images").iterdir()):
            map_HW = detector.predict(path).map
            Image.fromarray(map_HW).save(maps / path.name)
        a2s.evaluate(maps, photographs / "masks", tmp_path / f"scores-{name}", workers=0)
        return tmp_path / f"scores-{name}"

    before = train_and_score("before")
    fixed: set[str] = set()
    with (
        browser(tmp_path / "chromium") as chromium,
        serving("review", labels, "--data", data, "--port", 0) as running,
    ):
        tab = chromium.new_tab()
        tab.size(1100, 700)
        tab.open(running.address)
        tab.wait("document.querySelectorAll('.card img').length > 3")
        tab.press("Enter")
        for number in range(NUM_FIXED):
            tab.wait(f"edit.mask !== null && edit.index === {number}")
            if number == 0:
                tab.press("s")  # these strokes are exact; they need not snap
            name = tab.run("edit.item.name")
            draw(tab, truths[name])
            tab.press("a")
            fixed.add(name)
        tab.wait(f"document.querySelector('#counts').textContent.includes('{NUM_FIXED} fixed')")
        assert tab.console == []

    decisions = read_decisions(labels)
    assert {key for key, one in decisions.items() if one.verdict == "fixed"} == fixed
    overlaps = []
    for key, one in decisions.items():
        assert one.mask_png is not None
        mask_HW, truth_HW = decode_mask(one.mask_png) > 127, truths[key]
        overlaps.append((mask_HW & truth_HW).sum() / (mask_HW | truth_HW).sum())
    assert np.mean(overlaps) > 0.85, overlaps

    own_before, others_before = f_of(before, fixed)
    own_after, others_after = f_of(train_and_score("after"), fixed)
    print(f"40 fixed {own_before:.3f} -> {own_after:.3f}, others {others_before:.3f} -> "
          f"{others_after:.3f}")  # fmt: skip
    assert own_after > own_before + 0.02
    assert others_after > others_before - 0.03
