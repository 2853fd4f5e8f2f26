"""Per-image loss of stage 2, and the rectified labels from the same forward pass. Pure.

M images of one forward pass, S side of the network's input, F = len(loss.measured) numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from a2s.data.transforms import flip_where, is_window, zoom
from a2s.labels.correction.online import rectify
from a2s.training.losses import binarise, consistency_loss_per_image, detection_loss_per_image

LossPerImage = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""(logits, target) -> the parts that add up to the loss, each with a number per image."""


class Loss(NamedTuple):
    """What a detector learns by, and what its parts are called."""

    per_image: LossPerImage
    parts: tuple[str, ...]

    @property
    def measured(self) -> tuple[str, ...]:
        """Per image: the parts, share of foreground in the label, share of pixels changing side."""
        return (*self.parts, "foreground_share", "label_flip_share")


_PAPERS = Loss(detection_loss_per_image, ("bce", "ssim", "iou"))
LOSS_OF = {
    "ram": _PAPERS,
    "conv": _PAPERS,
    "minet": Loss(consistency_loss_per_image, ("bce", "cel")),
}
"""By detector. Sec. IV-F trains MINet "with our pseudo labels" and names no loss; where the same
authors publish how they train MINet (moothes/SALOD), it is with the loss of MINet's paper."""


class Outcome(NamedTuple):
    """Losses, rectified labels and the numbers of `loss.measured` from one forward pass."""

    loss_M: Tensor
    rectified_M1SS: Tensor
    measured_MF: Tensor


def loss_and_labels(
    logits_M1SS: Tensor,
    label_M1SS: Tensor,
    flip_M: Tensor,
    *,
    loss: LossPerImage,
    lam: float,
    hard: bool,
    pinned_M: Tensor | None = None,
    window_M4: Tensor | None = None,
) -> Outcome:
    """Loss of predictions of (perhaps mirrored) images, and their rectified labels.

    Labels come and go in image coordinates; `hard` makes targets of labels > 0.5. The labels of
    images in `pinned_M` (bool) stay as they are, and so do those of images of which the predictions
    show only a window (`window_M4`, `draw_windows`; of the mirrored image).
    Reference: Eqn 12, 13
    """
    target_M1SS = flip_where(label_M1SS, flip_M)
    if window_M4 is not None:
        target_M1SS = zoom(target_M1SS, window_M4)
        seen_M = is_window(window_M4)
        pinned_M = seen_M if pinned_M is None else pinned_M | seen_M
    if hard:
        target_M1SS = binarise(target_M1SS)
    parts = loss(logits_M1SS, target_M1SS)
    probability_M1SS = flip_where(logits_M1SS.detach().float().sigmoid(), flip_M)
    rectified_M1SS = rectify(label_M1SS, probability_M1SS, lam)
    if pinned_M is not None:
        rectified_M1SS = torch.where(pinned_M[:, None, None, None], label_M1SS, rectified_M1SS)
    foreground_M1SS = label_M1SS > 0.5
    shares = foreground_M1SS, (rectified_M1SS > 0.5) != foreground_M1SS
    columns = [*parts, *(share.float().mean((1, 2, 3)) for share in shares)]
    return Outcome(sum(parts[1:], parts[0]), rectified_M1SS, torch.stack(columns, dim=1).detach())


def means(steps: Sequence[Tensor], loss: Loss) -> dict[str, float]:
    """Mean loss over steps, and mean over all their images of every measured number.

    Shape: [images, F] for each step
    """
    total = torch.stack([step[:, : len(loss.parts)].sum(1).mean() for step in steps]).mean()
    columns = zip(loss.measured, torch.cat(list(steps)).mean(0).tolist(), strict=True)
    return {"loss": round(float(total), 6), **{name: round(value, 6) for name, value in columns}}


def micro_batches(
    num_images: int, *, device: torch.device, batchnorm: Literal["frozen", "train"] = "frozen"
) -> list[slice]:
    """How a rank's images go through the network: one at a time on a CPU, together on a GPU.

    The last bits of a convolution depend on its batch size. One image at a time gives every image
    the same prediction by the same weights, for any number of ranks; it costs a CPU no time.
    BatchNorm that trains takes its statistics from the images that go together, so all do.
    """
    one_by_one = device.type == "cpu" and batchnorm == "frozen"
    size = 1 if one_by_one else num_images
    return [slice(first, first + size) for first in range(0, num_images, size)]
