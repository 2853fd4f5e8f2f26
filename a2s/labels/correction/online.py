"""Online label rectification (OLR): move labels towards the detector's predictions. Pure.

Labels and probabilities are float32 in 0..1, of any shape.
"""

from __future__ import annotations

from torch import Tensor


def rectify(label: Tensor, probability: Tensor, lam: float) -> Tensor:
    """Move a label towards a prediction: lam * label + (1 - lam) * probability.

    Shape: equal shapes -> the same shape
    Range: 0..1
    Reference: Eqn 13
    """
    return lam * label + (1 - lam) * probability
