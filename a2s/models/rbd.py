"""Training-free baseline RBD: saliency from robust background detection, one image at a time.

Regions that are connected to the image's border along similar colours are background. Regions that
contrast with the background are salient. A least-squares problem on the graph of superpixels
combines the two cues. Where paper and authors' program differ, the constants are the program's,
which made the published scores (`benchmarks/rbd.py` measures both).

Shape suffixes: H W the image's size, h w the working size, N superpixels.

Reference: Zhu, Liang, Wei, Sun, "Saliency Optimization from Robust Background Detection", CVPR 2014
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve

from a2s.data.arrays import F64, U8, Bool
from a2s.models.superpixels import MAX_SIDE_PX, Superpixels, area_for, segment

SIGMA_SPACE = 0.4
"""Spatial sigma of the contrast, in fractions of the image; the paper prints 0.25."""
SIGMA_BNDCON = 1.0
MU = 0.1
"""Smoothness weight between neighbours, independent of colour."""
BACKGROUND_WEIGHT = 5.0
CERTAIN_BNDCON = 3.0
"""Superpixels with a larger boundary connectivity are certainly background."""
CERTAIN_WEIGHT = 1000.0
_SMALLEST_ODDS = np.float32(1e-4)
_SMALLEST_LAB = 1e-3
"""Smaller differences of colours and contrasts are rounding errors."""


@dataclass(frozen=True)
class Scales:
    """Scales of colour distance in one image, in Lab units."""

    clip: float
    geodesic: float
    smooth: float


@dataclass(frozen=True, eq=False)
class Steps:
    """Results of each step of the method, per superpixel.

    Shape: all [N].
    Range: contrasts and saliency [0, 1], boundary connectivity >= 0.
    """

    contrast_N: F64
    bndcon_N: F64
    weighted_contrast_N: F64
    foreground_N: F64
    saliency_N: F64


def rbd(image_HW3: U8) -> NDArray[np.float32]:
    """Compute the saliency map of an image; images above `MAX_SIDE_PX` are processed reduced.

    Shape: [H, W, 3] -> [H, W]
    Range: [0, 1], the most salient superpixel has 1; an image of one colour has 0 everywhere.
    """
    height, width = image_HW3.shape[:2]
    map_hw = rbd_reduced(image_HW3)
    if map_hw.shape == (height, width):
        return map_hw
    enlarged = cv2.resize(map_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, dtype=np.float32)


def rbd_log_odds(image_HW3: U8) -> NDArray[np.float32]:
    """Compute the log-odds of `rbd_reduced`, as those of a network's saliency map.

    Shape: [H, W, 3] -> [h, w], at most `MAX_SIDE_PX` pixels a side
    """
    p_hw = rbd_reduced(image_HW3).clip(_SMALLEST_ODDS, 1 - _SMALLEST_ODDS)
    return np.asarray(np.log(p_hw / (1 - p_hw)), dtype=np.float32)


def rbd_reduced(image_HW3: U8) -> NDArray[np.float32]:
    """Compute the saliency map at the working size.

    Shape: [H, W, 3] -> [h, w], both at most `MAX_SIDE_PX`
    Range: [0, 1]
    """
    height, width = image_HW3.shape[:2]
    share = MAX_SIDE_PX / max(height, width)
    if share < 1:
        size = (max(1, round(width * share)), max(1, round(height * share)))
        image_HW3 = np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)
    superpixels = segment(image_HW3, area_px=area_for(*image_HW3.shape[:2]))
    return superpixels.paint(steps(superpixels).saliency_N)


def steps(superpixels: Superpixels) -> Steps:
    """Compute all steps of the method.

    Shape: N superpixels -> [N] each
    """
    colour_NN = distances(superpixels.lab_N3)
    nothing_N = np.zeros(len(colour_NN))
    if colour_NN.max() < _SMALLEST_LAB:
        return Steps(nothing_N, nothing_N, nothing_N, nothing_N, nothing_N)
    adjacent_NN, border_N = superpixels.adjacent_NN, superpixels.on_border_N
    border_NN = border_N[:, None] & border_N
    scales = scales_of(colour_NN, adjacent_NN)

    near_NN = similarity(distances(superpixels.centre_N2), SIGMA_SPACE)
    geodesic_NN = geodesic(colour_NN, adjacent_NN | border_NN, clip=scales.clip)
    bndcon_N = boundary_connectivity(similarity(geodesic_NN, scales.geodesic), border_N)
    background_N = background_probability(bndcon_N)
    weighted_N = stretch(contrast(colour_NN, near_NN, background_N))
    foreground_N = without_low(weighted_N)

    linked_NN = two_rings(adjacent_NN) | border_NN
    smooth_NN = linked_NN * similarity(colour_NN, scales.smooth) + MU * adjacent_NN
    certain_N = np.where(bndcon_N > CERTAIN_BNDCON, CERTAIN_WEIGHT, background_N)
    saliency_N = optimise(BACKGROUND_WEIGHT * certain_N, foreground_N, smooth_NN)
    return Steps(
        contrast_N=stretch(contrast(colour_NN, near_NN, np.ones_like(nothing_N))),
        bndcon_N=bndcon_N,
        weighted_contrast_N=weighted_N,
        foreground_N=foreground_N,
        saliency_N=stretch(saliency_N),
    )


def distances(value_Nd: F64) -> F64:
    """Euclidean distances of all pairs.

    Shape: [N, d] -> [N, N]
    """
    return np.asarray(np.linalg.norm(value_Nd[:, None] - value_Nd, axis=-1))


def similarity(distance_NN: F64, sigma: float, *, reach: float = 3.0) -> F64:
    """Turn distances into Gaussian weights, 0 beyond `reach` sigmas.

    Shape: [N, N]
    Range: [0, 1]
    """
    weight_NN = np.exp(-np.square(distance_NN) / (2 * sigma * sigma))
    return np.where(distance_NN <= reach * sigma, weight_NN, 0.0)


def two_rings(adjacent_NN: Bool) -> Bool:
    """Link neighbours and neighbours of neighbours.

    Shape: [N, N]
    """
    linked_NN: Bool = (adjacent_NN.astype(np.float32) @ adjacent_NN > 0) | adjacent_NN
    np.fill_diagonal(linked_NN, False)
    return linked_NN


def scales_of(colour_NN: F64, adjacent_NN: Bool) -> Scales:
    """Estimate the scales of colour distance within regions and across edges.

    `clip`: colour steps as small as those between the most similar neighbours must not add up along
    a path. `geodesic`: the width of the geodesic weights lies between 5 and 10 Lab units.

    Shape: [N, N], [N, N]; every superpixel has a neighbour
    """

    def least(linked_NN: Bool) -> float:
        return float(np.where(linked_NN, colour_NN, np.inf).min(axis=1).mean())

    ordinary = least(adjacent_NN)
    edges = np.sort(colour_NN[np.tril(adjacent_NN)])
    strongest = float(edges[-max(1, round(0.01 * len(edges))) :].mean())
    return Scales(
        clip=least(two_rings(adjacent_NN)),
        geodesic=max(5.0, min(10.0, 3 * ordinary, strongest / 10)),
        smooth=max(_SMALLEST_LAB, min(20.0, 3 * ordinary, strongest / 5)),
    )


def geodesic(colour_NN: F64, linked_NN: Bool, *, clip: float = 0.0) -> F64:
    """Length of the shortest path over the graph; an edge costs its colour distance above `clip`.

    Shape: [N, N], [N, N] -> [N, N]
    Range: >= 0, infinite between unconnected parts
    """
    rows, columns = np.nonzero(linked_NN)
    # A sparse matrix distinguishes an edge of length 0 from no edge.
    cost = np.maximum(0.0, colour_NN[rows, columns] - clip)
    graph = csr_array((cost, (rows, columns)), shape=colour_NN.shape)
    return np.asarray(dijkstra(graph, directed=False))


def boundary_connectivity(weight_NN: F64, on_border_N: Bool) -> F64:
    """Compute the length of a region's border contact over the square root of its area.

    A superpixel's region is soft: weights are the similarities of geodesic distances.

    Shape: [N, N], [N] -> [N]
    Range: >= 0
    """
    return np.asarray(weight_NN[:, on_border_N].sum(axis=1) / np.sqrt(weight_NN.sum(axis=1)))


def background_probability(bndcon_N: F64) -> F64:
    """Turn boundary connectivity into a probability of being background.

    Shape: [N]
    Range: [0, 1]
    """
    return np.asarray(1 - np.exp(-np.square(bndcon_N) / (2 * SIGMA_BNDCON**2)))


def contrast(colour_NN: F64, near_NN: F64, weight_N: F64) -> F64:
    """Sum the colour distances to all nearby superpixels, weighted by `weight_N`.

    Weights are 1, or the probability of being background (Eqn 8).

    Shape: [N, N], [N, N], [N] -> [N]
    """
    return np.asarray((colour_NN * near_NN) @ weight_N)


def without_low(value_N: F64) -> F64:
    """Set the lower of Otsu's two classes to 0.

    No histogram: most bins would be empty, and the threshold arbitrary between two values.

    Shape: [N], N > 1
    """
    sorted_N = np.sort(value_N)
    num_low = np.arange(1, len(value_N))
    sum_low = np.cumsum(sorted_N)[:-1]
    mean_low = sum_low / num_low
    mean_high = (sorted_N.sum() - sum_low) / (len(value_N) - num_low)
    between = num_low * (len(value_N) - num_low) * np.square(mean_high - mean_low)
    return np.where(value_N < sorted_N[1 + np.argmax(between)], 0.0, value_N)


def optimise(background_N: F64, foreground_N: F64, smooth_NN: F64) -> F64:
    """Minimise sum b s^2 + sum f (s - 1)^2 + sum over pairs w (s_i - s_j)^2.

    Shape: [N], [N], symmetric [N, N] with an empty diagonal -> [N]
    Range: [0, 1]; every connected part needs a positive b or f
    Reference: Eqn 9
    """
    system_NN = np.diag(background_N + foreground_N + smooth_NN.sum(axis=1)) - smooth_NN
    return np.asarray(spsolve(csc_array(system_NN), foreground_N)).reshape(-1)


def stretch(value_N: F64) -> F64:
    """Stretch to 0..1; values that differ only by rounding become 0.

    Shape: [N]
    Range: [0, 1]
    """
    low, high = float(value_N.min()), float(value_N.max())
    if high - low < 1e-9:
        return np.zeros_like(value_N)
    return (value_N - low) / (high - low)
