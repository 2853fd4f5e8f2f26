"""`Detector.predict`: what it takes, and what it gives."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import a2s
from a2s.commands.predict import run as run_predict
from a2s.config.commands import PredictConfig
from a2s.errors import A2SError, CheckpointError, ConfigError, DataError


@pytest.fixture(scope="module")
def detector(detector_file: Path) -> a2s.Detector:
    return a2s.Detector.load(detector_file)


@pytest.fixture(scope="module")
def photo(scenes) -> Path:
    return sorted(scenes.images.iterdir())[0]


@pytest.fixture
def address(scenes) -> Iterator[str]:
    """Address of a server on this machine that has the scenes."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(scenes.images))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pixels(photo: Path) -> np.ndarray:
    return np.array(Image.open(photo).convert("RGB"))


def test_it_answers_like_the_command(detector, detector_file, photo, tmp_path) -> None:
    out = tmp_path / "mask.png"
    assert run_predict(PredictConfig(images=(str(photo),), model=detector_file, out=out)) == 0
    found = detector.predict(photo)
    assert np.array_equal(found.map, np.asarray(Image.open(out)))
    assert found.map.std() > 0


def test_shape_and_range(detector, photo) -> None:
    found = detector.predict(photo)
    height, width = pixels(photo).shape[:2]
    assert (found.map.shape, found.map.dtype) == ((height, width), np.uint8)
    assert (found.saliency.shape, found.saliency.dtype) == ((height, width), np.float32)
    assert 0 <= found.saliency.min() < found.saliency.max() <= 1
    assert found.size == found.image().size == (width, height)


def test_every_kind_of_source_means_the_same(detector, photo, address) -> None:
    array = pixels(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    opaque = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    sources = [
        *(str(photo), f"file://{photo}", f"{address}/{photo.name}", Image.open(photo)),
        *(array, opaque, tensor, tensor.float() / 255, tensor.double() / 255),
    ]
    expected = detector.predict(photo).map
    for found in detector.predict(sources, batch_size=4):
        assert np.array_equal(found.map, expected), found


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "HSV", "I;16", "La"])
def test_images_of_every_mode(detector, photo, mode: str) -> None:
    image = Image.open(photo).convert("RGBA" if mode in ("LA", "PA", "La") else "RGB")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "La":
        image = image.convert("LA").convert("La")
    else:
        image = image.convert(mode)
    assert image.mode == mode
    assert detector.predict(image).size == image.size


def test_a_list_keeps_its_order_and_sizes(detector, photo) -> None:
    array = pixels(photo)
    images = [array, array[:50], array[:, :40], array[::-1].copy()]
    alone = [detector.predict(image).map for image in images]
    together = detector.predict(images, batch_size=3)
    assert [p.map.shape for p in together] == [image.shape[:2] for image in images]
    assert all(np.array_equal(p.map, m) for p, m in zip(together, alone, strict=True))
    assert detector.predict([]) == []


def test_orientation_of_files_is_applied(detector, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40), "teal").save(tmp_path / "turned.jpg", exif=exif)
    assert detector.predict(tmp_path / "turned.jpg").size == (40, 64)
    with Image.open(tmp_path / "turned.jpg") as image:
        assert detector.predict(image).size == image.size == (64, 40)


def test_cutout_and_overlay(detector, photo) -> None:
    array = pixels(photo)
    half = np.dstack([array, np.full(array.shape[:2], 100, np.uint8)])
    found, clear = detector.predict([array, half])
    cut = found.cutout()
    assert (cut.mode, cut.size) == ("RGBA", found.size)
    assert np.array_equal(np.asarray(cut)[..., 3], found.map)
    # Never above the image's own transparency.
    assert np.asarray(clear.cutout())[..., 3].max() <= 100
    white = found.cutout(background="white")
    assert (white.mode, white.size) == ("RGB", found.size)
    assert found.cutout(background="blur").mode == "RGB"
    cropped = found.cutout(crop=True)
    assert cropped.width <= found.size[0]
    assert cropped.height <= found.size[1]
    assert (found.overlay().mode, found.overlay().size) == ("RGB", found.size)
    with pytest.raises(ConfigError, match="whitish is neither a colour"):
        found.cutout(background="whitish")


def test_the_colour_profile_stays(detector, photo) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.open(photo).convert("RGB")
    image.info["icc_profile"] = profile
    assert detector.predict(image).cutout().info["icc_profile"] == profile
    assert "icc_profile" not in detector.predict(photo).cutout().info


def test_refine_moves_edges(detector, photo) -> None:
    plain, refined = detector.predict(photo), detector.predict(photo, refine=True)
    assert refined.map.shape == plain.map.shape
    assert not np.array_equal(refined.map, plain.map)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("absent.png", "absent.png cannot be read"),
        (".", r"\. is a folder"),
        (np.zeros((8, 8, 3)), "the image is an array of float64; give uint8"),
        (np.zeros((8, 8, 7), np.uint8), r"shape \[8, 8, 7\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"or a list of these"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \[0, 8, 3\]"),
        (torch.zeros(8, 8, 3), r"a tensor of shape \[8, 8, 3\]"),
        (torch.full((3, 8, 8), -1.0), "values from -1 to -1; give 0..1"),
        (torch.full((3, 8, 8), float("nan")), "give 0..1"),
        (Image.new("F", (8, 8)), "unsupported"),
        (b"bytes", "the image is a bytes"),
        (["absent.png"], "absent.png cannot be read"),
        ([np.zeros((8, 8), np.uint8), 5], "image 1 is a int"),
        ("ftp://host/photo.jpg", "scheme ftp is not allowed"),
    ],
)
def test_what_cannot_be_used_is_named(detector, source, complaint, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=complaint):
        detector.predict(source)


def test_a_damaged_file_is_named(detector, photo, tmp_path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(photo.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"damaged\.png: (truncated|damaged)"):
        detector.predict([photo, damaged])


def test_the_baseline_needs_no_network(photo, tmp_path) -> None:
    baseline = a2s.Detector.load("rbd")
    assert baseline.predict(photo).map.std() > 0
    for write in (baseline.save_pretrained, lambda folder: baseline.export(folder / "x.onnx")):
        with pytest.raises(CheckpointError, match="baseline without a network"):
            write(tmp_path)


def test_an_absent_model_is_named(tmp_path) -> None:
    with pytest.raises(A2SError, match="absent is neither"):
        a2s.Detector.load(tmp_path / "absent")
