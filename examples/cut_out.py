"""Cut the object out of photographs, with the Python API.

    python examples/cut_out.py OUT PHOTO… [--model MODEL] [--background white]

OUT gets `NAME.png` for each photograph. MODEL is a run folder or a `.safetensors` file; without it
the detector inside the package is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from a2s import Detector


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--background", help="a colour, or blur")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    detector = Detector.load(given.model)
    for photo, prediction in zip(given.photos, detector.predict(given.photos), strict=True):
        file = given.out / f"{photo.stem}.png"
        prediction.cutout(crop=True, background=given.background).save(file)
        share = (prediction.saliency > 0.5).mean()
        print(f"{file}: {share:.0%} of {photo} is foreground")


if __name__ == "__main__":
    main()
