"""numba CRF against pydensecrf: same masks for any image, sigmas and machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydensecrf.densecrf import DenseCRF2D
from safetensors.numpy import load_file

from a2s.errors import ConfigError
from a2s.labels.crf import pydensecrf_backend
from a2s.labels.crf.energy import CrfParams, hard_energy, soft_energy
from a2s.labels.crf.numba_backend import inference, layout, mean_field
from a2s.labels.crf.numba_backend.inference import crf, foreground_probability

PARAMS = CrfParams()


def library_probability(image: np.ndarray, energy: np.ndarray, params: CrfParams) -> np.ndarray:
    height, width = image.shape[:2]
    field = DenseCRF2D(width, height, 2)
    field.setUnaryEnergy(energy.copy())
    field.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=image.copy(),
        compat=params.bilateral_compat,
    )
    return np.asarray(field.inference(params.iterations))[1].reshape(height, width)


def picture(kind: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return np.full((height, width, 3), seed % 256, np.uint8)
    if kind == "noise":  # as many lattice vertices as there can be
        return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    ramp = np.add.outer(2.0 * np.arange(height), 1.5 * np.arange(width))[..., None]
    return np.clip(ramp + rng.integers(0, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def rough_map(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0))


@pytest.mark.parametrize("number", range(7))
def test_masks_equal_the_authors_masks(shared: Path, number: int) -> None:
    oracle = load_file(shared / "oracles" / "a2s_reference.safetensors")
    image, p, expected = (oracle[f"refine.{number}.{name}"] for name in ("image", "prob", "crf"))
    np.testing.assert_array_equal(crf(image, hard_energy(p, PARAMS), PARAMS), expected)


@pytest.mark.parametrize("size", [(320, 320), (300, 400), None])
def test_masks_of_photographs_equal_the_library(shared: Path, size: tuple[int, int] | None) -> None:
    paths = sorted((shared / "data" / "ecssd200" / "images").glob("*.jpg"))[::50]
    assert len(paths) == 4
    for path in paths:
        image = cv2.imread(str(path))[..., ::-1]
        mask = cv2.imread(str(path.parents[1] / "masks" / f"{path.stem}.png"), 0)
        if size is not None:
            image, mask = (cv2.resize(array, size[::-1]) for array in (image, mask))
        image = np.ascontiguousarray(image)
        p = cv2.GaussianBlur((mask > 127).astype(np.float32), (0, 0), 15)
        p += 0.5 * (rough_map(*p.shape) - 0.5)
        for energy in (hard_energy(p, PARAMS), soft_energy(np.clip(p, 0, 1), PARAMS)):
            ours, theirs = crf(image, energy, PARAMS), pydensecrf_backend.crf(image, energy, PARAMS)
            assert 0.01 < theirs.mean() < 0.99
            assert np.count_nonzero(ours != theirs) <= 2


@pytest.mark.parametrize("wide", [False, True], ids=["packed", "wide"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_probabilities_equal_the_library(wide: bool, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    params = CrfParams(
        gaussian_sxy=data.draw(st.floats(0.3, 30)),
        gaussian_compat=data.draw(st.sampled_from([0.0, 0.5, 3.0])),
        bilateral_sxy=data.draw(st.floats(1, 200)),
        bilateral_srgb=data.draw(st.floats(0.5, 100)),
        bilateral_compat=data.draw(st.sampled_from([0.0, 2.0, 10.0])),
        iterations=data.draw(st.integers(0, 3)),
    )
    seed = data.draw(st.integers(0, 255))
    image = picture(data.draw(st.sampled_from(["flat", "noise", "ramp"])), height, width, seed)
    energy_of = data.draw(st.sampled_from([hard_energy, soft_energy]))
    energy = energy_of(rough_map(height, width, seed), params)
    with pytest.MonkeyPatch.context() as patch:
        inference.kept_positions.clear()
        if wide:
            patch.setattr(layout, "key_fields", lambda ranges, num_pixels: None)
        ours = foreground_probability(image, energy, params)
    theirs = library_probability(image, energy, params)
    assert ours.dtype == np.float32
    # A pixel exactly between two simplices, or on a knife's edge, may be rounded either way.
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2, 2), (3, 5), (7, 64), (65, 33)])
@pytest.mark.parametrize("kind", ["flat", "noise", "ramp"])
def test_masks_of_odd_sizes_equal_the_library(size: tuple[int, int], kind: str) -> None:
    image, p = picture(kind, *size), rough_map(*size)
    for energy in (hard_energy(p, PARAMS), soft_energy(p, PARAMS)):
        np.testing.assert_array_equal(
            crf(image, energy, PARAMS), pydensecrf_backend.crf(image, energy, PARAMS)
        )


def test_masks_equal_the_library_if_skipped_tiles_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests = []
    original = mean_field.mean_field
    monkeypatch.setattr(mean_field, "mean_field", lambda *given: rests.append(original(*given)))
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(30, 120, 2)
        board = np.add.outer(np.arange(height), np.arange(width))[..., None] // 8 % 2
        image = (board * np.array([60, 90, 120])).astype(np.uint8)
        params = CrfParams(
            confidence=0.55,
            gaussian_sxy=float(rng.uniform(1, 6)),
            gaussian_compat=float(rng.choice([0, 3, 20])),
            bilateral_sxy=float(rng.uniform(5, 60)),
            bilateral_srgb=float(rng.uniform(3, 40)),
            bilateral_compat=float(rng.choice([2, 10, 30])),
        )
        energy = hard_energy(rough_map(height, width, int(rng.integers(1000))), params)
        ours, theirs = crf(image, energy, params), pydensecrf_backend.crf(image, energy, params)
        assert np.count_nonzero(ours != theirs) <= 2
    # Some were done anew without rests, some were not.
    assert 0 < np.count_nonzero(rests) < len(rests)


@pytest.mark.parametrize(("srgb", "is_wide"), [(5.0, False), (0.02, True)])
def test_narrow_kernels_need_wide_keys(srgb: float, is_wide: bool) -> None:
    image, p = picture("ramp", 30, 40), rough_map(30, 40)
    params = replace(PARAMS, bilateral_srgb=srgb, bilateral_sxy=0.02 if is_wide else 50.0)
    largest = [39 / params.bilateral_sxy, 29 / params.bilateral_sxy, *([255 / srgb] * 3)]
    fields = layout.key_fields(layout.coordinate_ranges(largest), 1200)
    assert (fields is None) is is_wide
    energy = hard_energy(p, params)
    ours = foreground_probability(image, energy, params)
    # The library's keys have 16 bits, so beyond them the truth is: no pixel has a neighbour.
    if is_wide:
        no_colour = replace(params, bilateral_compat=0.0, bilateral_srgb=5.0, bilateral_sxy=50.0)
        assert np.isfinite(ours).all()
        assert (ours != foreground_probability(image, energy, no_colour)).any()
    else:
        np.testing.assert_allclose(ours, library_probability(image, energy, params), atol=2e-3)


@pytest.mark.parametrize("kind", ["ramp", "noise"])
@pytest.mark.parametrize("size", [(90, 70), (33, 65)])
def test_packed_and_wide_keys_make_the_same_lattice(
    kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, energy = picture(kind, *size), hard_energy(rough_map(*size), PARAMS)
    tiles, space = layout.tiles_of(*size), inference.workspace_of_thread()

    def lattices() -> list[inference.Lattice]:
        inference.kept_positions.clear()
        return [
            inference.position_lattice(image, PARAMS.gaussian_sxy, tiles, space),
            inference.colour_lattice(image, PARAMS, tiles, space),
        ]

    counts = [lattice.count for lattice in lattices()]
    expected = foreground_probability(image, energy, PARAMS)
    monkeypatch.setattr(layout, "key_fields", lambda ranges, num_pixels: None)
    assert [lattice.count for lattice in lattices()] == counts
    np.testing.assert_allclose(foreground_probability(image, energy, PARAMS), expected, atol=1e-4)
    inference.kept_positions.clear()


def test_too_narrow_kernels_are_refused() -> None:
    image, energy = picture("ramp", 30, 40), hard_energy(rough_map(30, 40), PARAMS)
    for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
        with pytest.raises(ConfigError, match=name):
            crf(image, energy, replace(PARAMS, **{name: 1e-4}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gaussian_sxy", 0.0),
        ("bilateral_sxy", -1.0),
        ("bilateral_srgb", float("nan")),
        ("bilateral_sxy", float("inf")),
        ("gaussian_compat", -0.1),
        ("bilateral_compat", float("inf")),
        ("confidence", 0.5),
        ("confidence", 1.0),
        ("iterations", -1),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(PARAMS, **{name: value})
