"""torch CRF against pydensecrf, against an exact mean field, and between batches."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from crf_reference import exact_marginals, library_marginals, rough_case
from repository import REPO
from safetensors.numpy import load_file
from torch import Tensor

from a2s.errors import ConfigError
from a2s.labels.crf.backends import crf_of
from a2s.labels.crf.energy import CrfParams, hard_energy
from a2s.labels.crf.torch_backend.filter import TORCH_KERNELS
from a2s.labels.crf.torch_backend.inference import (
    BYTES_PER_PIXEL,
    crf,
    crf_batch,
    groups,
    marginals,
)
from a2s.labels.crf.torch_backend.lattice import embed, group, neighbours, packing

PARAMS = CrfParams()


def tensors(image: np.ndarray, energy: np.ndarray) -> tuple[Tensor, Tensor]:
    logit = (energy[0] - energy[1]).reshape(image.shape[:2])
    return torch.tensor(image), torch.tensor(logit)


def ours(image: np.ndarray, energy: np.ndarray, params: CrfParams = PARAMS) -> np.ndarray:
    image_HW3, logit_HW = tensors(image, energy)
    return marginals([image_HW3], [logit_HW], params)[0].numpy()


def material(kind: str, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make an image of a disc, and energies of a rough map of the disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 3) ** 2 < (min(height, width) / 3) ** 2
    image = {
        "flat": np.full((height, width, 3), 255),
        "noise": rng.integers(0, 256, (height, width, 3)),
        "disc": np.where(inside, 170, 40)[..., None] + rng.integers(0, 30, (height, width, 3)),
    }[kind].astype(np.uint8)
    p = np.where(inside, 0.7, 0.3) + rng.normal(0, 0.2, (height, width))
    return image, hard_energy(p.astype(np.float32), PARAMS)


def photograph(shared: Path, index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    path = sorted((shared / "data/ecssd200/images").glob("*.jpg"))[index]
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    truth = cv2.imread(str(path.parent.parent / "masks" / f"{path.stem}.png"), 0) > 127
    return rough_case(image, truth.astype(np.float32), side=side, seed=index)


@pytest.mark.parametrize("number", range(3))
def test_masks_equal_the_authors_masks(shared: Path, number: int) -> None:
    oracle = load_file(shared / "oracles" / "a2s_reference.safetensors")
    image, p, expected = (oracle[f"refine.{number}.{name}"] for name in ("image", "prob", "crf"))
    assert (crf(image, hard_energy(p, PARAMS), PARAMS) != expected).sum() <= 2


@pytest.mark.parametrize("index", [0, 67, 133])
def test_marginals_of_photographs_equal_the_library(shared: Path, index: int) -> None:
    image, energy = photograph(shared, index, 320)
    np.testing.assert_allclose(
        ours(image, energy), library_marginals(image, energy, PARAMS), atol=2e-4
    )


@pytest.mark.parametrize("kind", ["flat", "noise", "disc"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 5), (1, 900), (61, 80)])
def test_marginals_of_any_image_equal_the_library(kind: str, size: tuple[int, int]) -> None:
    image, energy = material(kind, *size)
    np.testing.assert_allclose(
        ours(image, energy), library_marginals(image, energy, PARAMS), atol=2e-4
    )


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 0},
        {"iterations": 1},
        {"iterations": 23},
        {"gaussian_sxy": 0.7, "bilateral_sxy": 7.3, "bilateral_srgb": 31.5},
        {"gaussian_sxy": 40.0, "bilateral_sxy": 200.0, "bilateral_srgb": 0.06},
        {"gaussian_compat": 0.0},
        {"bilateral_compat": 0.0, "gaussian_compat": 1.5},
    ],
    ids=str,
)
def test_marginals_with_any_parameters_equal_the_library(change: dict[str, float]) -> None:
    image, energy = material("disc", 31, 46)
    params = replace(PARAMS, **change)
    found = ours(image, energy, params)
    np.testing.assert_allclose(found, library_marginals(image, energy, params), atol=2e-4)


def test_soft_energies_and_a_tie() -> None:
    image, _ = material("noise", 20, 30)
    energy = np.random.default_rng(0).normal(0, 5, (2, 600)).astype(np.float32)
    np.testing.assert_allclose(
        ours(image, energy), library_marginals(image, energy, PARAMS), atol=2e-4
    )
    tie = np.ones((2, 600), np.float32)
    assert not crf(image, tie, PARAMS).any()
    assert not crf_of("pydensecrf")(image, tie, PARAMS).any()


def test_missing_compiler_is_one_clear_error() -> None:
    image, logit = tensors(*material("disc", 9, 11))

    def fails(*args: object) -> tuple[Tensor, Tensor]:
        raise reason

    kernels, reason = (
        replace(TORCH_KERNELS, corners=fails),
        RuntimeError("Failed to find C compiler."),
    )
    with pytest.raises(ConfigError, match="gcc or clang"):
        marginals([image], [logit], PARAMS, kernels=kernels)
    reason = subprocess.CalledProcessError(1, ["gcc", "without-headers.c"])
    with pytest.raises(ConfigError, match="headers"):
        marginals([image], [logit], PARAMS, kernels=kernels)
    reason = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        marginals([image], [logit], PARAMS, kernels=kernels)


def test_backend_interface() -> None:
    image, energy = material("disc", 24, 37)
    image.setflags(write=False)
    energy.setflags(write=False)
    mask = crf_of("torch")(image, energy, PARAMS)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, crf_of("pydensecrf")(image, energy, PARAMS))


@pytest.fixture(scope="module")
def mixed() -> tuple[list[Tensor], list[Tensor]]:
    sizes = [(40, 52), (1, 7), (40, 52), (40, 52), (33, 20), (1, 1), (52, 40)]
    kinds = ["disc", "noise", "noise", "disc", "flat", "disc", "disc"]
    pairs = [
        tensors(*material(kind, *size, seed=seed))
        for seed, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    images, logits = zip(*pairs, strict=True)
    return list(images), list(logits)


def test_results_do_not_depend_on_the_batch(mixed: tuple[list[Tensor], list[Tensor]]) -> None:
    images, logits = mixed
    together = marginals(images, logits, PARAMS)
    in_parts = marginals(images, logits, PARAMS, max_bytes=BYTES_PER_PIXEL * 3000)
    for image, logit, one, part in zip(images, logits, together, in_parts, strict=True):
        (alone,) = marginals([image], [logit], PARAMS)
        assert one.shape == image.shape[:2]
        assert torch.equal(one, alone)
        assert torch.equal(part, alone)
    masks = crf_batch(images, logits, PARAMS)
    assert all(torch.equal(mask, s > 0) for mask, s in zip(masks, together, strict=True))
    assert all(mask.dtype == torch.bool for mask in masks)


def test_empty_batch() -> None:
    assert crf_batch([], [], PARAMS) == []


def test_bfloat16_on_the_lattice_keeps_the_mask() -> None:
    image, logit = tensors(*material("disc", 80, 90))
    exactly, roughly = (
        marginals([image], [logit], PARAMS, dtype=dtype)[0] > 0
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (exactly & roughly).sum() >= 0.98 * (exactly | roughly).sum()


def test_groups_are_as_large_as_allowed() -> None:
    def lengths(areas: list[int], **limits: int) -> list[list[int]]:
        return [areas[part] for part in groups(areas, **limits)]

    assert lengths([3, 3, 3, 9, 1], max_pixels=6, max_images=9) == [[3, 3], [3], [9], [1]]
    assert lengths([1] * 5, max_pixels=99, max_images=2) == [[1, 1], [1, 1], [1]]
    assert lengths([9], max_pixels=1, max_images=1) == [[9]]
    assert lengths([], max_pixels=1, max_images=1) == []


def test_batches_are_split_if_keys_hold_few_images() -> None:
    params = replace(PARAMS, bilateral_srgb=0.05)
    pairs = [material("disc", 30, 30, seed=seed) for seed in range(5)]
    images, logits = zip(*(tensors(*pair) for pair in pairs), strict=True)
    grey = 255 / params.bilateral_srgb
    assert packing([29 / 50, 29 / 50, grey, grey, grey]).max_images < 5
    for found, pair in zip(marginals(images, logits, params), pairs, strict=True):
        np.testing.assert_allclose(found.numpy(), library_marginals(*pair, params), atol=2e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"bilateral_srgb": 0.01},
        {"bilateral_srgb": 1e-300},
        {"gaussian_sxy": 1e-6},
        {"gaussian_sxy": 1e-320},
    ],
    ids=str,
)
def test_too_narrow_kernels_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="kernel widths"):
        ours(*material("disc", 20, 30), replace(PARAMS, **change))


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_keys_and_neighbours_match_the_coordinates(dims: int) -> None:
    generator = torch.Generator().manual_seed(dims)
    largest = [1.5 * (axis + 1) for axis in range(dims)]
    features = [torch.rand(400, generator=generator) * x for x in largest]
    image = torch.arange(400) // 200
    packed = packing(largest)
    keys, weights = embed(features, image, packed)
    torch.testing.assert_close(weights.sum(0), torch.ones(400))
    assert weights.min() > -1e-6
    vertices = group(keys)[0]

    lowest, rest = [], packed.offset
    for stride in packed.strides:
        lowest.append(rest // stride)
        rest %= stride

    def coordinates(key: int) -> tuple[int, ...]:
        """Image, and the lattice point: its last coordinate makes the sum 0."""
        number, rest = divmod(key, packed.image_stride)
        digits = []
        for stride in packed.strides:
            digit, rest = divmod(rest, stride)
            digits.append(digit)
        point = [(dims + 1) * (q - low) + rest for q, low in zip(digits, lowest, strict=True)]
        return (number, *point, -sum(point))

    points = [coordinates(key) for key in vertices.tolist()]
    place = {point: index + 1 for index, point in enumerate(points)}
    assert len(place) == len(points)
    found = neighbours(vertices, packed)
    for axis in range(dims + 1):
        for side, sign in ((0, 1), (1, -1)):
            for index, (number, *point) in enumerate(points):
                near = [c - sign for c in point]
                near[axis] += sign * (dims + 1)
                assert found[axis, side, index] == place.get((number, *near), 0)


def test_lattice_is_as_accurate_as_the_library(shared: Path) -> None:
    gaps = []
    for index in range(0, 200, 40):
        image, energy = photograph(shared, index, 48)
        truth = exact_marginals(image, energy, PARAMS)
        theirs = np.abs(library_marginals(image, energy, PARAMS) - truth).mean()
        gaps.append(np.abs(ours(image, energy) - truth).mean())
        assert gaps[-1] == pytest.approx(theirs, abs=1e-4)
    assert np.mean(gaps) < 0.05


def test_exact_mean_field_by_hand() -> None:
    params = replace(PARAMS, iterations=1)
    image = np.array([[[0, 0, 0], [5, 0, 0]]], np.uint8)
    energy = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    near, alike = np.exp(-0.5 / 9), np.exp(-0.5 * (1 / 2500 + 1))
    pull = 3 * (1 - near) / (1 + near) + 10 * (1 - alike) / (1 + alike)
    expected = np.tanh((1 + pull * np.tanh(0.5)) / 2)
    np.testing.assert_allclose(exact_marginals(image, energy, params), [[-expected, expected]])


def test_importing_refinement_imports_no_torch() -> None:
    code = "import sys, a2s.labels.crf; print([n for n in ('torch', 'triton') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    assert done.stdout.strip() == "[]"
