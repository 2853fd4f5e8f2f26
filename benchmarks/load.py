"""20,000 small images through every step: does a command slow down, or take more, as it goes on?

    python benchmarks/load.py --work DIR [--images 20000] [--steps draw shard label …]

Draws its images (64 x 48 px) and masks into DIR and, with untrained networks at 64 px, runs shard,
label, stage2 (one epoch, at 32 px), predict and evaluate on them, then report. At every line of
progress it looks at the command and all its processes: images done, CPU time, memory (proportional
set size), file descriptors. Between the first and the last third of the images memory and
descriptors must not grow, and the images per second of CPU time must stay within 10 %; the clock is
not judged, because others may use the cores. They also share caches and memory, so that a second of
CPU time is worth less: a product of matrices, timed at every line too, tells how much less, and the
images are counted per second of it (`images_per_probe_sec`). A step that is repeated, also with
other --images, is measured again.
Writes `benchmarks/results/load.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, tree, tree_pss_kib
from memory import save_models
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "load.json"
HEIGHT, WIDTH = 48, 64
SIDE, STAGE2_SIDE = 64, 32
TICK = os.sysconf("SC_CLK_TCK")
MOST_GROWTH, MOST_SLOWER, MORE_FILES = 1.1, 0.9, 8
"""Of the last third against the first: memory, images per CPU second, descriptors."""
STEPS = ("draw", "shard", "label", "stage2", "predict", "evaluate", "report")


def draw(folder: Path, count: int) -> None:
    """Draw discs on noise, with masks, in folders of a thousand."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rng = np.random.default_rng(0)
    for number in range(count):
        row, column = rng.uniform(0.3, 0.7, 2) * (HEIGHT, WIDTH)
        inside = (y - row) ** 2 + (x - column) ** 2 < rng.uniform(7, 15) ** 2
        colour = np.where(inside[..., None], rng.integers(120, 220, 3), rng.integers(0, 100, 3))
        noisy = (colour + rng.integers(0, 30, (HEIGHT, WIDTH, 3))).astype(np.uint8)
        for kind, pixels, suffix in (
            ("images", noisy, ".jpg"),
            ("masks", inside.astype(np.uint8) * 255, ".png"),
        ):
            file = folder / kind / f"{number // 1000:03d}" / f"{number:06d}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG" if suffix == ".jpg" else "PNG")
            file.write_bytes(buffer.getvalue())


def command_of(step: str, work: Path) -> list[str]:
    flags = {
        "shard": [str(work / "images"), "--shard-size", "500"],
        "label": ["--data", str(work / "shard"), "--model", str(work / "stage1.safetensors")],
        "stage2": [
            *("--data", str(work / "shard"), "--labels", str(work / "label"), "--epochs", "1"),
            *("--image-size", str(STAGE2_SIDE), "--batch-size", "64"),
            # BatchNorm that trains sees all images of a step at once; else each goes by itself.
            *("--encoder.name", "mobilenet_v2", "--batchnorm", "train"),
            *("--loader-workers", "2", "--log-every", "10", "--warm-epochs", "0"),
        ],
        "predict": [str(work / "images"), "--model", str(work / "stage2.safetensors")],
        "evaluate": ["--pred", str(work / "predict"), "--truth", str(work / "masks")],
        "report": [str(work / "label")],
    }[step]
    out = work / ("report.html" if step == "report" else step)
    return [sys.executable, "-m", "a2s", step, *flags, "--out", str(out)]


def probe(matrix_NN: np.ndarray) -> float:
    """CPU seconds of a fixed amount of work, which neighbours on the machine make more."""
    began_sec = time.process_time()
    for _ in range(4):
        matrix_NN @ matrix_NN
    return time.process_time() - began_sec


def look(root: int, cpu_by_pid: dict[int, int]) -> dict[str, float]:
    """CPU seconds, memory and descriptors of a process and its descendants.

    `cpu_by_pid` remembers those that end.
    """
    files = 0
    for pid in tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            cpu_by_pid[pid] = sum(map(int, fields[11:13]))
            files += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
    mib = round(tree_pss_kib(root) / 1024, 1)
    return {"cpu_sec": sum(cpu_by_pid.values()) / TICK, "mib": mib, "files": files}


def watch(command: list[str], log: Path) -> tuple[list[dict[str, float]], float, float]:
    """Run a command; what was seen at each line of progress, wall seconds, and peak memory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    seen, peak, started = list[dict[str, float]](), 0.0, time.monotonic()
    cpu_by_pid: dict[int, int] = {}
    matrix_NN = np.random.default_rng(0).random((768, 768), np.float32)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            file.write(line)
            found = re.match(r"\w+: ([\d,]+) of [\d,]+ \(", line)
            if found and process.poll() is None:
                now = {**look(process.pid, cpu_by_pid), "probe_sec": probe(matrix_NN)}
                peak = max(peak, now["mib"])
                done = int(found[1].replace(",", ""))
                seen.append({"done": done, "wall_sec": time.monotonic() - started, **now})
    if process.wait():
        sys.exit(f"{' '.join(command)} ended with {process.returncode}; see {log}")
    return seen, time.monotonic() - started, peak


def judge(seen: list[dict[str, float]], count: int) -> dict[str, Any]:
    """Compare the last third of the images with the first (after a twentieth, to warm up)."""
    # The last line comes when stage 2 has written its labels as shards, too.
    steady = [one for one in seen if count / 20 <= one["done"] < count]
    first = [one for one in steady if one["done"] <= count * 0.35]
    last = [one for one in steady if one["done"] >= count * 0.65]
    if len(first) < 2 or len(last) < 2:
        return {"too_fast_to_compare": len(steady)}

    def rate(part: list[dict[str, float]], clock: str) -> float:
        return (part[-1]["done"] - part[0]["done"]) / (part[-1][clock] - part[0][clock])

    memory = [max(one["mib"] for one in part) for part in (first, last)]
    files = [max(one["files"] for one in part) for part in (first, last)]
    rates = [rate(part, "cpu_sec") for part in (first, last)]
    probes = [statistics.median(one["probe_sec"] for one in part) for part in (first, last)]
    usual = statistics.median(one["probe_sec"] for one in steady)
    judged = [one * sec / usual for one, sec in zip(rates, probes, strict=True)]
    return {
        "memory_mib": memory,
        "descriptors": files,
        "images_per_cpu_sec": [round(one, 1) for one in rates],
        "probe_cpu_ms": [round(1000 * sec, 1) for sec in probes],
        "images_per_probe_sec": [round(one, 1) for one in judged],
        "images_per_wall_sec": [round(rate(part, "wall_sec"), 1) for part in (first, last)],
        "memory_is_flat": memory[1] <= MOST_GROWTH * memory[0],
        "descriptors_are_bounded": files[1] <= files[0] + MORE_FILES,
        "rate_holds": judged[1] >= MOST_SLOWER * judged[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    result: dict[str, Any] = {"steps": {}}
    if args.out.exists():
        result = json.loads(args.out.read_text())
    result |= {"command": f"python benchmarks/load.py --work DIR --images {args.images}"}
    result |= describe_machine()
    for step in args.steps:
        if step == "draw":
            draw(args.work, args.images)
            save_models(args.work, side=SIDE)
            continue
        seen, wall_sec, peak = watch(command_of(step, args.work), args.work / f"{step}.log")
        measured = {"images": args.images, "wall_sec": round(wall_sec, 1)}
        measured |= {"peak_mib": peak, "looks": len(seen)}
        if step != "report":
            measured |= judge(seen, args.images)
        measured["load_average"] = round(os.getloadavg()[0], 1)
        result["steps"][step] = measured
        print(step, measured, flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
