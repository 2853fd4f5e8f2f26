"""Online label rectification: labels move towards what the detector predicts.

Shape suffixes: any shape; labels and probabilities are float32 in 0..1.
"""

from __future__ import annotations

from torch import Tensor


def rectify(label: Tensor, probability: Tensor, lam: float) -> Tensor:
    """Move a label towards a prediction, keeping the share `lam` of the old one.

    Shape: equal shapes -> the same
    Range: 0..1
    Reference: Eqn 13
    """
    return lam * label + (1 - lam) * probability
