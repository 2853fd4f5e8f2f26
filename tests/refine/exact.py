"""Dense CRF without approximation: the mean field over all pairs of pixels, in float64.

The model is that of `refine.crf`; the lattices of the backends approximate its Gaussians. Memory and
time grow with the square of the pixels: for images of about 48 x 48.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from a2s.refine.energy import F32, U8, CrfParams

F64 = NDArray[np.float64]


def _kernel(features_ND: F64) -> F64:
    """Gaussian of all pairs, a pixel with itself too, normalised symmetrically. Shape: N D -> N N."""
    squares_N = (features_ND**2).sum(1)
    distances_NN = squares_N[:, None] + squares_N - 2 * features_ND @ features_ND.T
    kernel_NN = np.exp(-0.5 * np.maximum(distances_NN, 0))
    norm_N = 1 / np.sqrt(kernel_NN.sum(1))
    kernel_NN *= norm_N[:, None]
    kernel_NN *= norm_N
    return kernel_NN


def marginals(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F64:
    """Q(foreground) - Q(background) of every pixel.

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
