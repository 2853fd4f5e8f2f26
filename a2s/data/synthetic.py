"""Synthetic scenes with exact masks: test and demo data that needs no download.

A scene shows one to three textured, shaded objects on textured ground under a light gradient. The
objects cast shadows, which are not part of the mask. The ground also has stripes and patches, so
"anything unusual is an object" is not a solution.

    python -m a2s.data.synthetic runs/scenes --num-train 96 --num-test 24 --side-px 224
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import F32, U8
from a2s.storage.files import atomic_write, read_json, read_text, write_json
from a2s.storage.hashing import digest

MANIFEST = "scenes.json"
SUPERSAMPLE = 4


@dataclass(frozen=True)
class Scene:
    """A synthetic image and its ground truth."""

    image_HW3: U8
    """RGB."""
    mask_HW: U8
    """0 or 255; 255 where an object covers at least half of the pixel."""
    shadow_HW: F32
    """Darkness of the cast shadows, 0 to 1; never part of the mask."""


def draw_scene(*, seed: int, index: int, side_px: int) -> Scene:
    """Draw one scene; deterministic in (seed, index, side).

    Range: side_px at least 32.
    """
    rng = np.random.default_rng((seed, index))
    height, width = side_px, max(32, round(side_px * float(rng.uniform(0.75, 1.0))))
    if rng.random() < 0.5:
        height, width = width, height
    shape = (height, width)

    ground_hue, ground_value = rng.uniform(0, 180), rng.uniform(0.35, 0.75)
    ground = _textured(rng, shape, hue=ground_hue, value=ground_value, contrast=0.35)
    ground = _marks(rng, ground)
    canvas, mask = ground, np.zeros(shape, np.float32)
    shadow = np.zeros(shape, np.float32)

    light = rng.uniform(0, 2 * np.pi)
    for centre, radius in _places(rng, shape):
        cover = _silhouette(rng, shape, centre=centre, radius=radius)
        offset = radius * float(rng.uniform(0.4, 0.9))
        cast = _shift(cover, dx=offset * np.cos(light), dy=offset * np.sin(light))
        # The shadow falls on the ground only, not on objects drawn earlier.
        cast = _f32(cv2.GaussianBlur(cast, (0, 0), max(1.0, radius * 0.12)) * (1 - mask))
        cast *= np.float32(rng.uniform(0.35, 0.6))
        canvas = _f32(canvas * (1 - cast[..., None]))
        shadow = np.maximum(shadow, cast)

        hue = ground_hue + rng.uniform(50, 130)
        value = ground_value + rng.choice([-1, 1]) * rng.uniform(0.15, 0.3)
        texture = _textured(rng, shape, hue=hue, value=value, contrast=0.25, saturation=0.65)
        shade = 1 + 0.35 * _ball(shape, centre=centre, radius=radius, light=light)
        lit = texture * shade[..., None]
        canvas = _f32(canvas * (1 - cover[..., None]) + lit * cover[..., None])
        mask = np.maximum(mask, cover)

    canvas = _f32(canvas * _light_gradient(rng, shape)[..., None])
    canvas = _f32(canvas + rng.normal(0, 0.012, canvas.shape))
    image = np.clip(canvas * 255, 0, 255).astype(np.uint8)
    return Scene(image, np.where(mask >= 0.5, 255, 0).astype(np.uint8), _f32(shadow * (mask < 0.5)))


def render_folder(out: Path, *, num_train: int, num_test: int, side_px: int, seed: int) -> bool:
    """Write `train/*.jpg`, `test/images/*.jpg`, `test/masks/*.png`; False if they exist already.

    The manifest is written last, so an interrupted rendering starts again.
    """
    request = {"num_train": num_train, "num_test": num_test, "side_px": side_px, "seed": seed}
    # The hash of this file is part of the request, because changed code may draw other scenes.
    request["drawing"] = int(digest(read_text(Path(__file__)))[:12], 16)
    manifest = out / MANIFEST
    if manifest.is_file() and read_json(manifest) == request:
        return False
    manifest.unlink(missing_ok=True)
    train, images, masks = out / "train", out / "test" / "images", out / "test" / "masks"
    for folder in (train, images, masks):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for index in range(num_train + num_test):
        scene = draw_scene(seed=seed, index=index, side_px=side_px)
        is_test = index >= num_train
        name = f"scene-{index:04d}"
        atomic_write((images if is_test else train) / f"{name}.jpg", _jpeg(scene.image_HW3))
        if is_test:
            atomic_write(masks / f"{name}.png", _encode(".png", scene.mask_HW, []))
    write_json(manifest, request)
    return True


def _f32(values: Any) -> F32:
    return np.asarray(values, np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Multi-octave value noise. Range: about -1 to 1."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    weight = 1.0
    cells = int(rng.integers(2, 5))
    while cells < max(shape):
        grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * 0.6
    return _f32(total / max(float(np.abs(total).max()), 1e-6))


def _textured(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    hue: float,
    value: float,
    contrast: float,
    saturation: float = 0.3,
) -> F32:
    """Surface of one base colour with noise in brightness and hue. Range: RGB, 0 to 1."""
    brightness = np.clip(value * (1 + contrast * _noise(rng, shape)), 0.02, 1)
    hues = np.mod(2 * (hue + 10 * _noise(rng, shape)), 360)
    saturations = np.full(shape, saturation, np.float32)
    hsv = np.dstack([hues, saturations, brightness]).astype(np.float32)
    return _f32(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _marks(rng: np.random.Generator, ground: F32) -> F32:
    """Add faint stripes and patches to the ground, up to its border."""
    height, width = ground.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.08, 0.3) * max(height, width)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    patches = _noise(rng, (height, width)) > rng.uniform(0.3, 0.6)
    gain = 1 + rng.uniform(0, 0.12) * wave + rng.uniform(-0.15, 0.15) * patches
    return _f32(np.clip(ground * gain[..., None], 0, 1))


def _places(
    rng: np.random.Generator, shape: tuple[int, int]
) -> list[tuple[tuple[float, float], float]]:
    """Centres (x, y) and radii, in pixels, of one to three objects that hardly overlap."""
    height, width = shape
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    scale = {1: (0.18, 0.34), 2: (0.13, 0.22), 3: (0.1, 0.17)}[count]
    places: list[tuple[tuple[float, float], float]] = []
    for _ in range(200):
        radius = float(rng.uniform(*scale)) * min(shape)
        centre = (float(rng.uniform(0.25, 0.75)) * width, float(rng.uniform(0.25, 0.75)) * height)
        gaps = [np.hypot(centre[0] - x, centre[1] - y) - radius - r for (x, y), r in places]
        if all(gap > 0 for gap in gaps):
            places.append((centre, radius))
        if len(places) == count:
            break
    return places


def _silhouette(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    centre: tuple[float, float],
    radius: float,
) -> F32:
    """Share of each pixel that an object covers; supersampled for exact edges."""
    kind = rng.choice(["ellipse", "polygon", "blob", "ring", "star"])
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    if kind in ("polygon", "star"):
        corners = int(rng.integers(3, 8))
        angle = np.sort(rng.uniform(0, 2 * np.pi / corners, corners) * 0.6) + np.arange(corners) * (
            2 * np.pi / corners
        )
    reach = np.full(angle.shape, radius)
    if kind == "blob":
        for wave in range(2, 6):
            reach *= 1 + rng.uniform(0, 0.16) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    if kind == "star":
        angle = np.repeat(angle, 2) + np.tile([0, np.pi / corners], corners)
        reach = np.tile([radius, radius * rng.uniform(0.4, 0.7)], corners)
    squeeze = rng.uniform(0.55, 1.0) if kind != "blob" else rng.uniform(0.8, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    x, y = reach * np.cos(angle), squeeze * reach * np.sin(angle)
    points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])

    height, width = shape
    large = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)

    def fill(outline: NDArray[np.float64], colour: int) -> None:
        corners_px = (outline.T + centre) * SUPERSAMPLE
        cv2.fillPoly(large, [np.round(corners_px).astype(np.int32)], (colour,))

    fill(points, 255)
    if kind == "ring":
        fill(points * rng.uniform(0.35, 0.55), 0)
    return _f32(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA) / 255.0)


def _shift(field: F32, *, dx: float, dy: float) -> F32:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return _f32(cv2.warpAffine(field, matrix, field.shape[::-1]))


def _ball(
    shape: tuple[int, int], *, centre: tuple[float, float], radius: float, light: float
) -> F32:
    """Shading of a ball: bright towards the light, dark away from it. Range: -1 to 1."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    along = (x - centre[0]) * np.cos(light) + (y - centre[1]) * np.sin(light)
    return _f32(np.clip(-along / radius, -1, 1))


def _light_gradient(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    return _f32(1 + rng.uniform(0.1, 0.5) * slope)


def _jpeg(image_HW3: U8) -> bytes:
    bgr = np.ascontiguousarray(image_HW3[..., ::-1])
    return _encode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])


def _encode(suffix: str, image: NDArray[np.uint8], flags: Sequence[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, list(flags))
    assert done, f"OpenCV could not encode {suffix}"
    return data.tobytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Render a demo data set from the command line."""
    about = "Render scenes: train/*.jpg, test/images/*.jpg, test/masks/*.png."
    parser = argparse.ArgumentParser(prog="python -m a2s.data.synthetic", description=about)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--num-train", type=int, default=96)
    parser.add_argument("--num-test", type=int, default=24)
    parser.add_argument("--side-px", type=int, default=224, help="longer side, at least 32")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    if chosen.side_px < 32:
        parser.error(f"--side-px must be at least 32, not {chosen.side_px}")
    rendered = render_folder(
        chosen.out,
        num_train=chosen.num_train,
        num_test=chosen.num_test,
        side_px=chosen.side_px,
        seed=chosen.seed,
    )
    what = "rendered" if rendered else "already there:"
    print(f"scenes: {what} {chosen.num_train} + {chosen.num_test} scenes in {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
