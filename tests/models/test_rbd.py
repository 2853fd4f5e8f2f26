"""RBD: every formula compared with loops over small graphs; edge cases; photographs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from a2s.data.arrays import F64, U8, Bool
from a2s.data.images import decode, decode_mask
from a2s.evaluation.metrics import score
from a2s.models import rbd
from a2s.models.superpixels import Superpixels, area_for, describe, segment


def random_graph(num: int, *, seed: int) -> tuple[np.random.Generator, F64, Bool, Bool]:
    """Colours, a connected graph, and some nodes on the border."""
    rng = np.random.default_rng(seed)
    # Whole numbers: some neighbours have the same colour, and their edge has length 0.
    colour_N3 = rng.integers(0, 4, (num, 3)).astype(float) * 5
    adjacent_NN = rng.random((num, num)) < 0.15
    adjacent_NN[np.arange(num - 1), np.arange(1, num)] = True
    adjacent_NN |= adjacent_NN.T
    np.fill_diagonal(adjacent_NN, False)
    return rng, colour_N3, adjacent_NN, rng.random(num) < 0.4


def square(*, side: int = 120, inner: int = 44, offset: int = 38) -> U8:
    """A red square on a noisy green ground."""
    rng = np.random.default_rng(0)
    image = np.full((side, side, 3), (30, 110, 50), dtype=np.uint8)
    image[offset : offset + inner, offset : offset + inner] = (200, 40, 40)
    return image + rng.integers(0, 12, image.shape, dtype=np.uint8)


def test_distances_of_all_pairs() -> None:
    value = np.random.default_rng(1).normal(size=(7, 3))
    found = rbd.distances(value)
    for i, j in itertools.product(range(7), repeat=2):
        assert found[i, j] == pytest.approx(np.sqrt(sum((value[i] - value[j]) ** 2)), abs=1e-12)


def test_similarity_ends_at_three_sigmas() -> None:
    found = rbd.similarity(np.array([[0.0, 2.0], [6.0, 6.1]]), 2.0)
    np.testing.assert_allclose(found, [[1, np.exp(-0.5)], [np.exp(-4.5), 0]])
    endless = rbd.similarity(np.array([[8.0, np.inf]]), 2.0, reach=np.inf)
    np.testing.assert_allclose(endless, [[np.exp(-8), 0]])


@pytest.mark.parametrize("clip", [0.0, 6.0])
@pytest.mark.parametrize("seed", range(3))
def test_geodesic_is_the_shortest_path(seed: int, clip: float) -> None:
    num = 14
    _, colour_N3, adjacent, _ = random_graph(num, seed=seed)
    colour = rbd.distances(colour_N3)
    best = np.where(adjacent, np.maximum(0, colour - clip), np.inf)
    np.fill_diagonal(best, 0)
    assert (best[adjacent] == 0).any(), "an edge of length 0 belongs to this test"
    for k, i, j in itertools.product(range(num), repeat=3):
        best[i, j] = min(best[i, j], best[i, k] + best[k, j])
    np.testing.assert_allclose(rbd.geodesic(colour, adjacent, clip=clip), best, atol=1e-12)


def test_unconnected_parts_are_infinitely_far() -> None:
    linked = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    colour = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    found = rbd.geodesic(colour, linked)
    np.testing.assert_array_equal(found, [[0, 0, np.inf], [0, 0, np.inf], [np.inf, np.inf, 0]])


def test_two_rings() -> None:
    chain = np.eye(5, k=1, dtype=bool) | np.eye(5, k=-1, dtype=bool)
    expected = [[0 < abs(i - j) <= 2 for j in range(5)] for i in range(5)]
    np.testing.assert_array_equal(rbd.two_rings(chain), expected)


@pytest.mark.parametrize("seed", range(3))
def test_scales(seed: int) -> None:
    num = 20
    _, colour_N3, adjacent, _ = random_graph(num, seed=seed)
    colour = rbd.distances(colour_N3)
    near = [[j for j in range(num) if adjacent[i, j]] for i in range(num)]
    wide = [{k for j in near[i] for k in near[j]} | set(near[i]) for i in range(num)]
    ordinary = sum(min(colour[i, j] for j in near[i]) for i in range(num)) / num
    clip = sum(min(colour[i, j] for j in wide[i] - {i}) for i in range(num)) / num
    edges = sorted((colour[i, j] for i in range(num) for j in near[i] if i < j), reverse=True)
    strongest = edges[0]
    found = rbd.scales_of(colour, adjacent)
    assert len(edges) < 150, "one edge is the top percent"
    assert found.clip == pytest.approx(clip)
    assert found.geodesic == pytest.approx(max(5, min(10, 3 * ordinary, strongest / 10)))
    assert found.smooth == pytest.approx(min(3 * ordinary, strongest / 5, 20))


@pytest.mark.parametrize("seed", range(3))
def test_boundary_connectivity_and_background(seed: int) -> None:
    num = 12
    rng, _, _, border = random_graph(num, seed=seed)
    weight = rng.random((num, num))
    np.fill_diagonal(weight, 1)
    for i in range(num):
        length = sum(weight[i, j] for j in range(num) if border[j])
        bndcon = length / sum(weight[i]) ** 0.5
        found = rbd.boundary_connectivity(weight, border)
        assert found[i] == pytest.approx(bndcon)
        background = 1 - np.exp(-(bndcon**2) / 2)
        assert rbd.background_probability(found)[i] == pytest.approx(background)


def test_contrast() -> None:
    rng = np.random.default_rng(2)
    colour, near, weight = rng.random((6, 6)), rng.random((6, 6)), rng.random(6)
    for i, value in enumerate(rbd.contrast(colour, near, weight)):
        assert value == pytest.approx(sum(colour[i, j] * near[i, j] * weight[j] for j in range(6)))


@pytest.mark.parametrize("seed", range(3))
def test_optimum_is_that_of_a_dense_solver_and_a_minimum(seed: int) -> None:
    num = 15
    rng, colour_N3, adjacent, _ = random_graph(num, seed=seed)
    smooth = adjacent * (rbd.similarity(rbd.distances(colour_N3), 5) + rbd.MU)
    background, foreground = rng.random(num), rng.random(num)
    system = np.zeros((num, num))
    for i in range(num):
        system[i, i] = background[i] + foreground[i] + smooth[i].sum()
        for j in range(num):
            system[i, j] -= smooth[i, j]
    found = rbd.optimise(background, foreground, smooth)
    np.testing.assert_allclose(found, np.linalg.solve(system, foreground), atol=1e-10)

    def cost(s: F64) -> float:
        pairs = sum(
            smooth[i, j] * (s[i] - s[j]) ** 2 for i, j in itertools.combinations(range(num), 2)
        )
        return float((background * s**2).sum() + (foreground * (s - 1) ** 2).sum() + pairs)

    for _ in range(20):
        assert cost(found) < cost(found + rng.normal(scale=0.01, size=num))
    assert found.min() >= 0
    assert found.max() <= 1


def test_low_values_become_0_and_the_rest_stay() -> None:
    value = np.array([0.0, 0.05, 0.1, 0.9, 1.0])
    np.testing.assert_array_equal(rbd.without_low(value), [0, 0, 0, 0.9, 1.0])
    np.testing.assert_array_equal(rbd.without_low(np.array([1.0, 0.0])), [1, 0])
    np.testing.assert_array_equal(rbd.without_low(np.zeros(4)), np.zeros(4))


@pytest.mark.parametrize("seed", range(5))
def test_otsu_s_classes_are_the_most_compact(seed: int) -> None:
    value = np.random.default_rng(seed).gamma(1.0, size=30)

    def within(threshold: float) -> float:
        low, high = value[value < threshold], value[value >= threshold]
        return float(len(low) * low.var() + len(high) * high.var())

    kept = rbd.without_low(value)
    best = min((t for t in value if t > value.min()), key=within)
    np.testing.assert_array_equal(kept, np.where(value < best, 0, value))


def test_stretch_leaves_rounding_at_zero() -> None:
    np.testing.assert_array_equal(rbd.stretch(np.array([2.0, 3.0, 6.0])), [0, 0.25, 1])
    np.testing.assert_array_equal(rbd.stretch(np.array([1.0, 1.0 + 1e-13])), [0, 0])


def test_superpixels_are_measured() -> None:
    # Label 7 has no pixels: labels are renumbered without gaps.
    label = np.array([[0, 0, 2, 2], [0, 5, 5, 2], [0, 5, 5, 2], [9, 9, 9, 9]])
    lab = np.arange(48, dtype=np.float32).reshape(4, 4, 3)
    found = describe(label, lab, border_px=1)
    np.testing.assert_array_equal(
        found.label_HW, [[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 1], [3, 3, 3, 3]]
    )
    np.testing.assert_allclose(found.lab_N3[2], lab[1:3, 1:3].reshape(-1, 3).mean(0))
    np.testing.assert_allclose(found.centre_N2[2], [0.5, 0.5])
    np.testing.assert_array_equal(found.on_border_N, [True, True, False, True])
    expected = [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
    np.testing.assert_array_equal(found.adjacent_NN, np.array(expected, dtype=bool))
    np.testing.assert_array_equal(found.paint(np.array([0.0, 1, 2, 3])), found.label_HW)
    assert describe(label, lab, border_px=2).on_border_N.all()


def test_superpixels_follow_colour() -> None:
    image = square()
    found = segment(image, area_px=area_for(120, 120))
    red = image[..., 0] > 120
    inside = found.paint(np.bincount(found.label_HW.ravel(), red.ravel().astype(float)))
    share = inside / np.bincount(found.label_HW.ravel())[found.label_HW]
    assert np.mean((share > 0.05) & (share < 0.95)) < 0.02
    assert 150 < len(found.lab_N3) < 400


def cut(image: U8) -> Superpixels:
    return segment(image, area_px=area_for(*image.shape[:2]))


def test_steps_separate_the_object_from_the_background() -> None:
    superpixels = cut(square())
    steps = rbd.steps(superpixels)
    red = superpixels.lab_N3[:, 1] > 0
    assert steps.bndcon_N[red].max() < steps.bndcon_N[~red].min()
    assert steps.foreground_N[~red].max() == 0
    assert steps.saliency_N[red].min() > 0.9
    assert steps.saliency_N[~red].max() < 0.1


def test_an_object_on_the_border_is_still_no_background() -> None:
    # Only an eighth of its outline lies on the border, which is weak evidence.
    image = np.roll(square(), -38, axis=0)
    found = rbd.rbd(image)
    red = image[..., 0] > 120
    assert found[red].mean() > 0.8
    assert found[~red].mean() < 0.1


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (3, 1), (1, 33), (1, 5000), (900, 2), (3, 3), (7, 9), (40, 60)]
)
@pytest.mark.parametrize("kind", ["noise", "grey noise", "black", "one colour", "dot"])
def test_edge_case_images_have_a_map(size: tuple[int, int], kind: str) -> None:
    height, width = size
    image = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "grey noise":
        image[:] = image[..., :1]
    elif kind != "noise":
        image[:] = (10, 200, 33) if kind == "one colour" else 0
    if kind == "dot":
        image[height // 3 : height // 3 + 3, width // 3 : width // 3 + 3] = 255
    found = rbd.rbd(image)
    assert found.shape == size
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1
    if kind in ("black", "one colour"):
        assert not found.any()


def test_large_images_are_processed_reduced() -> None:
    small = square()
    large = small.repeat(10, axis=0).repeat(10, axis=1)
    assert rbd.rbd_reduced(large).shape == (400, 400)
    found = rbd.rbd(large)
    assert found.shape == (1200, 1200)
    red = large[..., 0] > 120
    assert found[red].mean() > 0.9
    assert found[~red].mean() < 0.1


def test_the_same_image_has_the_same_map() -> None:
    image = np.random.default_rng(4).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    np.testing.assert_array_equal(rbd.rbd(image), rbd.rbd(image.copy()))


def test_photographs_are_above_the_floor(shared: Path) -> None:
    data = shared / "data" / "ecssd200"
    if not data.is_dir():
        pytest.skip(f"REFERENCE MATERIAL ABSENT: no {data}")
    files = sorted((data / "images").iterdir())[::14]
    scores = []
    for file in files:
        mask = decode_mask((data / "masks" / f"{file.stem}.png").read_bytes())
        found = rbd.rbd(decode(file.read_bytes()))
        scores.append(score(np.rint(found * 255).astype(np.uint8), mask > 128))
    assert np.mean([one.adaptive_f for one in scores]) > 0.6
    assert np.mean([one.mae for one in scores]) < 0.19
