"""How much labels, RBD and the detector agree on a sample of images, without ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from a2s.data.images import decode, decode_mask
from a2s.data.index import Index
from a2s.data.keys import decode_key
from a2s.data.open_files import Address
from a2s.data.origin import refuse_other_images
from a2s.errors import DataError
from a2s.evaluation.metrics import above_adaptive
from a2s.evaluation.pairs import PictureFile
from a2s.evaluation.verdict import Agreement
from a2s.labels.quality import agreement
from a2s.models.rbd import rbd

SAMPLE = 50
"""Images that are compared: RBD takes 4 s for them, and the means are good to about 0.05."""


def sampled_agreement(*, data: Path, labels: Path, preds: Path | None) -> Agreement | None:
    """Compare the masks of images spread evenly over the label shards; None: none can be read.

    Maps are binarised: the detector's, in `preds`, above one half; RBD's at its adaptive threshold.
    An image of which something is missing or damaged is left out, and not in `num_images`.

    Raises: DataError if the labels were made of other images.
    """
    images, made = Index.load(data), Index.load(labels)
    refuse_other_images(made, images, command="run")
    rows = np.unique(np.linspace(0, len(made) - 1, min(SAMPLE, len(made))).round().astype(int))
    with_rbd, with_detector = [], []
    for row, image_row in zip(rows.tolist(), images.rows_of(made.keys_for(rows)), strict=True):
        if image_row < 0:
            continue
        try:
            label_HW = decode_mask(made.read(row)) > 127
            image_HW3 = decode(images.read(int(image_row)))
            if preds is not None:
                file = preds / f"{decode_key(made.key(row))}.png"
                map_HW = decode_mask(PictureFile(Address(str(file))).read())
                with_detector.append(agreement(label_HW, map_HW > 127))
        except DataError:
            continue
        rbd_HW = above_adaptive(rbd(image_HW3).astype(np.float64))
        with_rbd.append(agreement(label_HW, rbd_HW))
    if not with_rbd:
        return None
    return Agreement(
        num_images=len(with_rbd),
        num_sampled=len(rows),
        labels_rbd=float(np.mean(with_rbd)),
        detector_labels=float(np.mean(with_detector)) if with_detector else None,
    )
