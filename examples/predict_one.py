"""Load a trained network of either stage and predict one picture.

    python examples/predict_one.py MODEL PICTURE MASK.png

MODEL is a run folder or a `.safetensors` file. For folders of pictures `a2s predict` is faster.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from a2s.data.arrays import U8
from a2s.data.images import decode, resize_rgb
from a2s.models.boundary import sign
from a2s.models.saved import load_model


@torch.inference_mode()
def predict(model: Path, image_HW3: U8) -> U8:
    """Saliency map of an RGB image, at its own size.

    Shape: H W 3 -> H W. Range: 0..255.
    """
    network, metadata = load_model(model)
    # The model says how images were resized when it was trained.
    side, resize_filter = int(metadata["image_size"]), metadata["resize_filter"]
    small_SS3 = resize_rgb(image_HW3, height=side, width=side, resize_filter=resize_filter)
    # Its encoder knows mean and deviation of the images that it was trained on.
    image_13SS = network.encoder.normalise(torch.from_numpy(small_SS3).permute(2, 0, 1)[None])
    answer = network(image_13SS)
    if metadata["kind"] == "activation":
        # Stage 1: the smaller side of the boundary is foreground (Eqn 5).
        answer = answer.theta * sign(answer.theta, tie=int(metadata["sign_tie"]))
    height, width = image_HW3.shape[:2]
    logits_HW = cv2.resize(answer[0, 0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.rint(255 * torch.from_numpy(logits_HW).sigmoid().numpy()).astype(np.uint8)


def main() -> None:
    """Read the command line."""
    model, picture, mask = map(Path, sys.argv[1:])
    image_HW3 = decode(picture.read_bytes())
    Image.fromarray(predict(model, image_HW3)).save(mask)
    print(f"{mask}: {image_HW3.shape[1]}x{image_HW3.shape[0]}")


if __name__ == "__main__":
    main()
