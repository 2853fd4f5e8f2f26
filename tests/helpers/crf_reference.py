"""References for the dense CRF: the exact mean field, and pydensecrf.

Both return Q(foreground) - Q(background); shapes as in `a2s.labels.crf`.
"""

from __future__ import annotations

import cv2
import numpy as np

from a2s.data.arrays import F32, F64, U8
from a2s.labels.crf.energy import CrfParams, hard_energy


def _kernel(features_ND: F64) -> F64:
    """Gaussian of all pairs of pixels (also of a pixel with itself), normalised symmetrically."""
    squares_N = (features_ND**2).sum(1)
    distances_NN = squares_N[:, None] + squares_N - 2 * features_ND @ features_ND.T
    kernel_NN: F64 = np.exp(-0.5 * np.maximum(distances_NN, 0))
    norm_N = 1 / np.sqrt(kernel_NN.sum(1))
    kernel_NN *= norm_N[:, None]
    kernel_NN *= norm_N
    return kernel_NN


def exact_marginals(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F64:
    """Mean field over all pairs of pixels in float64, without the lattice approximation.

    Time and memory are quadratic in the number of pixels, so use images of about 48 x 48.

    Shape: H W 3, 2 N -> H W. Range: -1..1.
    """
    height, width = image_HW3.shape[:2]
    y_N, x_N = (axis.ravel().astype(np.float64) for axis in np.mgrid[:height, :width])
    place_N2 = np.stack([x_N, y_N], axis=1)
    colour_N3 = image_HW3.reshape(-1, 3) / params.bilateral_srgb
    kernel_NN = params.gaussian_compat * _kernel(place_N2 / params.gaussian_sxy)
    kernel_NN += params.bilateral_compat * _kernel(
        np.concatenate([place_N2 / params.bilateral_sxy, colour_N3], axis=1)
    )
    logit_N = energy_2N[0].astype(np.float64) - energy_2N[1]
    s_N = np.tanh(logit_N / 2)
    for _ in range(params.iterations):
        s_N = np.tanh((logit_N + kernel_NN @ s_N) / 2)
    return s_N.reshape(height, width)


def library_marginals(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F32:
    """Mean field of pydensecrf; the backend returns its sign.

    Shape: H W 3, 2 N -> H W. Range: -1..1.
    """
    from pydensecrf.densecrf import DenseCRF2D

    height, width = image_HW3.shape[:2]
    field = DenseCRF2D(width, height, 2)
    field.setUnaryEnergy(energy_2N.copy())
    field.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=image_HW3.copy(),
        compat=params.bilateral_compat,
    )
    q_2N = np.asarray(field.inference(params.iterations))
    return np.asarray((q_2N[1] - q_2N[0]).reshape(height, width))


def rough_case(image: U8, truth: F32, *, side: int, seed: int) -> tuple[U8, F32]:
    """Image at `side` x `side`, and energies of labels as rough as those of activation maps.

    `truth` (0..1) is blurred, perturbed with smooth noise, and thresholded at 0.5.
    """
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    small_truth = cv2.resize(truth, (side, side), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), side / 27)
    rough = cv2.GaussianBlur(small_truth, (0, 0), side / 21) + noise * 0.18 / noise.std()
    labels = (rough > 0.5).astype(np.float32)
    return np.asarray(small, dtype=np.uint8), hard_energy(labels, CrfParams())
