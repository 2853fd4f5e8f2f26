"""Refinement of an activation map to a pseudo label: G = median(CRF(sigmoid(sign * theta))), Eqn 6.

Shapes: image_HW3 uint8 RGB; theta_hw float at the network's resolution; H W the image's own size,
S T the working size of CRF and median.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from a2s.data.arrays import F32, U8, Bool
from a2s.labels.crf.backends import Crf
from a2s.labels.crf.energy import CrfParams, Energy, binarise
from a2s.labels.quality import (
    NO_OBJECT_PEAK,
    WEIGHTS,
    Quality,
    QualityWeights,
    agreement,
    border_contact,
    colour_contrast,
    expected_f,
    map_quality,
    num_components,
    thumbnail,
)
from a2s.models.adaptive import at_adaptive_boundary


@dataclass(frozen=True)
class Recipe:
    """Parameters of the refinement; `median` and `max_side` (None: no limit) are in pixels.

    `sign_tie` is the model's rule for ties (`sign`); None if its maps are saliency, whose sign is
    known and whose boundary adapts to the image (`at_adaptive_boundary`).
    """

    energy: Energy
    crf: Crf
    params: CrfParams
    median: int = 7
    max_side: int | None = 640
    sign_tie: int | None = 1
    no_object_peak: float = NO_OBJECT_PEAK
    """Labels of maps whose peak is lower are flagged (`Quality.no_object`)."""
    quality: QualityWeights = WEIGHTS["head"]
    """How the quality numbers give the expected F-measure."""


@dataclass(frozen=True)
class Refined:
    """A label (values 0 and 255, at the image's own size) and its quality numbers."""

    mask_HW: U8
    quality: Quality


def sign(theta_hw: npt.NDArray[np.floating], *, tie: int | None = 1) -> tuple[int, float]:
    """Return the sign of the foreground side and the share of pixels on the positive side.

    The smaller side is foreground; same as `boundary.sign`, without torch. With `tie` None it is
    the positive side. Range: -1, +1 or `tie`; 0..1.
    Reference: Eqn 5.
    """
    share = float((theta_hw >= 0 if tie else theta_hw > 0).mean())
    if tie is None:
        return 1, share
    if share == 0.5:
        return tie, share
    return (1 if share < 0.5 else -1), share


def working_size(height: int, width: int, *, max_side: int | None) -> tuple[int, int]:
    """Height and width at which CRF and median run: at most `max_side`, aspect ratio kept."""
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def probability(
    theta_hw: npt.NDArray[np.floating], *, height: int, width: int, tie: int | None = 1
) -> F32:
    """Resize the signed map bilinearly and turn it into the probability of foreground.

    The sign is computed at the map's own size, because resizing moves pixels across the boundary.
    With `tie` None the map is the log-odds of a saliency map, and the boundary adapts to the image.

    Shape: h w -> H W. Range: 0..1.
    """
    direction, _ = sign(theta_hw, tie=tie)
    signed_hw = direction * theta_hw.astype(np.float32)
    signed_HW = cv2.resize(signed_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    p_HW = _sigmoid(np.asarray(signed_HW, dtype=np.float32))
    return at_adaptive_boundary(p_HW) if tie is None else p_HW


def _sigmoid(logit_HW: F32) -> F32:
    # tanh does not overflow where exp(-x) would.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit_HW)), dtype=np.float32)


def shrink_for_crf(image_HW3: U8, *, max_side: int | None) -> U8:
    """Reduce the image to the working size of the CRF. Shape: H W 3 -> S T 3."""
    height, width = image_HW3.shape[:2]
    s, t = working_size(height, width, max_side=max_side)
    if (s, t) == (height, width):
        return image_HW3
    return np.asarray(cv2.resize(image_HW3, (t, s), interpolation=cv2.INTER_AREA))


def median_filter(mask_HW: npt.NDArray[np.uint8], *, ksize: int = 7) -> npt.NDArray[np.uint8]:
    """Majority vote in a `ksize` x `ksize` window; border pixels are replicated.

    The median of a binary window is its majority value, so counting ones is enough. The result
    equals `cv2.medianBlur` and is many times faster.

    Shape: H W -> H W. Range: 0 or 1, in and out; `ksize` odd.
    """
    assert ksize % 2 == 1, ksize
    depth = cv2.CV_16U if ksize * ksize < 2**16 else cv2.CV_32S
    count_HW = cv2.boxFilter(
        np.array(mask_HW, order="C"),
        depth,
        (ksize, ksize),
        normalize=False,
        borderType=cv2.BORDER_REPLICATE,
    )
    return (count_HW > ksize * ksize // 2).astype(np.uint8)


def refine(image_HW3: U8, theta_hw: npt.NDArray[np.floating], *, recipe: Recipe) -> Refined:
    """Make the pseudo label of one image.

    Shape: H W 3, h w -> H W. Range: 0 or 255. Reference: Eqn 5, Eqn 6.
    """
    height, width = image_HW3.shape[:2]
    small_ST3 = shrink_for_crf(image_HW3, max_side=recipe.max_side)
    p_ST = probability(
        theta_hw, height=small_ST3.shape[0], width=small_ST3.shape[1], tie=recipe.sign_tie
    )
    crf_ST = recipe.crf(small_ST3, recipe.energy(p_ST, recipe.params), recipe.params)
    return median_and_quality(
        crf_ST, theta_hw, p_ST, thumbnail(small_ST3), height=height, width=width, recipe=recipe
    )


def median_and_quality(
    crf_ST: Bool,
    theta_hw: npt.NDArray[np.floating],
    p_ST: F32,
    thumbnail_TT3: U8,
    *,
    height: int,
    width: int,
    recipe: Recipe,
) -> Refined:
    """Median-filter the CRF's mask, resize it to the image's own size, compute its quality.

    Shape: S T, h w, S T, T T 3 -> H W. Range: 0 or 255. Reference: Eqn 6.
    """
    label_ST = median_filter(crf_ST.astype(np.uint8), ksize=recipe.median)
    mask_HW = label_ST * np.uint8(255)
    if label_ST.shape != (height, width):
        soft_HW = cv2.resize(mask_HW, (width, height), interpolation=cv2.INTER_LINEAR)
        mask_HW = np.where(soft_HW > 127, np.uint8(255), np.uint8(0))
    direction, share = sign(theta_hw, tie=recipe.sign_tie)
    foreground_HW = mask_HW > 0
    on_map = map_quality(_sigmoid(direction * theta_hw.astype(np.float32)), foreground_HW)
    area_share, contact = float(foreground_HW.mean()), border_contact(foreground_HW)
    contrast, components = (
        colour_contrast(thumbnail_TT3, foreground_HW),
        num_components(foreground_HW),
    )
    decision_margin, sign_margin = float(np.abs(p_ST - 0.5).mean()), abs(0.5 - share)
    row = Quality(
        quality=expected_f(
            on_map,
            colour_contrast=contrast,
            border_contact=contact,
            num_components=components,
            area_share=area_share,
            decision_margin=decision_margin,
            sign_margin=sign_margin,
            weights=recipe.quality,
        ),
        no_object=area_share == 0 or on_map.peak < recipe.no_object_peak,
        area_share=area_share,
        border_contact=contact,
        decision_margin=decision_margin,
        sign_margin=sign_margin,
        crf_agreement=agreement(binarise(p_ST), label_ST > 0),
        num_components=components,
        map_overlap=on_map.overlap,
        map_inside=on_map.inside,
        map_peak=on_map.peak,
        colour_contrast=contrast,
        inverted=direction < 0,
    )
    return Refined(mask_HW, row)
