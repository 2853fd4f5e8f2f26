"""The whole pipeline on photographs: 1000 of MSRA-B to learn from, 200 of ECSSD to score.

    python benchmarks/whole_run.py --out runs/whole [more flags of `a2s run`]

Calls `a2s run --init none` once (it resumes) and writes `benchmarks/results/whole_run.{json,md}`:
the scores of every row, the seconds of every step as the run's own log has them, and the peak
memory. Needs the reference material ($A2S_SHARED).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import describe_machine, tree_pss_kib

from a2s.commands.run import read_rows, score_table
from a2s.storage.files import atomic_write, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
RESULT = ROOT / "benchmarks" / "results" / "whole_run"
ENCODER = SHARED / "encoders" / "mobilenet_v2_imagenet.safetensors"
FLAGS = {
    "stage1": ["epochs", "8", "fusion-stride", "8"],
    "stage2": ["epochs", "6", "milestones", "4 5", "precision", "bf16"],
}
KEPT = ("adaptive_f", "adaptive_f_touching", "adaptive_f_not_touching", "ring_share", "mean_f",
        "max_f", "mae", "weighted_f", "s_measure", "e_measure")  # fmt: skip


def command(out: Path, more: list[str]) -> list[str]:
    """The call of `a2s run` and its flags."""
    data = SHARED / "data"
    words = ["run", str(data / "msra1000"), "--out", str(out), "--init", "none"]
    words += ["--test", str(data / "ecssd200" / "images")]
    words += ["--truth", str(data / "ecssd200" / "masks")]
    for stage, flags in FLAGS.items():
        words += [f"--{stage}.encoder.name", "mobilenet_v2"]
        words += [f"--{stage}.encoder.weights", str(ENCODER)]
        for name, values in zip(flags[::2], flags[1::2], strict=True):
            words += [f"--{stage}.{name}", *values.split()]
    return [*words, *more]


def run(words: list[str], out: Path) -> None:
    """Call the command; memory of its processes goes to a file beside the run, for later calls."""
    record = out.with_suffix(".peak.json")
    peak = float(read_json(record)["gib"]) if record.exists() else 0.0
    process = subprocess.Popen([sys.executable, "-m", "a2s", *words])
    while process.poll() is None:
        peak = max(peak, tree_pss_kib(process.pid) / 2**20)
        time.sleep(2)
    write_json(record, {"gib": round(peak, 2)})
    if process.returncode:
        sys.exit(process.returncode)


def steps(out: Path) -> list[dict[str, Any]]:
    """Seconds of every step, over all calls that worked at it, in order."""
    found: dict[str, dict[str, Any]] = {}
    finished = set()
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "elapsed_sec" not in row or row["key"] in finished:
            continue
        name = str(Path(row["out"]).relative_to(out))
        step = found.setdefault(row["key"], {"step": row["job"], "out": name, "seconds": 0.0})
        step["seconds"] = round(step["seconds"] + row["elapsed_sec"], 1)
        if row["exit_code"] == 0:
            finished.add(row["key"])
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/whole"))
    parser.add_argument("--note", default="", help="a sentence for the result")
    options, more = parser.parse_known_args()
    out: Path = options.out
    words = command(out, more)
    run(words, out)
    rows = read_rows(out / "scores")
    timed = steps(out)
    total = sum(step["seconds"] for step in timed)
    shown = shlex.join(["a2s", *words]).replace(str(SHARED), "$A2S_SHARED")
    shown = shown.replace(str(out), "runs/whole")
    document = {
        **describe_machine(),
        "note": options.note,
        "command": shown,
        "minutes": round(total / 60, 1),
        "peak_memory_gib": read_json(out.with_suffix(".peak.json"))["gib"],
        "num_images": rows["detector"]["num_images"],
        "truth_ring_share": rows["detector"]["truth_ring_share"],
        "scores": {
            name: {key: round(float(row[key]), 4) for key in KEPT} for name, row in rows.items()
        },
        "steps": timed,
    }
    write_json(RESULT.with_suffix(".json"), document)
    lines = [
        "# The whole pipeline on real photographs",
        "",
        f"{document['date']}, commit {document['commit']}, {document['hardware']}.",
        "",
        "Learned from 1000 photographs of MSRA-B without masks; scored on 200 of ECSSD.",
        f"{document['minutes']:g} minutes, scoring included; at most "
        f"{document['peak_memory_gib']:g} GiB. {options.note}".rstrip(),
        "",
        score_table(rows).rstrip(),
        "",
        "| step | folder | seconds |",
        "|---|---|---|",
        *(f"| {step['step']} | {step['out']} | {step['seconds']:g} |" for step in timed),
        "",
        "```",
        shown,
        "```",
        "",
    ]
    atomic_write(RESULT.with_suffix(".md"), "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
