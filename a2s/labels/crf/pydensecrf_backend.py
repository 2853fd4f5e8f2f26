"""pydensecrf backend of the dense CRF: the reference implementation. Only importer of pydensecrf.

It holds the interpreter's lock while it runs. Shapes: image_HW3 uint8 RGB; energy_2N float32 with
N = H * W.
"""

from __future__ import annotations

import numpy as np
from pydensecrf.densecrf import DenseCRF2D

from a2s.data.arrays import F32, U8, Bool
from a2s.labels.crf.energy import CrfParams

IS_BATCHED = False


def crf(image_HW3: U8, energy_2N: F32, params: CrfParams) -> Bool:
    """Most probable label of every pixel after mean-field inference.

    Shape: H W 3, 2 N -> H W. Reference: Eqn 6.
    """
    q_2N = _marginals(image_HW3, energy_2N, params)
    mask_HW: Bool = (q_2N[1] > q_2N[0]).reshape(image_HW3.shape[:2])
    return mask_HW


def foreground_probability(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F32:
    """Mean-field probability of label 1.

    Shape: H W 3, 2 N -> H W. Range: 0..1.
    """
    q_2N = _marginals(image_HW3, energy_2N, params)
    q_HW: F32 = q_2N[1].reshape(image_HW3.shape[:2])
    return q_HW


def _marginals(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F32:
    height, width = image_HW3.shape[:2]
    assert energy_2N.shape == (2, height * width), (energy_2N.shape, image_HW3.shape)
    field = DenseCRF2D(width, height, 2)
    # The library needs writable buffers; arrays from Ray's object store are read-only.
    field.setUnaryEnergy(np.array(energy_2N, dtype=np.float32, order="C"))
    field.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=np.array(image_HW3, dtype=np.uint8, order="C"),
        compat=params.bilateral_compat,
    )
    q_2N: F32 = np.asarray(field.inference(params.iterations), dtype=np.float32)
    return q_2N
