"""Masks of other programs: the same object, stored in every way that people store masks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from a2s.data import images
from a2s.data.images import decode_mask
from a2s.data.isolation import isolated
from a2s.data.masks import VOC_BORDER, decode_map, decode_truth, describe, useless

OBJECT = np.zeros((20, 30), bool)
OBJECT[4:12, 6:20] = True
BORDER = np.zeros_like(OBJECT)
BORDER[3, 6:20] = True


def encoded(
    picture: Image.Image | np.ndarray, image_format: str = "PNG", **options: object
) -> bytes:
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def voc_palette() -> list[int]:
    """The colours of PASCAL VOC: the bits of the number, from the lowest, in turn to R, G, B."""
    colours = []
    for number in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            colour[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
        colours += colour
    return colours


def palette(number: int, *, border: bool = True) -> Image.Image:
    numbers = np.where(OBJECT, number, 0).astype(np.uint8)
    numbers[BORDER] = 255 if border else 0
    image = Image.fromarray(numbers, "P")
    image.putpalette(voc_palette())
    return image


def rgba(*, seen: tuple[int, int, int], hidden: tuple[int, int, int]) -> np.ndarray:
    pixels = np.zeros((*OBJECT.shape, 4), np.uint8)
    pixels[..., :3] = np.where(OBJECT[..., None], seen, hidden)
    pixels[..., 3] = OBJECT * 255
    return pixels


def cutout() -> np.ndarray:
    pixels = rgba(seen=(0, 0, 0), hidden=(0, 0, 0))
    pixels[..., :3] = np.random.default_rng(0).integers(0, 256, (*OBJECT.shape, 3))
    return pixels


STORED: dict[str, tuple[Callable[[], bytes], str]] = {
    "0/255": (lambda: encoded(OBJECT.astype(np.uint8) * 255), "grey"),
    "1 bit": (lambda: encoded(Image.fromarray(OBJECT)), "grey"),
    "jpeg": (lambda: encoded(OBJECT.astype(np.uint8) * 255, "JPEG"), "grey"),
    "0/1": (lambda: encoded(OBJECT.astype(np.uint8)), "numbers"),
    "0/1 in RGB": (lambda: encoded(np.dstack([OBJECT.astype(np.uint8)] * 3)), "numbers"),
    "class and border in grey": (
        lambda: encoded((OBJECT * 15 + BORDER * 255).astype(np.uint8)),
        "numbers",
    ),
    "VOC palette": (lambda: encoded(palette(15)), "colours"),
    "VOC palette, grey class": (lambda: encoded(palette(7, border=False)), "colours"),
    "VOC colours": (lambda: encoded(palette(3).convert("RGB")), "colours"),
    "VOC colours, JPEG": (lambda: encoded(palette(4).convert("RGB"), "JPEG"), "colours"),
    "alpha over white": (
        lambda: encoded(rgba(seen=(255, 255, 255), hidden=(255, 255, 255))),
        "alpha",
    ),
    "alpha over black": (lambda: encoded(rgba(seen=(0, 0, 0), hidden=(0, 0, 0))), "alpha"),
    "alpha over nothing": (lambda: encoded(rgba(seen=(0, 0, 0), hidden=(255, 255, 255))), "alpha"),
    "alpha of grey": (
        lambda: encoded(Image.fromarray(rgba(seen=(0, 0, 0), hidden=(0, 0, 0))).convert("LA")),
        "alpha",
    ),
    "cut-out": (lambda: encoded(cutout()), "alpha"),
    "opaque RGBA": (
        lambda: encoded(Image.fromarray(OBJECT.astype(np.uint8) * 255).convert("RGBA")),
        "grey",
    ),
    "16 bits": (lambda: encoded(OBJECT.astype(np.uint16) * 65535), "16 bits"),
    "12 of 16 bits": (lambda: encoded(OBJECT.astype(np.uint16) * 4095), "16 bits"),
    "8 of 16 bits": (lambda: encoded(OBJECT.astype(np.uint16) * 255), "16 bits"),
    "16 bits, 0/1": (lambda: encoded(OBJECT.astype(np.uint16), "TIFF"), "numbers"),
}


@pytest.mark.parametrize("name", STORED)
def test_every_way_to_store_a_mask_gives_the_same_object(name: str) -> None:
    make, meaning = STORED[name]
    mask_HW, found = decode_truth(make())
    assert found == meaning
    if "jpeg" in name.lower():
        assert ((mask_HW > 128) != OBJECT).mean() < 0.06
    else:
        np.testing.assert_array_equal(mask_HW > 128, OBJECT)


@pytest.mark.parametrize(
    "values",
    [
        [[0, 100, 254, 255]],
        # PASCAL-S: the share of twelve people who marked an object.
        [[0, 0, 21, 21]],
        [[0, 1, 255, 255]],
        [[0, 0, 0, 0]],
    ],
)
def test_graded_masks_keep_their_values(values: list[list[int]]) -> None:
    stored = np.array(values, np.uint8)
    mask_HW, meaning = decode_truth(encoded(stored))
    assert meaning == "grey"
    np.testing.assert_array_equal(mask_HW, stored)


def test_a_mask_in_colour_with_soft_transparency_stays_that_mask() -> None:
    pixels = np.zeros((*OBJECT.shape, 4), np.uint8)
    pixels[..., :3] = OBJECT[..., None] * 255
    pixels[..., 3] = np.where(OBJECT, 255, 128)
    mask_HW, meaning = decode_truth(encoded(pixels))
    assert meaning == "grey"
    np.testing.assert_array_equal(mask_HW > 128, OBJECT)


def test_a_map_in_alpha_or_16_bits_is_no_flat_one() -> None:
    graded = np.arange(600, dtype=np.uint8).reshape(20, 30)
    white = np.dstack([np.full_like(graded, 255)] * 3 + [graded])
    np.testing.assert_array_equal(decode_map(encoded(white)), graded)
    np.testing.assert_array_equal(decode_map(encoded(graded.astype(np.uint16))), graded)
    # Low values of a map are low, and are not numbers of classes.
    np.testing.assert_array_equal(decode_map(encoded(graded // 16)), graded // 16)


def test_the_decoder_process_gives_the_same() -> None:
    with isolated():
        for make, meaning in STORED.values():
            mask_HW, found = decode_truth(make())
            assert found == meaning
            assert mask_HW.dtype == np.uint8
    with isolated(), pytest.raises(images.BadImage, match="empty"):
        decode_truth(b"")


def test_border_colour_is_that_of_number_255() -> None:
    assert tuple(voc_palette()[-3:]) == VOC_BORDER


def test_real_masks_read_as_before(shared: Path) -> None:
    for folder in (shared / "data/ecssd200/masks", shared / "data/tiles/masks"):
        for path in sorted(folder.glob("*.png"))[:40]:
            mask_HW, meaning = decode_truth(path.read_bytes())
            assert meaning == "grey", path
            np.testing.assert_array_equal(mask_HW, decode_mask(path.read_bytes()))


def test_words() -> None:
    assert describe({"grey": 3}, what="truths") == ""
    text = describe({"grey": 3, "numbers": 2, "alpha": 1}, what="truths")
    assert text.startswith("truths read 2 as numbers of objects")
    assert "; 1 as opacity" in text
    assert useless(num_masks=3, num_empty=2, num_full=1) == ""
    assert "not one of the masks has a salient pixel" in useless(
        num_masks=2, num_empty=2, num_full=0
    )
    assert "every pixel of every mask" in useless(num_masks=2, num_empty=0, num_full=2)
    assert useless(num_masks=0, num_empty=0, num_full=0) == ""
