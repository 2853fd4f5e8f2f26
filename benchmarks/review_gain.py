"""What 40 labels that a person fixes in `a2s review` do to a detector that is trained again.

    python benchmarks/review_gain.py --images IMAGES --masks MASKS --work WORK --out FILE.json

The images get labels from the bundled network. A detector learns from them; 40 labels, the first of
the review, are then set to the images' masks through the HTTP interface of the page, as a person
would who draws without fault; another detector learns, with the same settings, from the same labels
and these decisions. Both are scored on the 40 images and on the others. This measures that fixes
reach the detector, on images that it learned from. It says nothing about other images.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from machine import describe_machine

from a2s.data.images import decode_mask

FIXED = 40
TRAINING = [
    *("--init", "bundled", "--image-size", "160", "--epochs", "3", "--warm-epochs", "1"),
    *("--batch-size", "4", "--lr", "0.01", "--init-lr-scale", "1", "--loader-workers", "0"),
]


def a2s(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "a2s", *map(str, arguments)], check=True)


def fix(labels: Path, data: Path, masks: Path) -> list[str]:
    """Set the first labels of the review to their masks; return the images' names."""
    command = [sys.executable, "-m", "a2s", "review", str(labels), "--data", str(data)]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"(http://[\d.:]+)/\?token=(\S+)", process.stdout.readline())
        assert found is not None
        address, token = found.groups()

        def ask(path: str, body: dict[str, Any] | None = None) -> Any:
            request = urllib.request.Request(
                address + path,
                data=None if body is None else json.dumps(body).encode(),
                headers={"X-A2S-Token": token, "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)

        query = ask("/api/find")["query"]
        rows = ask(f"/api/rows?query={query}&first=0&count={FIXED}")["rows"]
        for row in rows:
            mask_HW = decode_mask((masks / f"{row['name']}.png").read_bytes()) > 127
            bits = base64.b64encode(np.packbits(mask_HW).tobytes()).decode()
            shown = {"row": row["row"], "version": row["version"]}
            ask("/api/decide", {**shown, "verdict": "fixed", "mask_bits": bits})
        return [row["name"] for row in rows]
    finally:
        process.terminate()
        process.communicate()


def scores(work: Path, pred: Path, masks: Path, fixed: set[str]) -> dict[str, float]:
    """Mean adaptive F and MAE of the fixed images and of the others."""
    out = work / f"scores-{pred.name}"
    a2s("evaluate", "--pred", pred, "--truth", masks, "--out", out, "--workers", 0)
    rows = pq.read_table(out / "images.parquet").to_pylist()
    found = {}
    for name, wanted in (("fixed", True), ("others", False)):
        chosen = [row for row in rows if (row["key"] in fixed) == wanted]
        found[f"num_{name}"] = len(chosen)
        for column in ("adaptive_f", "mae"):
            found[f"{column}_{name}"] = round(float(np.mean([row[column] for row in chosen])), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("images", "masks", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    work, start = args.work, time.monotonic()
    data, labels = work / "data", work / "labels"
    a2s("shard", args.images, "--out", data, "--workers", 0)
    a2s("label", "--data", data, "--out", labels, "--workers", 0)
    inputs = ["--data", data, "--labels", labels]
    a2s("stage2", *inputs, "--out", work / "before", *TRAINING)
    names = fix(labels, data, args.masks)
    a2s("stage2", *inputs, "--out", work / "after", *TRAINING)
    result: dict[str, Any] = {"labels": scores(work, labels, args.masks, set(names))}
    for run in ("before", "after"):
        maps = work / f"maps-{run}"
        a2s("predict", "--model", work / run, args.images, "--out", maps, "--workers", 0)
        result[f"detector_{run}"] = scores(work, maps, args.masks, set(names))
    record = {
        "what": " ".join((__doc__ or "").split("\n\n")[2].split()),
        "command": "python benchmarks/review_gain.py --images ECSSD/images --masks ECSSD/masks …",
        **describe_machine(),
        "training": TRAINING,
        "scores": result,
        "wall_sec": round(time.monotonic() - start),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
