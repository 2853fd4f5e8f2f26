"""Historical moving average of CRF-refined predictions: the rule of Table VIII. Pure.

DeepUSPS (Nguyen et al. 2019) improves labels by averaging its network's predictions over epochs.
Per image, after epoch k, with Y the prediction:

    average_k = 0.7 average_(k-1) + 0.3 CRF(Y_k)        label_(k+1) = CRF(average_k)

Paper and published code leave these points open, or do them differently:

- Both CRFs are the same: five iterations, widths 3 px | 80 px and 13 grey levels, compatibilities
  3 | 10, from soft probabilities (energy -log p, not hard labels as in Eqn 6) to the mean field's
  probabilities (no argmax), at the size of the network's square input. The second is a switch in
  that code; here it is part of the rule. Probabilities of 0 are clipped at 1e-5, where the code's
  logarithm is infinite and its result not a number.
- Y there is collected while the epoch trains, from the forward pass before each step. Here it is
  what the model predicts that is committed after the epoch, in evaluation mode and not mirrored: a
  pass of its own over the images, so that training waits for no CRF and every image is predicted
  by the same weights.
- The average there starts from 0, which 25 epochs forget (0.7^25 = 1e-4). After few epochs it does
  not: a label exceeds 0.5 only after three of them. Here it starts from the pseudo labels, which is
  what the first epochs were trained on, at the size of the input.
- Labels there are replaced after a round of 25 epochs, and the network is trained from scratch.
  Table VIII trains one detector with HMA instead of OLR, so here they are replaced after every
  epoch, except, as with OLR, the two warm ones.
- Average and label are kept soft, as 16-bit fixed point (8 bits there). The next epoch compares a
  label with 0.5, as the code does, unless stage 2 uses soft targets.

Shapes: S the side of the network's input, N its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from a2s.data.arrays import F32, U8
from a2s.labels.crf.backends import Marginal
from a2s.labels.crf.energy import CrfParams, soft_energy

KEPT = 0.7
"""Share of the old average that an update keeps."""
CRF = CrfParams(bilateral_sxy=80.0, bilateral_srgb=13.0, iterations=5)


Marginals = Callable[[Sequence[F32]], Iterable[F32]]
"""Probabilities of foreground (S S) of the images of a batch, from their energies (2 N)."""
Each = Callable[..., Iterable[Any]]
"""The builtin `map`, or what gives the same from several threads."""


def averaged(average_SS: F32, refined_SS: F32) -> F32:
    """Move the average towards the CRF-refined prediction.

    Shape: S S, S S -> S S. Range: 0..1.
    """
    return np.clip(np.float32(KEPT) * average_SS + np.float32(1 - KEPT) * refined_SS, 0, 1)


def update(
    image_SS3: U8, probability_SS: F32, average_SS: F32, *, marginal: Marginal
) -> tuple[F32, F32]:
    """New average, and label of the next epoch, from the prediction after an epoch.

    Shape: S S 3, S S, S S -> S S, S S. Range: 0..1.
    """

    def marginals(energies: Sequence[F32]) -> list[F32]:
        return [marginal(image_SS3, energy_2N, CRF) for energy_2N in energies]

    (pair,) = update_batch([probability_SS], [average_SS], marginals=marginals)
    return pair


def update_batch(
    probabilities: Iterable[F32],
    averages: Iterable[F32],
    *,
    marginals: Marginals,
    each: Each = map,
) -> list[tuple[F32, F32]]:
    """New averages and labels of a batch of images; their CRFs are computed together.

    Shape: S S, S S of each -> (S S, S S) of each. Range: 0..1.
    """
    refined = marginals(list(each(_energy, probabilities)))
    new = list(each(averaged, averages, refined))
    labels = marginals(list(each(_energy, new)))
    return [(new_SS, np.clip(label_SS, 0, 1)) for new_SS, label_SS in zip(new, labels, strict=True)]


def _energy(probability_SS: F32) -> F32:
    return soft_energy(probability_SS, CRF)
