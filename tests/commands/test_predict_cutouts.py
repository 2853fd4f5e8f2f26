"""Cut-outs of `a2s predict`: transparency, profiles, crops, backgrounds, formats, edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from labelling_run import write_model
from pictures import photograph, pixels_of, results
from PIL import Image, ImageCms

from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.data.images import decode_mask
from a2s.models.saved import SavedNetwork

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURNED = Image.Exif()
TURNED[0x0112] = 6


def run(source: Path, out: Path, **settings: Any) -> int:
    values = {"model": "rbd", "workers": 0, **settings}
    return predict.run(PredictConfig(images=(str(source),), out=out, **values))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_stay_transparent(images: Path, tmp_path: Path, mode: str) -> None:
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :32], alpha[:, 40:44] = 0, 90
    image = photograph().convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    if mode == "P":
        # A palette of two colours: the object's, and one that is transparent.
        indices = Image.fromarray((alpha > 0).astype(np.uint8), "L").convert("P")
        indices.putpalette([9, 9, 9, 220, 160, 40])
        indices.save(images / "a.png", transparency=bytes([0, 255]))
        alpha = np.where(alpha > 0, 255, 0).astype(np.uint8)
    else:
        image.convert(mode).save(images / "a.png")
    assert run(images, tmp_path / "out", cutout=True) == 0
    found = pixels_of(tmp_path / "out" / "a.cutout.png")
    map_HW = pixels_of(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(found[..., 3], np.minimum(map_HW, alpha))
    assert not found[:, :32].any()


def test_an_upright_cut_out_with_the_profile_of_its_image(images: Path, tmp_path: Path) -> None:
    photograph().save(images / "a.jpg", icc_profile=SRGB, exif=TURNED.tobytes())
    photograph().save(images / "b.jpg")
    photograph().convert("L").save(images / "grey.jpg", icc_profile=SRGB)
    assert run(images, tmp_path / "out", cutout=True, overlay=True) == 0
    for name in ("a.cutout.png", "a.overlay.jpg"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (48, 64), name
            assert image.info.get("icc_profile") == SRGB, name
            assert image.getexif().get(0x0112, 1) == 1
    with Image.open(tmp_path / "out" / "b.cutout.png") as image:
        assert "icc_profile" not in image.info


def test_crops_and_backgrounds(images: Path, tmp_path: Path) -> None:
    photograph().save(images / "a.png")
    assert run(images, tmp_path / "crop", crop=True) == 0
    assert results(tmp_path / "crop") == {"a.png", "a.cutout.png"}
    cropped = pixels_of(tmp_path / "crop" / "a.cutout.png")
    map_HW = pixels_of(tmp_path / "crop" / "a.png")
    rows, columns = np.nonzero(map_HW >= 13)
    box = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert cropped.shape == (*box, 4)
    assert box < map_HW.shape
    for background, corner in (("white", (255, 255, 255)), ("#ff8800", (255, 136, 0))):
        out = tmp_path / background.strip("#")
        assert run(images, out, background=background, format="webp") == 0
        with Image.open(out / "a.cutout.webp") as image:
            assert image.mode == "RGB"
            assert np.abs(np.subtract(image.getpixel((1, 1)), corner)).max() <= 4
            assert np.abs(np.subtract(image.getpixel((32, 24)), (220, 160, 40))).max() <= 12
    assert run(images, tmp_path / "blur", background="blur", format="jpg") == 0
    blurred = pixels_of(tmp_path / "blur" / "a.cutout.jpg").astype(int)
    assert blurred[:6, :6].std() < 5 < pixels_of(images / "a.png")[:6, :6].std()


def test_refined_maps_have_the_edges_of_photographs(tmp_path: Path, shared: Path) -> None:
    """A blurred truth, as a network with coarse features would give it."""
    data = shared / "data" / "ecssd200"
    names = [path.stem for path in sorted((data / "masks").iterdir())[:6]]
    errors: dict[str, list[float]] = {"blurred": [], "refined": []}
    from a2s.data.images import decode
    from a2s.labels.crf.backends import marginal_of
    from a2s.labels.edges import refine_map

    for name in names:
        truth_HW = decode_mask((data / "masks" / f"{name}.png").read_bytes())
        blurred_HW = cv2.GaussianBlur(truth_HW, (0, 0), 8)
        image_HW3 = decode((data / "images" / f"{name}.jpg").read_bytes())
        refined_HW = refine_map(image_HW3, blurred_HW, marginal_of("numba"))
        assert refined_HW.shape == truth_HW.shape
        for kind, found_HW in (("blurred", blurred_HW), ("refined", refined_HW)):
            errors[kind].append(float(np.abs(found_HW.astype(float) - truth_HW).mean()))
    assert np.mean(errors["refined"]) < 0.75 * np.mean(errors["blurred"])


def test_refinement_is_part_of_the_map(images: Path, tmp_path: Path) -> None:
    photograph(700, 900).save(images / "a.png")
    model = write_model(tmp_path / "model.safetensors")
    assert SavedNetwork.find(model).kind
    assert run(images, tmp_path / "plain", model=model) == 0
    assert run(images, tmp_path / "refined", model=model, refine=True) == 0
    plain, refined = (pixels_of(tmp_path / name / "a.png") for name in ("plain", "refined"))
    assert plain.shape == refined.shape == (700, 900)
    assert (plain != refined).any()
    # Cut-outs that are added later are cut by the refined map.
    assert run(images, tmp_path / "refined", model=model, refine=True, cutout=True) == 0
    alpha = pixels_of(tmp_path / "refined" / "a.cutout.png")[..., 3]
    np.testing.assert_array_equal(alpha, refined)
