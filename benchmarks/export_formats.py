"""Time, memory and size of `a2s export` in every format, and whether memory grows with the labels.

    python benchmarks/export_formats.py LABELS DATA [--rows 1000 10000]

Each format is written by a fresh process with `--workers 0`. The second part packs drawn masks of
240 x 160 pixels again and again, and exports them as COCO without images. Writes
`benchmarks/results/export_formats.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import describe_machine

from a2s.data.images import encode_png
from a2s.data.shards import ShardWriter
from a2s.storage.files import write_json

RESULT = Path(__file__).parent / "results" / "export_formats.json"
WAYS = {
    "coco": ["coco"],
    "coco --polygons": ["coco", "--polygons"],
    "coco --instances": ["coco", "--instances"],
    "yolo": ["yolo"],
    "voc": ["voc"],
    "labelstudio": ["labelstudio"],
    "cvat": ["cvat"],
    "cvat --polygons": ["cvat", "--polygons"],
    "hf": ["hf"],
    "fiftyone": ["fiftyone"],
    "png": ["png"],
}
IMAGE_FOLDERS = {"images", "JPEGImages", "data"}
SHARD = 1000
# From a small process, because a child's peak begins with the memory of the process that forks it.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def export(labels: Path, data: Path, flags: list[str]) -> dict[str, Any]:
    """Export once; return seconds, peak memory, and bytes without images and records."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        words = [sys.executable, "-m", "a2s", "export", labels, "--data", data, "--out", out]
        command = [*map(str, words), "--workers", "0", "--format", *flags]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - start
        cpu_sec, peak_kib = map(float, done.stdout.split())
        files = [path for path in out.rglob("*") if path.is_file()]
        own = [f for f in files if not IMAGE_FOLDERS & set(f.relative_to(out).parts[:-1])]
        return {
            "wall_sec": round(seconds, 2),
            "cpu_sec": round(cpu_sec, 2),
            "peak_memory_mib": round(peak_kib / 1024, 1),
            "bytes_without_images": sum(path.stat().st_size for path in own),
            "bytes": sum(path.stat().st_size for path in files),
        }


def pack_drawn(root: Path, num_labels: int) -> tuple[Path, Path]:
    """Write shards of labels, and of data whose images are the labels."""
    generator, pngs = np.random.default_rng(0), []
    for _ in range(20):
        noise_HW = generator.random((160, 240)).astype(np.float32)
        mask_HW = (cv2.GaussianBlur(noise_HW, (0, 0), 6) > 0.5).astype(np.uint8) * np.uint8(255)
        pngs.append(encode_png(mask_HW))
    folders = root / "labels", root / "data"
    for folder in folders:
        folder.mkdir()
        for number in range(num_labels // SHARD):
            columns = {"width": "int32", "height": "int32", "orientation": "int8"}
            with ShardWriter(
                folder,
                f"shard-{number:06d}",
                columns=columns,
                settings="drawn",
                num_shards=num_labels // SHARD,
            ) as writer:
                for row in range(SHARD):
                    png = {"png": pngs[row % len(pngs)]}
                    key = f"{number}/{row:04d}"
                    writer.add(key, png, width=240, height=160, orientation=1)
    return folders


def main() -> None:
    """Measure and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10_000])
    arguments = parser.parse_args()
    formats = {
        name: export(arguments.labels, arguments.data, flags) for name, flags in WAYS.items()
    }
    drawn = {}
    for num_labels in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            labels, data = pack_drawn(Path(folder), num_labels)
            drawn[str(num_labels)] = export(labels, data, ["coco", "--no-images"])
    result = {
        "machine": describe_machine(),
        "formats": formats,
        "coco_by_number_of_drawn_labels": drawn,
    }
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
