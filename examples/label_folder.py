"""Make pseudo labels for a folder of photographs, by calling the commands' functions.

    python examples/label_folder.py PHOTOS OUT [--weights mobilenet_v2/imagenet] [--epochs 20]

OUT gets `data/`, `stage1/` and `labels/`. Each step resumes when the program is called again.
Without `--weights` the encoder is untrained: enough to try the program, not to get good labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from a2s.commands import label, shard, stage1
from a2s.config.base import EncoderConfig
from a2s.config.commands import LabelConfig, ShardConfig
from a2s.config.training import Stage1Config


def label_folder(photos: Path, out: Path, *, weights: str, image_size: int, epochs: int) -> Path:
    """Pack the photographs, train stage 1 on them and label them; return the label folder.

    Raises:
        A2SError: an input or setting is wrong; the message is one line.
    """
    data, run, labels = out / "data", out / "stage1", out / "labels"
    encoder = EncoderConfig(name="mobilenet_v2", weights=weights)
    steps = [
        # `workers=0` runs in this process, without Ray.
        (shard.run, ShardConfig(images=(str(photos),), out=data, workers=0)),
        (
            stage1.run,
            Stage1Config(
                data=data,
                out=run,
                encoder=encoder,
                image_size=image_size,
                epochs=epochs,
                loader_workers=0,
            ),
        ),
        (label.run, LabelConfig(model=run, data=data, out=labels, workers=0)),
    ]
    for step, config in steps:
        code = step(config)
        if code:
            raise SystemExit(code)
    return labels


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="none", help="weights of MobileNetV2: file or name")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    label_folder(
        given.photos,
        given.out,
        weights=given.weights,
        image_size=given.image_size,
        epochs=given.epochs,
    )


if __name__ == "__main__":
    main()
