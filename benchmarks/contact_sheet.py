"""Contact sheet of `real_run.py`: photograph, activation map, pseudo label, detector, truth.

    python benchmarks/contact_sheet.py --run runs/real --out runs/real/sheet.png [--rows 12]

The sheet shows photographs of the reference material, so it stays outside the repository.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from a2s.evaluation.pictures.contact_sheet import write_sheet

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path("runs/real"))
    parser.add_argument("--out", type=Path, default=Path("runs/real/sheet.png"))
    parser.add_argument("--rows", type=int, default=12)
    options = parser.parse_args()
    written = write_sheet(
        options.out,
        data=options.run / "ecssd",
        maps=options.run / "preds-stage1",
        labels=options.run / "labels-ecssd",
        preds=options.run / "preds-stage2",
        truth=SHARED / "data" / "ecssd200" / "masks",
        max_rows=options.rows,
    )
    print(f"wrote {options.out}" if written else "nothing to show: run real_run.py first")


if __name__ == "__main__":
    main()
