"""Cut photographs into quarters, and put labels of the quarters together again.

    python benchmarks/quarters.py cut IMAGES OUT
    python benchmarks/quarters.py join LABELS IMAGES OUT

`LABELS` is a folder of `a2s label` for the quarters. For images whose objects are small: does a
method find in a quarter what it does not find in the whole?
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from a2s.data.images import decode_mask
from a2s.data.index import Index

CORNERS = ("00", "01", "10", "11")


def halves(size: int) -> tuple[slice, slice]:
    """Both halves of a side, the second one longer by one pixel if the side is odd."""
    return slice(0, size // 2), slice(size // 2, size)


def cut(images: Path, out: Path) -> int:
    """Write every image's quarters as PNG. Returns the number of quarters."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.iterdir()):
        image_HW3 = np.asarray(Image.open(path).convert("RGB"))
        rows, columns = halves(image_HW3.shape[0]), halves(image_HW3.shape[1])
        for corner in CORNERS:
            part = image_HW3[rows[int(corner[0])], columns[int(corner[1])]]
            Image.fromarray(part).save(out / f"{path.stem}-{corner}.png")
    return len(list(out.iterdir()))


def join(labels: Path, images: Path, out: Path) -> int:
    """Write the label of every whole image as PNG. Returns the number of images."""
    out.mkdir(parents=True, exist_ok=True)
    index = Index.load(labels)
    row_by_key = index.rows_by_key()
    for path in sorted(images.iterdir()):
        parts = [decode_mask(index.read(row_by_key[f"{path.stem}-{corner}"])) for corner in CORNERS]
        mask_HW = np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])])
        Image.fromarray(mask_HW.astype(np.uint8)).save(out / f"{path.stem}.png")
    return len(list(out.iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, paths in (("cut", ("images", "out")), ("join", ("labels", "images", "out"))):
        one = commands.add_parser(name)
        for path in paths:
            one.add_argument(path, type=Path)
    args = parser.parse_args()
    if args.command == "cut":
        print(cut(args.images, args.out), "quarters")
    else:
        print(join(args.labels, args.images, args.out), "images")


if __name__ == "__main__":
    main()
